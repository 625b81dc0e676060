// wgmma: Hopper's matrix units, which read their operands from shared memory by themselves, and its copy engine, which
// brings them there by itself.
//
// In `tensorcore` the same threads compute addresses, copy, read fragments and multiply, and the matrix units wait for
// them a third of the time. Here each has a job of its own (sm_90 alone):
//
//   Producer           One thread keeps the copy engine busy: tile after tile of A and B, into a ring of STAGES stages.
//   Consumers          Warpgroups of four warps, each with 64 rows of the tile, only wait for a stage, say what to
//                      multiply, and give the stage back. Operands pass no register.
//   Two barriers       for each stage: `full`, which the copies' bytes arrive at, and `empty`, at which every consumer's
//                      warp arrives. No barrier stops the block as a whole.
//   Clusters           CLUSTER blocks below each other share their columns: each brings its part of B's tile, for all of
//                      them. So L2 is asked for less.
//   Persistent blocks  A block computes tile after tile. While consumers finish one, the copies of the next arrive.
//   Registers          The producer gives most of its own back, and the consumers hold up to 128 sums a thread.
//   No guards          The copy engine fills what is outside of an operand with zeros, and stores no more of a tile than
//                      belongs to the result.
//
// Shapes are a block's TILE_M×TILE_N of the result, and 128 bytes of the depth at a time: as wide as the swizzle.
#pragma once

#include "result_stores.cuh"
#include "tile_place.cuh"
#include "warpgroups.cuh"

// As Product (forms.cuh), of operands that the copy engine reads.
template <class OF, typename T>
struct MappedProduct {
    using Form = OF;
    const TensorMap<T>&a, &b;
    int64 rows, columns, depth;
    int64 first, last;

    __device__ __forceinline__ int64 m() const { return rows; }
    __device__ __forceinline__ int64 n() const { return columns; }

    // The sum over these depths alone. They end with a tile or with the operand, behind which there are zeros.
    __device__ __forceinline__ MappedProduct between(int64 begin, int64 end) const {
        return {a, b, rows, columns, depth, begin, end < depth ? end : depth};
    }
};

template <class Form, typename T>
__device__ __forceinline__ MappedProduct<Form, T> product(
    const TensorMap<T>& a, const TensorMap<T>& b, int64 m, int64 n, int64 depth) {
    return {a, b, m, n, depth, 0, depth};
}

// One operand's tile in shared memory: SIDE sides, and 128 bytes of depth.
//
// A depth-contiguous one lies as [side][depth], the 16-byte units of each side permuted by the side's number. Of a
// side-contiguous one a box is 128 bytes of sides wide, so it lies as [panel][depth][side], and units are permuted by the
// depth. Either way 64 sides are 8 KiB, and the matrix units find eight rows of 128 bytes beside each other.
template <typename T, Layout LAYOUT, int SIDE>
struct SharedTile {
    static constexpr bool by_depth = LAYOUT == Layout::depth_contiguous;
    static constexpr int ROW = 128;  // bytes: the width of the swizzle
    static constexpr int DEPTH = ROW / sizeof(T), PANEL = ROW / sizeof(T);
    static constexpr int BYTES = SIDE * ROW;
    static constexpr int GROUP = 8 * ROW;                      // bytes: the swizzle repeats
    static constexpr int STEP = by_depth ? 32 : 16 * ROW;      // bytes to the next 32 bytes of depth

    // For this block, or its part number `rank` for all blocks of the cluster.
    template <int CLUSTER>
    static __device__ __forceinline__ void fetch(
        unsigned to, const TensorMap<T>& map, int64 side, int64 depth, Barrier full, int rank) {
        constexpr int PART = SIDE / CLUSTER, WIDTH = by_depth ? PART : PANEL;  // sides
#pragma unroll
        for (int s = 0; s < PART; s += WIDTH) {
            int first = rank * PART + s, there = int(side) + first;
            int x = by_depth ? int(depth) : there, y = by_depth ? there : int(depth);
            if constexpr (CLUSTER == 1)
                fetch_box(to + first * ROW, map, x, y, full);
            else
                fetch_box_for((1 << CLUSTER) - 1, to + first * ROW, map, x, y, full);
        }
    }

    // What an instruction is told of a tile whose first side and depth lie at this address: in units of 16 bytes the
    // address, how far it is to the next panel and to the next eight rows, and the swizzle of 128 bytes.
    static __device__ __forceinline__ unsigned long long descriptor(unsigned address) {
        constexpr unsigned long long NEXT_PANEL = by_depth ? 0 : DEPTH * ROW;
        constexpr unsigned long long SHAPE = NEXT_PANEL / 16 << 16 | (unsigned long long)(GROUP / 16) << 32 | 1ull << 62;
        return SHAPE | (address & 0x3ffff) / 16;
    }
};

// gpubp/backends/plans.py chooses the sizes and checks what they must meet.
template <int ROWS, int COLUMNS, int STAGES, int BLOCKS_OF_CLUSTER>
struct Wgmma {
    static constexpr int TILE_M = ROWS, TILE_N = COLUMNS, CLUSTER = BLOCKS_OF_CLUSTER;
    static constexpr int CONSUMERS = TILE_M / 64;  // warpgroups
    static constexpr int THREADS = (1 + CONSUMERS) * WARPGROUP, BLOCKS = TILE_M * TILE_N == 64 * 128 ? 2 : 1;
    static_assert(TILE_M == 64 || TILE_M == 128, "one or two consumers");
    static_assert(TILE_N == 128 || TILE_N == 256, "shapes of the instruction");

    // Of a thread; together no more than 64 Ki for the blocks of a multiprocessor, and of consumers no fewer than a launch
    // of so many threads may give them: a lone block of 64 rows begins with all that its consumers can use.
    static constexpr int PRODUCER_REGISTERS = 24, CONSUMER_REGISTERS = CONSUMERS == 2 ? 240 : BLOCKS == 2 ? 232 : 248;

    using Place = TilePlace<CLUSTER * TILE_M, TILE_N>;  // of a cluster's tiles
    using Sums = float[TILE_N / 8][4];  // of a lane, as fragments of C

    template <class Form, typename T>
    using TileOfA = SharedTile<T, Form::a, TILE_M>;
    template <class Form, typename T>
    using TileOfB = SharedTile<T, Form::b, TILE_N>;

    static constexpr int STAGE = (TILE_M + TILE_N) * 128;  // bytes: the tile of A, then the tile of B

    // A place in the ring, and how often it has been around.
    struct Ring {
        unsigned base;  // address of the stages in shared memory; behind them lie the results' pieces, and the barriers
        int stage = 0;
        unsigned parity = 0;

        __device__ __forceinline__ unsigned tiles() const { return base + stage * STAGE; }
        __device__ __forceinline__ unsigned pieces(int warp) const {
            return base + STAGES * STAGE + warp * ResultPiece::OF_WARP;
        }
        __device__ __forceinline__ Barrier full(int of) const { return {pieces(4 * CONSUMERS) + of * Barrier::BYTES}; }
        __device__ __forceinline__ Barrier empty(int of) const { return full(STAGES + of); }
        __device__ __forceinline__ void advance() {
            if (++stage == STAGES) {
                stage = 0;
                parity ^= 1;
            }
        }
    };

    static __device__ __forceinline__ unsigned rank() { return CLUSTER == 1 ? 0 : rank_in_cluster(); }

    // The places of all tiles of this block, one after the other. The blocks of a cluster go along with each other, also
    // where some have no rows.
    template <class P, class Work>
    static __device__ __forceinline__ void each_tile(const P& product, const Work& work) {
        constexpr int HEIGHT = CLUSTER * TILE_M;
        unsigned tiles = unsigned((product.m() + HEIGHT - 1) / HEIGHT) * unsigned((product.n() + TILE_N - 1) / TILE_N);
        for (unsigned tile = blockIdx.x / CLUSTER; tile < tiles; tile += gridDim.x / CLUSTER) {
            Place place(tile, product.m(), product.n());
            work(place.row + rank() * TILE_M, place.column);
        }
    }

    // All threads meet that use the same barriers.
    static __device__ __forceinline__ void sync() {
        if constexpr (CLUSTER == 1)
            __syncthreads();
        else
            sync_cluster();
    }

    // outputs: maps of those of the epilogue, if the copy engine stores them.
    template <class Form, typename T, class Epilogue, typename... Outputs>
    static __device__ __forceinline__ void compute(
        const MappedProduct<Form, T>& product, const Epilogue& epilogue, const Outputs&... outputs) {
        extern __shared__ __align__(1024) unsigned char ring_of_stages[];
        // stages begin where the swizzle does
        Ring ring{(unsigned(__cvta_generic_to_shared(ring_of_stages)) + 1023) / 1024 * 1024};
        if (threadIdx.x == 0) {
            for (int stage = 0; stage < STAGES; ++stage) {
                ring.full(stage).make(1);
                ring.empty(stage).make(CLUSTER * CONSUMERS * WARPGROUP / 32);
            }
            publish_barriers();
        }
        sync();  // the barriers are there for everybody
        __syncwarp();  // a cluster's barrier lets threads go one by one, and what follows takes whole warps

        if (threadIdx.x < WARPGROUP) {
            give_registers_back<PRODUCER_REGISTERS>();
            if (threadIdx.x == 0) produce(product, ring);
        } else {
            ask_for_registers<CONSUMER_REGISTERS>();
            ResultStores<Outputs...> stores(ring.pieces(threadIdx.x / 32 - 4), outputs...);
            consume(product, ring, epilogue, stores);
            stores.end();
        }
        if constexpr (CLUSTER > 1) sync();  // nobody leaves while others of the cluster arrive at its barriers
    }

    // Keep the ring full.
    template <class Form, typename T>
    static __device__ __forceinline__ void produce(const MappedProduct<Form, T>& product, Ring ring) {
        using ATile = TileOfA<Form, T>;
        using BTile = TileOfB<Form, T>;
        each_tile(product, [&](int64 row, int64 column) {
            for (int64 depth = product.first; depth < product.last; depth += ATile::DEPTH, ring.advance()) {
                ring.empty(ring.stage).wait(ring.parity ^ 1);  // at first all are: the phase before the first is over
                Barrier full = ring.full(ring.stage);
                full.expect(STAGE);  // also what lies outside of the operands
                ATile::template fetch<1>(ring.tiles(), product.a, row, depth, full, 0);
                BTile::template fetch<CLUSTER>(ring.tiles() + ATile::BYTES, product.b, column, depth, full, rank());
            }
        });
    }

    // Multiply what is in the ring, and finish the tiles.
    template <class Form, typename T, class Epilogue, class Stores>
    static __device__ __forceinline__ void consume(
        const MappedProduct<Form, T>& product, Ring ring, const Epilogue& epilogue, const Stores& stores) {
        using ATile = TileOfA<Form, T>;
        int consumer = int(threadIdx.x) / WARPGROUP - 1, thread = threadIdx.x % WARPGROUP;
        each_tile(product, [&](int64 row, int64 column) {
            Sums sums = {};
            int used = -1;  // the stage whose products may not be done
            for (int64 depth = product.first; depth < product.last; depth += ATile::DEPTH, ring.advance()) {
                ring.full(ring.stage).wait(ring.parity);
                begin_products();
                multiply_stage<Form, T>(sums, ring.tiles(), consumer);
                end_products();
                wait_for_products<1>();  // those of the stage before are done
                if (used >= 0) give_back(ring, used, thread);
                used = ring.stage;
            }
            wait_for_sums(sums);
            give_back(ring, used, thread);
            finish(product, row + consumer * 64, column, thread, sums, epilogue, stores);
        });
    }

    template <class Form, typename T>
    static __device__ __forceinline__ void multiply_stage(Sums& sums, unsigned tiles, int consumer) {
        using ATile = TileOfA<Form, T>;
        using BTile = TileOfB<Form, T>;
        unsigned long long a = ATile::descriptor(tiles + consumer * 64 * ATile::ROW);
        unsigned long long b = BTile::descriptor(tiles + ATile::BYTES);
#pragma unroll
        for (int step = 0; step < 4; ++step)
            Warpgroup<T, Form>::multiply(sums, a + step * ATile::STEP / 16, b + step * BTile::STEP / 16);
    }

    // Each warp says for itself that it has done with a stage, to every producer that fills it.
    static __device__ __forceinline__ void give_back(const Ring& ring, int stage, int thread) {
        int lane = thread % 32;
        if constexpr (CLUSTER == 1) {
            if (lane == 0) ring.empty(stage).arrive();
        } else {
            if (lane < CLUSTER) ring.empty(stage).arrive_at(lane);
        }
    }

    // A piece at a time: finish_sums moves what it has not finished yet once for every run.
    template <class Form, typename T, class Epilogue, class Stores>
    static __device__ __forceinline__ void finish(
        const MappedProduct<Form, T>& product, int64 first_row, int64 first_column, int thread, const Sums& sums,
        const Epilogue& epilogue, const Stores& stores) {
        constexpr int PIECE = Stores::COLUMNS / 8;  // fragments
        int lane = thread % 32, warp = thread / 32;
#pragma unroll
        for (int f = 0; f < TILE_N / 8; f += PIECE) {
            auto& fragments = reinterpret_cast<const float(&)[PIECE][4]>(sums[f]);
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                float line[1][2 * PIECE];
                gather_row<false>(line[0], fragments, h, lane);
                int64 row = first_row + warp * 16 + 8 * h, column = first_column + f * 8;
                stores.put(line, h, product.m(), product.n(), row, column, epilogue);
            }
        }
    }
};
