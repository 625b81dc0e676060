// The second half of split-K: add the parts of a product in their order, then the epilogue.
//
//   c[i, j] = Σ_s parts[s, i, j]
//
// The order of the sum is fixed by the split alone, so the result is the same bits from run to run.
#pragma once

#include "epilogues.cuh"

constexpr int REDUCE_THREADS = 256;

template <typename T, class Epilogue>
__device__ __forceinline__ void product_reduce(
    const T* parts, int64 split, int64 m, int64 n, const Epilogue& epilogue) {
    int64 index = int64(blockIdx.x) * REDUCE_THREADS + threadIdx.x;
    if (index >= m * n) return;
    T sum = parts[index];
    for (int64 s = 1; s < split; ++s) sum += parts[s * m * n + index];
    finish_element(epilogue, index / n, index % n, n, sum);
}
