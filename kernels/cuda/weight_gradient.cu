// weight_gradient: ∂L/∂w = δᵀ a_prev
//
//   delta (B, n), a_prev (B, n_prev), gradient (n, n_prev)
//
// A product of the form TN (M = n, N = n_prev, K = B): the contraction runs over the batch. A deep batch with narrow
// layers has few tiles, too few for a chip; then the batch is split among blocks (see product.cu).
#include "ladder.cuh"

template <typename T, class Rung>
__global__ void __launch_bounds__(Rung::THREADS, Rung::BLOCKS) weight_gradient(
    Source<Rung, T> delta, Source<Rung, T> a_prev, Accumulator<T>* gradient, int64 width, int64 width_prev,
    int64 rows) {
    Rung::compute(product<TN>(delta, a_prev, width, width_prev, rows), Plain<Accumulator<T>>{gradient});
}
