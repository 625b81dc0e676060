// stream-K: a grid of any number of blocks, and the same work for each, whatever the shape of the product.
//
// All tiles of the result, one after the other and each as deep as the product, make a line of steps of TILE_K. Every
// block gets an equal run of it: so a run may begin and end within a tile, and there can be as many blocks as the chip
// runs at once, with tiles as large as they are best.
//
//   Whole tiles   The block hands its sums to the epilogue, as in any rung.
//   Split tiles   Each block stores its sums as a part. The last one to arrive adds all parts up, and runs the epilogue.
//                 No block waits for another, so it does not matter which of them the chip runs at once.
//
// Parts are added in the order of the depth, whoever adds them. So the number of blocks decides the bits of the result,
// and the order of execution does not.
//
// (Osama et al., "Stream-K: Work-Centric Parallel Decomposition for Dense Matrix-Matrix Multiplication on the GPU",
// PPoPP 2023. There the first block of a tile waits for the others.)
#pragma once

#include "copies.cuh"
#include "epilogues.cuh"
#include "forms.cuh"
#include "tile_place.cuh"

// Rung: one that computes a tile in two steps, `sum_up` and `finish`. The grid has no more blocks than there are steps.
template <class Rung>
struct StreamK {
    static constexpr int THREADS = Rung::THREADS, BLOCKS = Rung::BLOCKS;
    static constexpr int TILE_M = Rung::TILE_M, TILE_N = Rung::TILE_N, TILE_K = Rung::TILE_K;

    using Place = TilePlace<TILE_M, TILE_N>;

    // parts: room for two tiles of each block, (2 gridDim.x, TILE_M · TILE_N).
    // arrivals: (gridDim.x,), all 0, and 0 again at the end.
    template <class Form, typename T, class Epilogue>
    static __device__ __forceinline__ void compute(
        const Product<Form, T>& product, const Epilogue& epilogue, Accumulator<T>* parts, unsigned* arrivals) {
        // Numbers of steps fit into 32 bits: gpubp/backends/plans.py sees to that.
        int64 m = product.m(), n = product.n();
        unsigned steps = unsigned((product.last + TILE_K - 1) / TILE_K);  // of a tile
        unsigned all = unsigned((m + TILE_M - 1) / TILE_M) * unsigned((n + TILE_N - 1) / TILE_N) * steps;
        unsigned run = (all - 1) / gridDim.x + 1;
        unsigned step = blockIdx.x * run, end = min(step + run, all);
        while (step < end) {
            // What follows from a pinned number is not computed before the main loop, which has no register left for it.
            int thread = pinned(threadIdx.x);
            unsigned tile = step / steps;
            typename Rung::template Sums<T> sums = {};
            int64 first = step - tile * steps, last = min(steps, end - tile * steps);
            Rung::sum_up(product.between(first * TILE_K, last * TILE_K), Place(tile, m, n), thread, sums);
            tile = pinned(tile);
            thread = pinned(threadIdx.x);
            // the tile is split among the blocks `head` to `tail`, of which the first one begins it
            unsigned begin = tile * steps, head = begin / run, tail = (begin + steps - 1) / run;
            if (head == tail || completed(sums, thread, head, tail, parts, arrivals))
                Rung::finish(product, Place(tile, m, n), thread, sums, epilogue);
            __syncthreads();  // nobody reads the tile in shared memory any more
            step = begin + steps;
        }
    }

    // Store this block's part of a tile. True for the last block that does: then `sums` are those of all parts.
    template <typename Sums, typename A>
    static __device__ __forceinline__ bool completed(
        Sums& sums, int thread, unsigned head, unsigned tail, A* parts, unsigned* arrivals) {
        constexpr int COUNT = sizeof(Sums) / sizeof(A), W = COUNT < WIDEST<A> ? COUNT : WIDEST<A>;
        auto& values = reinterpret_cast<A(&)[COUNT / W][W]>(sums);
        // A block has no more than two parts: of the tile that its run begins in, and of the one that it ends in.
        auto run_of = [=](unsigned block, int g) {
            int64 part = 2 * int64(block) + (block == head);
            return parts + ((part * (COUNT / W) + g) * THREADS + thread) * W;
        };
#pragma unroll
        for (int g = 0; g < COUNT / W; ++g) store_whole(run_of(blockIdx.x, g), values[g]);

        __syncthreads();
        bool last = false;
        if (thread == 0) {
            __threadfence();  // whoever sees that this block has arrived sees its part
            last = atomicInc(arrivals + head, tail - head) == tail - head;  // with the last one the count is 0 again
            __threadfence();  // and the last one sees the parts of all others
        }
        if (!__syncthreads_or(last)) return false;

#pragma unroll
        for (int g = 0; g < COUNT / W; ++g)
#pragma unroll
            for (int w = 0; w < W; ++w) values[g][w] = 0;
#pragma unroll 1
        for (unsigned block = head; block <= tail; ++block)
#pragma unroll
            for (int g = 0; g < COUNT / W; ++g) {
                A part[W];
                load_run(part, run_of(block, g), W, true);
#pragma unroll
                for (int w = 0; w < W; ++w) values[g][w] += part[w];
            }
        return true;
    }
};
