// weight_gradient: ∂L/∂w = δᵀ a_prev
//
//   delta (B, n), a_prev (B, n_prev), gradient (n, n_prev)
//
// A product of the form TN (M = n, N = n_prev, K = B): the contraction runs over the batch. A deep batch with narrow
// layers has few tiles, too few for a chip; then the batch is split among blocks, each block's part of the sum goes to a
// workspace (product.cu), and `reduce` adds the parts in their order.
#include "product_naive.cuh"
#include "product_pipelined.cuh"
#include "product_reduce.cuh"
#include "product_tensorcore.cuh"
#include "product_tiled.cuh"

// naive: thread (i, j) computes gradient[i, j] and reads all it needs from memory.
template <typename T>
__global__ void weight_gradient_naive(
    const T* delta, const T* a_prev, T* gradient, int64 width, int64 width_prev, int64 rows) {
    product_naive<TN>(delta, a_prev, width, width_prev, rows, Plain<T>{gradient});
}

// tiled: a block shares TILE×TILE pieces of delta and a_prev through shared memory.
template <typename T, int TILE>
__global__ void __launch_bounds__(TILE * TILE, 1) weight_gradient_tiled(
    const T* delta, const T* a_prev, T* gradient, int64 width, int64 width_prev, int64 rows) {
    product_tiled<TN, TILE>(delta, a_prev, width, width_prev, rows, Plain<T>{gradient});
}

// pipelined: sums in registers, copies that overlap with arithmetic, no guards in the main loop.
template <typename T, class P>
__global__ void __launch_bounds__(P::THREADS, 1) weight_gradient_pipelined(
    const T* delta, const T* a_prev, T* gradient, int64 width, int64 width_prev, int64 rows) {
    product_pipelined<TN, P>(delta, a_prev, width, width_prev, rows, 0, rows, Plain<T>{gradient});
}

// tensorcore: matrix units; delta and a_prev of type T, sums and gradient in float.
template <typename T, class P>
__global__ void __launch_bounds__(P::THREADS, 1) weight_gradient_tensorcore(
    const T* delta, const T* a_prev, Accumulator<T>* gradient, int64 width, int64 width_prev, int64 rows) {
    Plain<Accumulator<T>> epilogue{gradient};
    product_tensorcore<TN, P>(delta, a_prev, width, width_prev, rows, 0, rows, epilogue);
}

// reduce: the second half of split-K.
template <typename T>
__global__ void __launch_bounds__(REDUCE_THREADS, 1) weight_gradient_reduce(
    const Accumulator<T>* parts, int64 split, Accumulator<T>* gradient, int64 width, int64 width_prev) {
    product_reduce(parts, split, width, width_prev, Plain<Accumulator<T>>{gradient});
}
