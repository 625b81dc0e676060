// pipelined: tiles arrive in shared memory while the ones before them are being used.
//
// In `blocked` all threads of a block wait for a tile, and then memory waits for them. Here neither waits for the other:
//
//   Pipelining         STAGES tiles are in shared memory: while one is used, the next STAGES − 1 are on their way, and
//                      one barrier a tile is enough.
//   16-byte accesses   Global to shared and shared to registers: a quarter of the instructions.
//   No guards          The main loop runs over whole tiles and checks nothing. The tile that depth does not fill comes
//                      first, padded with zeros, before the loop. Rows and columns outside the operand are clamped to
//                      its last ones: their sums are never stored.
//   No bank conflicts  See ThreadPlace.
//
// A block computes TILE_M×TILE_N of the result, a thread THREAD_M×THREAD_N of that in registers, as in `blocked`, TILE_K
// depths at a time. Threads stand as THREADS_M×THREADS_N over the tile, a warp as 4×8 of them.
#pragma once

#include "copies.cuh"
#include "epilogues.cuh"
#include "tile_place.cuh"

// Where one operand's sides and depths lie in a tile, PER_THREAD sides for a thread (see TileCopies).
//
// A depth-contiguous operand lies as [slot][depth]. A thread's PER_THREAD sides are THREADS slots apart: neighbouring
// threads read neighbouring slots. The 16-byte units of a slot are permuted by an exclusive or with the slot's number
// (`swizzle`), so that 8 neighbouring slots, read at one depth, lie in 8 different groups of banks.
//
// The side of slot t + i · THREADS is the one at `side_of(t, i)`: runs of W neighbours belong to one thread in either
// layout, so that the epilogue can move them by one access.
template <typename T, Layout LAYOUT, int SIDE, int PER_THREAD, int TILE_K>
struct ThreadPlace {
    static constexpr bool by_depth = LAYOUT == Layout::depth_contiguous;
    static constexpr int UNITS = TILE_K / WIDEST<T>;               // 16-byte units of a slot
    static constexpr int SLOTS_A_LINE = UNITS < 8 ? 8 / UNITS : 1;  // slots in 128 bytes, one pass over all banks
    static constexpr int THREADS = SIDE / PER_THREAD;
    static constexpr int W = PER_THREAD < WIDEST<T> ? PER_THREAD : WIDEST<T>;
    static_assert(TILE_K % WIDEST<T> == 0 && PER_THREAD % W == 0, "16-byte units fit");

    static __device__ __forceinline__ int side_of(int thread, int i) {
        return (i / W) * (THREADS * W) + thread * W + i % W;
    }
    static __device__ __forceinline__ int side_of(int slot) { return side_of(slot % THREADS, slot / THREADS); }

    static constexpr bool swizzled = by_depth;
    static __device__ __forceinline__ int swizzle(int slot) { return slot / SLOTS_A_LINE % (UNITS < 8 ? UNITS : 8); }
};

// One operand's tiles: copied as above, and read into registers.
template <typename T, Layout LAYOUT, int SIDE, int PER_THREAD, int TILE_K, int VECTOR, int BLOCK_THREADS>
struct OperandTile : TileCopies<T, LAYOUT, SIDE, TILE_K, VECTOR, BLOCK_THREADS,
                                ThreadPlace<T, LAYOUT, SIDE, PER_THREAD, TILE_K>> {
    using Place = ThreadPlace<T, LAYOUT, SIDE, PER_THREAD, TILE_K>;
    using Copies = TileCopies<T, LAYOUT, SIDE, TILE_K, VECTOR, BLOCK_THREADS, Place>;
    using Copies::by_depth;
    using Copies::UNIT;
    static constexpr int UNITS = Place::UNITS, THREADS = Place::THREADS, W = Place::W;

    using Copies::Copies;

    // Where a thread's values begin in the tile.
    static __device__ __forceinline__ int start(int thread) {
        return by_depth ? pinned(thread * TILE_K + Place::swizzle(thread) * UNIT) : thread * W;
    }

    // values[i][v] = element (side_of(thread, i), unit · UNIT + v) of the tile at stages[offset].
    static __device__ __forceinline__ void read(
        const T* stages, int offset, int start, int unit, T (&values)[PER_THREAD][UNIT]) {
#pragma unroll
        for (int i = 0; by_depth && i < PER_THREAD; ++i) read_slot(stages, offset, start, unit, i, values[i]);
#pragma unroll
        for (int v = 0; !by_depth && v < UNIT; ++v) {
            T values_of_depth[PER_THREAD];
            read_depth(stages, offset, start, unit, v, values_of_depth);
#pragma unroll
            for (int i = 0; i < PER_THREAD; ++i) values[i][v] = values_of_depth[i];
        }
    }

    // values[v] = element (side_of(thread, i), unit · UNIT + v), of a depth-contiguous operand.
    static __device__ __forceinline__ void read_slot(
        const T* stages, int offset, int start, int unit, int i, T (&values)[UNIT]) {
        // the exclusive or works on the whole offset, all else of which is a multiple of TILE_K: one instruction
        const T* mine = stages + (offset + start ^ unit * UNIT);
        load_run(values, mine + i * THREADS * TILE_K, UNIT, true);
    }

    // values[i] = element (side_of(thread, i), unit · UNIT + v), of a side-contiguous operand.
    static __device__ __forceinline__ void read_depth(
        const T* stages, int offset, int start, int unit, int v, T (&values)[PER_THREAD]) {
        const T* mine = stages + offset + start + (unit * UNIT + v) * SIDE;
#pragma unroll
        for (int g = 0; g < PER_THREAD / W; ++g) {
            T run[W];
            load_run(run, mine + g * THREADS * W, W, true);
#pragma unroll
            for (int w = 0; w < W; ++w) values[g * W + w] = run[w];
        }
    }
};

// gpubp/backends/plans.py chooses the sizes and checks what they must meet.
//   STAGES: tiles in shared memory (2 without cp.async); VECTOR: elements a copy moves, WIDEST<T> or, for rows that do
//   not start on 16-byte boundaries, 1.
template <int ROWS, int COLUMNS, int DEPTH, int THREAD_M, int THREAD_N, int MOST_STAGES, int VECTOR>
struct Pipelined {
    static constexpr int TILE_M = ROWS, TILE_N = COLUMNS, TILE_K = DEPTH;
    static constexpr int STAGES = GPUBP_CP_ASYNC ? MOST_STAGES : 2;
    static constexpr int THREADS_M = TILE_M / THREAD_M, THREADS_N = TILE_N / THREAD_N;
    static constexpr int THREADS = THREADS_M * THREADS_N, BLOCKS = 1;
    static_assert(TILE_M % THREAD_M == 0 && TILE_N % THREAD_N == 0, "threads cover the tile");
    static_assert(THREADS_M % 8 == 0 && THREADS_N % 8 == 0, "a warp is 4x8 threads, the swizzle repeats every 8 rows");

    using Place = TilePlace<TILE_M, TILE_N>;
    template <typename T>
    using Sums = T[THREAD_M][THREAD_N];  // of a thread
    template <class Form, typename T>
    using TileOfA = OperandTile<T, Form::a, TILE_M, THREAD_M, TILE_K, VECTOR, THREADS>;
    template <class Form, typename T>
    using TileOfB = OperandTile<T, Form::b, TILE_N, THREAD_N, TILE_K, VECTOR, THREADS>;

    // A thread's place in the tile.
    static __device__ __forceinline__ int thread_m(int thread) {  // 0 .. THREADS_M − 1
        int warp = thread / 32, lane = thread % 32;
        return lane / 8 + warp / (THREADS_N / 8) * 4;
    }
    static __device__ __forceinline__ int thread_n(int thread) {  // 0 .. THREADS_N − 1
        int warp = thread / 32, lane = thread % 32;
        return lane % 8 + warp % (THREADS_N / 8) * 8;
    }

    template <class Form, typename T, class Epilogue>
    static __device__ __forceinline__ void compute(const Product<Form, T>& product, const Epilogue& epilogue) {
        Place place(blockIdx.x, product.m(), product.n());
        Sums<T> sums = {};
        int thread = threadIdx.x;
        sum_up(product, place, thread, sums);
        finish(product, place, thread, sums, epilogue);
    }

    // Add this thread's sums of a tile to `sums`. product.first is a multiple of 16 bytes, and at least one depth lies
    // behind it.
    template <class Form, typename T>
    static __device__ __forceinline__ void sum_up(
        const Product<Form, T>& product, const Place& place, int thread, Sums<T>& sums) {
        using ATile = TileOfA<Form, T>;
        using BTile = TileOfB<Form, T>;
        constexpr int STAGE = ATile::SIZE + BTile::SIZE;
        __shared__ __align__(128) T stages[STAGES * STAGE];  // each: the tile of A, then the tile of B

        int a_start = ATile::start(thread_m(thread)), b_start = BTile::start(thread_n(thread));

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
            }
            commit_copies();
        }

        int reading = 0, writing = (STAGES - 1) * STAGE;  // offsets in `stages`
        for (int tile = 0; tile < tiles; ++tile) {
            wait_for_copies<STAGES - 2>();
            __syncthreads();  // this tile has arrived from every thread; nobody reads the one that is overwritten next
            bool more = tile + STAGES - 1 < tiles;
            if (more) {
                a_tile.fetch(stages + writing);
                b_tile.fetch(stages + writing + ATile::SIZE);
            }
            commit_copies();

#pragma unroll
            for (int unit = 0; unit < ATile::UNITS; ++unit) {
                // values of A are read when they are needed, which keeps few of them in registers
                if constexpr (ATile::by_depth) {
                    T b_values[THREAD_N][BTile::UNIT];
                    BTile::read(stages, reading + ATile::SIZE, b_start, unit, b_values);
#pragma unroll
                    for (int i = 0; i < THREAD_M; ++i) {
                        T a_values[ATile::UNIT];
                        ATile::read_slot(stages, reading, a_start, unit, i, a_values);
#pragma unroll
                        for (int v = 0; v < ATile::UNIT; ++v)
#pragma unroll
                            for (int j = 0; j < THREAD_N; ++j) sums[i][j] += a_values[v] * b_values[j][v];
                    }
                } else {
#pragma unroll
                    for (int v = 0; v < ATile::UNIT; ++v) {
                        T a_values[THREAD_M], b_values[THREAD_N];
                        ATile::read_depth(stages, reading, a_start, unit, v, a_values);
                        BTile::read_depth(stages, reading + ATile::SIZE, b_start, unit, v, b_values);
#pragma unroll
                        for (int i = 0; i < THREAD_M; ++i)
#pragma unroll
                            for (int j = 0; j < THREAD_N; ++j) sums[i][j] += a_values[i] * b_values[j];
                    }
                }
            }

            if (more) {
                a_tile.land(stages + writing);
                b_tile.land(stages + writing + ATile::SIZE);
            }
            reading = reading + STAGE == STAGES * STAGE ? 0 : reading + STAGE;
            writing = writing + STAGE == STAGES * STAGE ? 0 : writing + STAGE;
        }
    }

    template <class Form, typename T, class Epilogue>
    static __device__ __forceinline__ void finish(
        const Product<Form, T>& product, const Place& place, int thread, Sums<T>& sums, const Epilogue& epilogue) {
        using ATile = TileOfA<Form, T>;
        using BTile = TileOfB<Form, T>;
        auto row_of = [=](int i) { return place.row + ATile::Place::side_of(thread_m(thread), i); };
        auto column_of = [=](int g) { return place.column + BTile::Place::side_of(thread_n(thread), g * BTile::W); };
        finish_sums<BTile::W>(sums, product.m(), product.n(), row_of, column_of, epilogue);
    }
};
