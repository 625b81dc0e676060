// weight_step: w ← w − η δᵀ a_prev
//
//   delta (B, n), a_prev (B, n_prev), control: η at its place LEARNING_RATE, w (n, n_prev)
//
// The weight gradient and plain SGD in one product of the form TN (M = n, N = n_prev, K = B): the gradient never goes to
// memory. η is read from the device, so that a captured step can be replayed with another one.
#include "control.cuh"
#include "product_naive.cuh"
#include "product_pipelined.cuh"
#include "product_reduce.cuh"
#include "product_tensorcore.cuh"
#include "product_tiled.cuh"

template <typename T>
__device__ __forceinline__ ScaledAccumulate<T> step(const double* control, T* w) {
    return {T(-control[LEARNING_RATE]), T(1), w};
}

// naive: thread (i, j) changes w[i, j] and reads all it needs from memory.
template <typename T>
__global__ void weight_step_naive(
    const T* delta, const T* a_prev, const double* control, T* w, int64 width, int64 width_prev, int64 rows) {
    product_naive<TN>(delta, a_prev, width, width_prev, rows, step(control, w));
}

// tiled: a block shares TILE×TILE pieces of delta and a_prev through shared memory.
template <typename T, int TILE>
__global__ void __launch_bounds__(TILE * TILE, 1) weight_step_tiled(
    const T* delta, const T* a_prev, const double* control, T* w, int64 width, int64 width_prev, int64 rows) {
    product_tiled<TN, TILE>(delta, a_prev, width, width_prev, rows, step(control, w));
}

// pipelined: sums in registers, copies that overlap with arithmetic, no guards in the main loop.
template <typename T, class P>
__global__ void __launch_bounds__(P::THREADS, 1) weight_step_pipelined(
    const T* delta, const T* a_prev, const double* control, T* w, int64 width, int64 width_prev, int64 rows) {
    product_pipelined<TN, P>(delta, a_prev, width, width_prev, rows, 0, rows, step(control, w));
}

// tensorcore: matrix units; floats that are rounded to tf32 before they are multiplied, sums and w in float.
template <typename T, class P>
__global__ void __launch_bounds__(P::THREADS, 1) weight_step_tensorcore(
    const T* delta, const T* a_prev, const double* control, T* w, int64 width, int64 width_prev, int64 rows) {
    product_tensorcore<TN, P>(delta, a_prev, width, width_prev, rows, 0, rows, step(control, w));
}

// reduce: the second half of a product whose depth was split among blocks (see product.cu).
template <typename T>
__global__ void __launch_bounds__(REDUCE_THREADS, 1) weight_step_reduce(
    const T* parts, int64 split, const double* control, T* w, int64 width, int64 width_prev) {
    product_reduce(parts, split, width, width_prev, step(control, w));
}
