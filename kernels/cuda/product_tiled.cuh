// tiled: the block copies a TILE×TILE piece of each operand into shared memory and every thread reads it from there.
//
// Each element fetched from memory now serves TILE threads instead of one, so memory traffic falls by that factor.
// Still one output element a thread, and two shared-memory reads for each multiply-add, which is what limits it.
#pragma once

#include "epilogues.cuh"
#include "forms.cuh"

template <int TILE>
struct Tiled {
    static constexpr int THREADS = TILE * TILE, BLOCKS = 1;

    // A TILE×TILE piece of an operand as [side][depth]. The padding column puts the elements of one column into
    // different banks, so that neither the copy nor the product has bank conflicts, whichever index runs along the warp.
    // (With TILE 16 a warp copies two rows at a time, and of 33 places in a line the last lies in the bank of the first:
    // one conflict.)
    template <typename T>
    using Tile = T[TILE][TILE + 1];

    template <class Form, typename T, class Epilogue>
    static __device__ void compute(const Product<Form, T>& product, const Epilogue& epilogue) {
        __shared__ Tile<T> a_tile, b_tile;
        int64 first_row = int64(blockIdx.x) * TILE, first_column = int64(blockIdx.y) * TILE;
        T sum = 0;
        for (int64 k0 = product.first; k0 < product.last; k0 += TILE) {
            copy_tile(product.a, first_row, k0, a_tile);
            copy_tile(product.b, first_column, k0, b_tile);
            __syncthreads();  // the tiles are whole
#pragma unroll
            for (int k = 0; k < TILE; ++k) sum += a_tile[threadIdx.y][k] * b_tile[threadIdx.x][k];
            __syncthreads();  // nobody reads them any more
        }
        int64 i = first_row + threadIdx.y, j = first_column + threadIdx.x;
        if (i < product.m() && j < product.n()) finish_element(epilogue, i, j, product.n(), sum);
    }

    // Copy the piece at (first_side, first_depth); what lies outside the operand becomes 0 and adds nothing to the sums.
    template <Layout layout, typename T>
    static __device__ __forceinline__ void copy_tile(
        const Operand<layout, T>& x, int64 first_side, int64 first_depth, Tile<T>& tile) {
        constexpr bool by_depth = layout == Layout::depth_contiguous;  // neighbours read neighbouring addresses
        int s = by_depth ? threadIdx.y : threadIdx.x;
        int k = by_depth ? threadIdx.x : threadIdx.y;
        bool inside = first_side + s < x.side && first_depth + k < x.depth;
        tile[s][k] = inside ? x(first_side + s, first_depth + k) : T(0);
    }
};
