// weight_gradient: ∂L/∂w = δᵀ a_prev
//
//   delta (B, n), a_prev (B, n_prev), gradient (n, n_prev)
//
// A product of the form TN (M = n, N = n_prev, K = B): the contraction runs over the batch. A deep batch with narrow
// layers has few tiles, too few for a chip; then the batch is split among blocks (see product.cu).
#include "beside.cuh"
#include "ladder.cuh"

template <typename T, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) weight_gradient(
    const __grid_constant__ Source<Rung, T> delta, const __grid_constant__ Source<Rung, T> a_prev,
    Accumulator<T>* gradient, int64 width, int64 width_prev, int64 rows, const __grid_constant__ Working... working) {
    Rung::compute(product<TN>(delta, a_prev, width, width_prev, rows), Plain<Accumulator<T>>{gradient}, working...);
}

// The layer's whole gradient in one launch: ∂L/∂w = α δᵀ a_prev and, by blocks of their own, ∂L/∂b = Σ_batch δ; with β = 1
// both are added to what is there. a, b and depth are those of the product, and with `Reduction` not those of δ.
template <typename T, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) layer_gradient(
    const __grid_constant__ Source<Rung, T> a, const __grid_constant__ Source<Rung, T> b,
    Accumulator<T>* gradient, const T* delta, Accumulator<T>* bias_gradient, Accumulator<T>* parts,
    unsigned* arrivals, int64 width, int64 width_prev, int64 depth, int64 rows, int64 rows_a_part,
    Accumulator<T> alpha, Accumulator<T> beta, const __grid_constant__ Working... working) {
    using A = Accumulator<T>;
    if (is_beside()) {
        Columns<T> columns{delta, parts, arrivals, rows, width, rows_a_part};
        sum_up_beside(columns, ScaledAccumulate<A>{A(1), beta, bias_gradient});
    } else {
        ScaledAccumulate<A> epilogue{alpha, beta, gradient};
        Rung::compute(product<TN>(a, b, width, width_prev, depth), epilogue, working...);
    }
}
