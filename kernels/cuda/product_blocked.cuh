// blocked: a thread computes an 8×8 piece of the product, and keeps its 64 sums in registers.
//
// Of each depth a thread reads 8 + 8 values from shared memory and makes 8 · 8 multiply-adds of them: a quarter of a read
// for each, where `tiled` needs two. With 64 elements a thread a block's tile grows too, and memory traffic falls with it.
#pragma once

#include "epilogues.cuh"
#include "forms.cuh"

template <int TILE>
struct Blocked {
    static constexpr int PIECE = 8, TILE_K = 8;
    static constexpr int SIDE = TILE / PIECE;  // threads along a side of the tile
    static constexpr int THREADS = SIDE * SIDE, BLOCKS = 1;
    static_assert(SIDE % 8 == 0, "neighbouring threads make whole sectors of what they store");

    // TILE_K depths of an operand as [depth][side]. A line has 16 bytes of padding, so that neither the copy nor the
    // product has bank conflicts: a warp that copies 8 depths of 4 sides meets every bank once.
    template <typename T>
    using Tile = T[TILE_K][TILE + 16 / sizeof(T)];

    template <class Form, typename T, class Epilogue>
    static __device__ __forceinline__ void compute(const Product<Form, T>& product, const Epilogue& epilogue) {
        __shared__ Tile<T> a_tile, b_tile;
        int64 first_row = int64(blockIdx.x) * TILE, first_column = int64(blockIdx.y) * TILE;
        T sums[PIECE][PIECE] = {};
        for (int64 k0 = product.first; k0 < product.last; k0 += TILE_K) {
            copy_tile(product.a, first_row, k0, a_tile);
            copy_tile(product.b, first_column, k0, b_tile);
            __syncthreads();  // the tiles are whole
#pragma unroll
            for (int k = 0; k < TILE_K; ++k) {
                T a_values[PIECE], b_values[PIECE];
#pragma unroll
                for (int i = 0; i < PIECE; ++i) a_values[i] = a_tile[k][side_of(threadIdx.y, i)];
#pragma unroll
                for (int j = 0; j < PIECE; ++j) b_values[j] = b_tile[k][side_of(threadIdx.x, j)];
#pragma unroll
                for (int i = 0; i < PIECE; ++i)
#pragma unroll
                    for (int j = 0; j < PIECE; ++j) sums[i][j] += a_values[i] * b_values[j];
            }
            __syncthreads();  // nobody reads them any more
        }
        auto row_of = [=](int i) { return first_row + side_of(threadIdx.y, i); };
        auto column_of = [=](int j) { return first_column + side_of(threadIdx.x, j); };
        finish_sums<1>(sums, product.m(), product.n(), row_of, column_of, epilogue);
    }

    // Which row or column of the tile is number i of a thread's own: they are SIDE apart, and not neighbours, so that
    // neighbouring threads read neighbouring banks and store neighbouring elements.
    static __device__ __forceinline__ int side_of(int thread, int i) { return thread + i * SIDE; }

    // Copy the piece at (first_side, first_depth); what lies outside the operand becomes 0 and adds nothing to the sums.
    template <Layout layout, typename T>
    static __device__ __forceinline__ void copy_tile(
        const Operand<layout, T>& x, int64 first_side, int64 first_depth, Tile<T>& tile) {
        constexpr bool by_depth = layout == Layout::depth_contiguous;  // neighbours read neighbouring addresses
        // how much of the piece is there; in 32 bits, as 64 sums leave few registers for the comparisons
        int sides = int(min(x.side - first_side, int64(TILE)));
        int depths = int(min(x.depth - first_depth, int64(TILE_K)));
#pragma unroll
        for (int copy = 0; copy < TILE * TILE_K / THREADS; ++copy) {
            int q = copy * THREADS + threadIdx.y * SIDE + threadIdx.x;
            int s = by_depth ? q / TILE_K : q % TILE;
            int k = by_depth ? q % TILE_K : q / TILE;
            bool inside = s < sides && k < depths;
            tile[k][s] = inside ? x(first_side + s, first_depth + k) : T(0);
        }
    }
};
