// Sums and maxima over the threads of a team, always in the same order, so that a result has the same bits every time.
//
// A team is one warp, or one whole block of several warps; a block of warps that are teams stands as (32, teams).
#pragma once

#include "runs.cuh"

struct Sum {
    template <typename T>
    __device__ T operator()(T x, T y) const {
        return x + y;
    }
};

// The larger one; a NaN counts as larger than anything, as in NumPy.
struct Maximum {
    template <typename T>
    __device__ T operator()(T x, T y) const {
        return x > y || x != x ? x : y;
    }
};

// x combined over all TEAM threads of the caller's team; every one of them gets the result. `combine` is commutative.
template <int TEAM, typename T, class Combine>
__device__ __forceinline__ T team_reduce(T x, Combine combine) {
    static_assert(TEAM % 32 == 0, "a team is made of whole warps");
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x = combine(x, __shfl_xor_sync(~0u, x, distance));
    if constexpr (TEAM > 32) {
        __shared__ T of_warp[TEAM / 32];
        int thread = threadIdx.y * blockDim.x + threadIdx.x;
        if (thread % 32 == 0) of_warp[thread / 32] = x;
        __syncthreads();
        x = of_warp[0];
#pragma unroll
        for (int warp = 1; warp < TEAM / 32; ++warp) x = combine(x, of_warp[warp]);
        __syncthreads();  // the next reduction may overwrite of_warp
    }
    return x;
}

constexpr int SUM_THREADS = 256;

// The second stage of a sum in two: one block of THREADS adds `count` parts, and every thread gets the sum.
template <int THREADS>
__device__ __forceinline__ double sum_of_parts(const double* parts, int64 count) {
    double sum = 0;
    for (int64 i = threadIdx.y * blockDim.x + threadIdx.x; i < count; i += THREADS) sum += parts[i];
    return team_reduce<THREADS>(sum, Sum{});
}
