// squared_norm: out[0] = Σ x², in float64
//
//   x: `size` elements; out (1,) float64
//
// Two stages, each in a fixed order: one part a block, then one block adds the parts.
#include "reductions.cuh"

template <typename T>
__global__ void __launch_bounds__(SUM_THREADS, 1) squared_norm_parts(const T* x, double* parts, int64 size) {
    int64 step = int64(gridDim.x) * SUM_THREADS;
    double sum = 0;
    for (int64 i = int64(blockIdx.x) * SUM_THREADS + threadIdx.x; i < size; i += step) sum += double(x[i]) * double(x[i]);
    sum = team_reduce<SUM_THREADS>(sum, Sum{});
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

template <typename T>
__global__ void __launch_bounds__(SUM_THREADS, 1) squared_norm(const T* parts, T* out, int64 count) {
    double sum = sum_of_parts(parts, count);
    if (threadIdx.x == 0) out[0] = sum;
}
