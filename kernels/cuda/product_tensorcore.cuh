// tensorcore: warps multiply with mma.sync, the instruction of the matrix units: tf32, bfloat16 or float16 operands,
// float sums.
//
//   Matrix units       One instruction of a warp makes 16×8×16 multiply-adds of 2-byte elements (16×8×8 of 4-byte
//                      ones), where `pipelined` needs 64 (32) instructions. So what limits the loop is no longer
//                      arithmetic, but how fast operands arrive in registers.
//   Warp tiles         A warp computes WARP_M×WARP_N of the result. Of each 32 bytes of depth it reads WARP_M + WARP_N
//                      sides, and uses each of them WARP_N or WARP_M times.
//   ldmatrix           One instruction reads a 16-side fragment, in the layout that mma.sync asks for (fragments.cuh).
//   Two sets           While one set of fragments is multiplied, the next one is read, also across the barrier between
//                      two tiles: the matrix units do not wait for shared memory.
//   Pipelining         As in `pipelined`, with cp.async: STAGES tiles are in shared memory, one barrier a tile.
//   No guards          As in `pipelined`: the tile that depth does not fill comes first, padded with zeros; rows and
//                      columns outside are clamped.
//   No bank conflicts  See FragmentPlace.
//
// Shapes are a block's TILE_M×TILE_N of the result, and TILE_K of the depth at a time. mma.sync is in every chip from
// sm_80 on; the newer instructions of single generations (Hopper's wgmma, Blackwell's tcgen05) are faster there, and
// not used.
#pragma once

#include "epilogues.cuh"
#include "fragments.cuh"
#include "tile_place.cuh"

// The plan of one kernel; gpubp/backends/plans.py has the same numbers and checks what they must fulfill.
//   VECTOR: elements a copy moves: 16 bytes of them, or 2 or 1 for rows that do not start on 16-byte boundaries.
template <int TILE_M_, int TILE_N_, int TILE_K_, int WARP_M_, int WARP_N_, int STAGES_, int VECTOR_>
struct WarpPipeline {
    static constexpr int TILE_M = TILE_M_, TILE_N = TILE_N_, TILE_K = TILE_K_;
    static constexpr int WARP_M = WARP_M_, WARP_N = WARP_N_;
    static constexpr int STAGES = STAGES_, VECTOR = VECTOR_;
    static constexpr int WARPS_N = TILE_N / WARP_N;
    static constexpr int THREADS = TILE_M / WARP_M * WARPS_N * 32;
    static_assert(TILE_M % WARP_M == 0 && TILE_N % WARP_N == 0, "warps cover the tile");
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "fragments cover a warp's piece");
};

// The product over depths first_depth .. last_depth − 1 of `depth`; at least one, first_depth a multiple of 16 bytes.
template <class Form, class P, typename T, class Epilogue>
__device__ __forceinline__ void product_tensorcore(
    const T* a, const T* b, int64 m, int64 n, int64 depth, int64 first_depth, int64 last_depth,
    const Epilogue& epilogue) {
    using ATile = FragmentTile<Operand::a, T, Form::a, P::TILE_M, P::TILE_K, P::VECTOR, P::THREADS>;
    using BTile = FragmentTile<Operand::b, T, Form::b, P::TILE_N, P::TILE_K, P::VECTOR, P::THREADS>;
    constexpr int STAGE = ATile::SIZE + BTile::SIZE;  // elements: the tile of A, then the tile of B
    constexpr int STEPS = P::TILE_K / ATile::DEPTH, A_GROUPS = P::WARP_M / 16, B_GROUPS = P::WARP_N / 16;
    static_assert(STEPS % 2 == 0, "the two sets of fragments take turns");
    extern __shared__ __align__(128) unsigned char shared[];  // STAGES · STAGE elements
    T* stages = reinterpret_cast<T*>(shared);

    TilePlace place(blockIdx.x, unsigned((m + P::TILE_M - 1) / P::TILE_M), unsigned((n + P::TILE_N - 1) / P::TILE_N));
    int64 first_row = int64(place.row) * P::TILE_M, first_column = int64(place.column) * P::TILE_N;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int warp_row = warp / P::WARPS_N * P::WARP_M, warp_column = warp % P::WARPS_N * P::WARP_N;  // in the tile
    unsigned a_start = ATile::start(warp_row, lane), b_start = BTile::start(warp_column, lane);

    ATile a_tile(a, first_row, first_depth, m, depth);
    BTile b_tile(b, first_column, first_depth, n, depth);
    int tiles = int((last_depth - first_depth + P::TILE_K - 1) / P::TILE_K);
    int present = int(last_depth - first_depth - int64(tiles - 1) * P::TILE_K);  // of the first tile's depth

    a_tile.fetch_first(stages, present);
    b_tile.fetch_first(stages + ATile::SIZE, present);
    a_tile.land(stages);
    b_tile.land(stages + ATile::SIZE);
    commit_copies();
#pragma unroll
    for (int stage = 1; stage < P::STAGES - 1; ++stage) {
        if (stage < tiles) {
            a_tile.fetch(stages + stage * STAGE);
            b_tile.fetch(stages + stage * STAGE + ATile::SIZE);
            a_tile.land(stages + stage * STAGE);
            b_tile.land(stages + stage * STAGE + ATile::SIZE);
        }
        commit_copies();
    }

    float sums[A_GROUPS][2 * B_GROUPS][4] = {};
    unsigned a_parts[2][A_GROUPS][4], b_parts[2][B_GROUPS][4];
    auto read_fragments = [&](int set, int stage, int step) {
        unsigned tile = unsigned(__cvta_generic_to_shared(stages + stage));
#pragma unroll
        for (int i = 0; i < A_GROUPS; ++i) ATile::read(a_parts[set][i], tile, a_start, i, step);
#pragma unroll
        for (int j = 0; j < B_GROUPS; ++j)
            BTile::read(b_parts[set][j], tile + ATile::SIZE * sizeof(T), b_start, j, step);
    };

    int reading = 0, writing = (P::STAGES - 1) * STAGE;  // offsets in `stages`
    wait_for_copies<P::STAGES - 2>();
    __syncthreads();  // the first tile has arrived from every thread
    read_fragments(0, reading, 0);
    for (int tile = 0; tile < tiles; ++tile) {
        bool more = tile + P::STAGES - 1 < tiles;
        if (more) {
            a_tile.fetch(stages + writing);
            b_tile.fetch(stages + writing + ATile::SIZE);
        }
        commit_copies();

#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (step == STEPS - 1) {
                wait_for_copies<P::STAGES - 2>();
                __syncthreads();  // the next tile has arrived from every thread, and nobody reads this one any more
                // after the last tile there is no other: its first fragments are read again, and not used
                if (tile + 1 < tiles) reading = reading + STAGE == P::STAGES * STAGE ? 0 : reading + STAGE;
            }
            read_fragments((step + 1) % 2, reading, (step + 1) % STEPS);
#pragma unroll
            for (int i = 0; i < A_GROUPS; ++i)
#pragma unroll
                for (int j = 0; j < 2 * B_GROUPS; ++j) {
                    const unsigned* b_part = b_parts[step % 2][j / 2] + j % 2 * 2;
                    multiply_fragments<T>(sums[i][j], a_parts[step % 2][i], b_part[0], b_part[1]);
                }
        }

        if (more) {
            a_tile.land(stages + writing);
            b_tile.land(stages + writing + ATile::SIZE);
        }
        writing = writing + STAGE == P::STAGES * STAGE ? 0 : writing + STAGE;
    }

    constexpr bool interleaved = BTile::Place::interleaved;
    float rows[2 * A_GROUPS][4 * B_GROUPS];
#pragma unroll
    for (int i = 0; i < 2 * A_GROUPS; ++i) gather_row<interleaved>(rows[i], sums[i / 2], i % 2, lane);
    int64 row = first_row + warp_row, column = first_column + warp_column + first_column_of<interleaved>(lane);
    auto row_of = [=](int i) { return row + i / 2 * 16 + ATile::Place::side_of(lane / 4, i % 2); };
    auto column_of = [=](int j) { return column + j * 16; };
    finish_sums<4>(rows, m, n, row_of, column_of, epilogue);
}
