// transpose_product: product = δ^{l+1} w^{l+1}, the first half of `hidden_delta`
//
//   delta_next (B, n_next), w_next (n_next, n), product (B, n)
//
// A product of the form NN (M = B, N = n, K = n_next) that is stored as it is. With `hadamard_derivative` it makes
// `hidden_delta` in two passes over memory: to read, to check and to measure what the fusion gains.
#include "product_naive.cuh"
#include "product_pipelined.cuh"
#include "product_reduce.cuh"
#include "product_tensorcore.cuh"
#include "product_tiled.cuh"

// naive: thread (i, j) computes product[i, j] and reads all it needs from memory.
template <typename T>
__global__ void transpose_product_naive(
    const T* delta_next, const T* w_next, T* product, int64 rows, int64 width, int64 width_next) {
    product_naive<NN>(delta_next, w_next, rows, width, width_next, Plain<T>{product});
}

// tiled: a block shares TILE×TILE pieces of delta_next and w_next through shared memory.
template <typename T, int TILE>
__global__ void __launch_bounds__(TILE * TILE, 1) transpose_product_tiled(
    const T* delta_next, const T* w_next, T* product, int64 rows, int64 width, int64 width_next) {
    product_tiled<NN, TILE>(delta_next, w_next, rows, width, width_next, Plain<T>{product});
}

// pipelined: sums in registers, copies that overlap with arithmetic, no guards in the main loop.
template <typename T, class P>
__global__ void __launch_bounds__(P::THREADS, 1) transpose_product_pipelined(
    const T* delta_next, const T* w_next, T* product, int64 rows, int64 width, int64 width_next) {
    product_pipelined<NN, P>(delta_next, w_next, rows, width, width_next, 0, width_next, Plain<T>{product});
}

// tensorcore: matrix units; arrays of type T, sums in float.
template <typename T, class P>
__global__ void __launch_bounds__(P::THREADS, 1) transpose_product_tensorcore(
    const T* delta_next, const T* w_next, T* product, int64 rows, int64 width, int64 width_next) {
    product_tensorcore<NN, P>(delta_next, w_next, rows, width, width_next, 0, width_next, Plain<T>{product});
}

// reduce: the second half of a product whose depth was split among blocks (see product.cu).
template <typename T>
__global__ void __launch_bounds__(REDUCE_THREADS, 1) transpose_product_reduce(
    const Accumulator<T>* parts, int64 split, T* product, int64 rows, int64 width) {
    product_reduce(parts, split, rows, width, Plain<T>{product});
}
