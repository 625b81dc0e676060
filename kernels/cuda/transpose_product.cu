// transpose_product: product = δ^{l+1} w^{l+1}, the first half of `hidden_delta`
//
//   delta_next (B, n_next), w_next (n_next, n), out (B, n)
//
// A product of the form NN (M = B, N = n, K = n_next) that is stored as it is. With `hadamard_derivative` it makes
// `hidden_delta` in two passes over memory: to read, to check and to measure what the fusion gains.
#include "ladder.cuh"

template <typename T, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) transpose_product(
    const __grid_constant__ Source<Rung, T> delta_next, const __grid_constant__ Source<Rung, T> w_next,
    T* out, int64 rows, int64 width, int64 width_next, const __grid_constant__ Working... working) {
    Rung::compute(product<NN>(delta_next, w_next, rows, width, width_next), Plain<T>{out}, working...);
}
