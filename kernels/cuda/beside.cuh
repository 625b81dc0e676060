// Blocks beside a product: a grid with more than one layer, of which the first one computes the product, and the others
// add up columns (column_sums.cuh). So what is small costs no launch of its own.
#pragma once

#include "column_sums.cuh"

__device__ __forceinline__ bool is_beside() { return blockIdx.z > 0; }

// The share of this block, of whole warps, in sums of columns.
template <typename T, class Epilogue>
__device__ __forceinline__ void sum_up_beside(const Columns<T>& columns, const Epilogue& epilogue) {
    int64 block = (int64(blockIdx.z - 1) * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = threadIdx.y * blockDim.x + threadIdx.x, warps = blockDim.x * blockDim.y / 32;
    columns.sum_up(block * warps + thread / 32, thread % 32, epilogue);
}
