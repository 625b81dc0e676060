// tensorcore: warps multiply with mma.sync, the instruction of the matrix units: tf32, bfloat16 or float16 operands,
// float sums; or doubles, on chips where that is faster than threads are.
//
//   Matrix units       One instruction of a warp makes 16×8×16 multiply-adds of 2-byte elements (16×8×8 of 4-byte
//                      ones), where `pipelined` needs 64 (32) instructions. So what limits the loop is no longer
//                      arithmetic, but how fast operands arrive in registers.
//   Warp tiles         A warp computes WARP_M×WARP_N of the result. Of each 32 bytes of depth it reads WARP_M + WARP_N
//                      sides, and uses each of them WARP_N or WARP_M times.
//   ldmatrix           One instruction reads a 16-side fragment, in the layout that mma.sync asks for (fragments.cuh);
//                      lanes read doubles one by one (double_fragments.cuh).
//   Two sets           While one set of fragments is multiplied, the next one is read, also across the barrier between
//                      two tiles: the matrix units do not wait for shared memory.
//   Pipelining         As in `pipelined`, with cp.async: STAGES tiles are in shared memory, one barrier a tile.
//   No guards          As in `pipelined`: the tile that depth does not fill comes first, padded with zeros; rows and
//                      columns outside are clamped.
//   No bank conflicts  See FragmentPlace.
//
// Shapes are a block's TILE_M×TILE_N of the result, and TILE_K of the depth at a time. mma.sync is in every chip from
// sm_80 on. Single generations have faster ones: Hopper's are those of `wgmma`, and Blackwell's (tcgen05) are not used.
#pragma once

#include "double_fragments.cuh"
#include "epilogues.cuh"
#include "fragments.cuh"
#include "tile_place.cuh"

// gpubp/backends/plans.py chooses the sizes and checks what they must meet.
//   VECTOR: elements a copy moves: 16 bytes of them, or 2 or 1 for rows that do not start on 16-byte boundaries.
template <int ROWS, int COLUMNS, int DEPTH, int WARP_M, int WARP_N, int STAGES, int VECTOR>
struct TensorCore {
    static constexpr int TILE_M = ROWS, TILE_N = COLUMNS, TILE_K = DEPTH;
    static constexpr int WARPS_N = TILE_N / WARP_N;
    static constexpr int THREADS = TILE_M / WARP_M * WARPS_N * 32, BLOCKS = 1;
    static_assert(TILE_M % WARP_M == 0 && TILE_N % WARP_N == 0, "warps cover the tile");
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "fragments cover a warp's piece");

    static constexpr int A_GROUPS = WARP_M / 16, B_GROUPS = WARP_N / 16;

    using Place = TilePlace<TILE_M, TILE_N>;
    template <typename T>
    using Sums = Accumulator<T>[A_GROUPS][2 * B_GROUPS][4];  // of a lane, as fragments of C
    template <class Form, typename T>
    using TileOfA = FragmentTile<Factor::a, T, Form::a, TILE_M, TILE_K, VECTOR, THREADS>;
    template <class Form, typename T>
    using TileOfB = FragmentTile<Factor::b, T, Form::b, TILE_N, TILE_K, VECTOR, THREADS>;

    // Where the piece of a thread's warp begins in the tile.
    static __device__ __forceinline__ int warp_row(int thread) { return thread / 32 / WARPS_N * WARP_M; }
    static __device__ __forceinline__ int warp_column(int thread) { return thread / 32 % WARPS_N * WARP_N; }

    template <class Form, typename T, class Epilogue>
    static __device__ __forceinline__ void compute(const Product<Form, T>& product, const Epilogue& epilogue) {
        Place place(blockIdx.x, product.m(), product.n());
        Sums<T> sums = {};
        int thread = threadIdx.x;
        sum_up(product, place, thread, sums);
        finish(product, place, thread, sums, epilogue);
    }

    // Add this lane's sums of a tile to `sums`. product.first is a multiple of 16 bytes, and at least one depth lies
    // behind it.
    template <class Form, typename T>
    static __device__ __forceinline__ void sum_up(
        const Product<Form, T>& product, const Place& place, int thread, Sums<T>& sums) {
        using ATile = TileOfA<Form, T>;
        using BTile = TileOfB<Form, T>;
        constexpr int STAGE = ATile::SIZE + BTile::SIZE;  // elements: the tile of A, then the tile of B
        constexpr int STEPS = TILE_K / ATile::DEPTH;
        static_assert(STEPS % 2 == 0, "the two sets of fragments take turns");
        extern __shared__ __align__(128) unsigned char shared[];  // STAGES · STAGE elements
        T* stages = reinterpret_cast<T*>(shared);

        int lane = thread % 32;
        unsigned a_start = ATile::start(warp_row(thread), lane), b_start = BTile::start(warp_column(thread), lane);

        ATile a_tile(product.a, place.row, product.first, thread);
        BTile b_tile(product.b, place.column, product.first, thread);
        int64 length = product.last - product.first;
        int tiles = int((length + TILE_K - 1) / TILE_K);
        int present = int(length - int64(tiles - 1) * TILE_K);  // of the first tile's depth

        a_tile.fetch_first(stages, present);
        b_tile.fetch_first(stages + ATile::SIZE, present);
        a_tile.land(stages);
        b_tile.land(stages + ATile::SIZE);
        commit_copies();
#pragma unroll
        for (int stage = 1; stage < STAGES - 1; ++stage) {
            if (stage < tiles) {
                a_tile.fetch(stages + stage * STAGE);
                b_tile.fetch(stages + stage * STAGE + ATile::SIZE);
                a_tile.land(stages + stage * STAGE);
                b_tile.land(stages + stage * STAGE + ATile::SIZE);
            }
            commit_copies();
        }

        FragmentWord<T> a_parts[2][A_GROUPS][4], b_parts[2][B_GROUPS][4];
        auto read_fragments = [&](int set, int stage, int step) {
            unsigned tile = unsigned(__cvta_generic_to_shared(stages + stage));
#pragma unroll
            for (int i = 0; i < A_GROUPS; ++i) ATile::read(a_parts[set][i], tile, a_start, i, step);
#pragma unroll
            for (int j = 0; j < B_GROUPS; ++j)
                BTile::read(b_parts[set][j], tile + ATile::SIZE * sizeof(T), b_start, j, step);
        };

        int reading = 0, writing = (STAGES - 1) * STAGE;  // offsets in `stages`
        wait_for_copies<STAGES - 2>();
        __syncthreads();  // the first tile has arrived from every thread
        read_fragments(0, reading, 0);
        for (int tile = 0; tile < tiles; ++tile) {
            bool more = tile + STAGES - 1 < tiles;
            if (more) {
                a_tile.fetch(stages + writing);
                b_tile.fetch(stages + writing + ATile::SIZE);
            }
            commit_copies();

#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                if (step == STEPS - 1) {
                    wait_for_copies<STAGES - 2>();
                    __syncthreads();  // the next tile has arrived from every thread, and nobody reads this one any more
                    // after the last tile there is no other: its first fragments are read again, and not used
                    if (tile + 1 < tiles) reading = reading + STAGE == STAGES * STAGE ? 0 : reading + STAGE;
                }
                read_fragments((step + 1) % 2, reading, (step + 1) % STEPS);
#pragma unroll
                for (int i = 0; i < A_GROUPS; ++i)
#pragma unroll
                    for (int j = 0; j < 2 * B_GROUPS; ++j) {
                        const FragmentWord<T>* b_part = b_parts[step % 2][j / 2] + j % 2 * 2;
                        multiply_fragments<T>(sums[i][j], a_parts[step % 2][i], b_part[0], b_part[1]);
                    }
            }

            if (more) {
                a_tile.land(stages + writing);
                b_tile.land(stages + writing + ATile::SIZE);
            }
            writing = writing + STAGE == STAGES * STAGE ? 0 : writing + STAGE;
        }
    }

    template <class Form, typename T, class Epilogue>
    static __device__ __forceinline__ void finish(
        const Product<Form, T>& product, const Place& place, int thread, Sums<T>& sums, const Epilogue& epilogue) {
        using ATile = TileOfA<Form, T>;
        constexpr bool interleaved = TileOfB<Form, T>::Place::interleaved;
        using A = Accumulator<T>;
        constexpr int W = WIDEST<A>;
        int lane = thread % 32;
        A rows[2 * A_GROUPS][4 * B_GROUPS];
#pragma unroll
        for (int i = 0; i < 2 * A_GROUPS; ++i) gather_row<interleaved>(rows[i], sums[i / 2], i % 2, lane);
        int64 row = place.row + warp_row(thread);
        int64 column = place.column + warp_column(thread) + first_column_of<interleaved, A>(lane);
        auto row_of = [=](int i) { return row + i / 2 * 16 + ATile::Place::side_of(lane / 4, i % 2); };
        auto column_of = [=](int j) { return column + j * 4 * W; };
        finish_sums<W>(rows, product.m(), product.n(), row_of, column_of, epilogue);
    }
};
