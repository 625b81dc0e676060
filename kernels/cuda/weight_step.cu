// weight_step: w ← w − η δᵀ a_prev
//
//   delta (B, n), a_prev (B, n_prev), control: η at its place LEARNING_RATE, w (n, n_prev)
//
// The weight gradient and plain SGD in one product of the form TN (M = n, N = n_prev, K = B): the gradient never goes to
// memory. η is read from the device, so that a captured step can be replayed with another one.
#include "beside.cuh"
#include "control.cuh"
#include "ladder.cuh"

template <typename T, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) weight_step(
    const __grid_constant__ Source<Rung, T> delta, const __grid_constant__ Source<Rung, T> a_prev,
    const double* control, T* w, int64 width, int64 width_prev, int64 rows, const __grid_constant__ Working... working) {
    ScaledAccumulate<T> epilogue{T(-control[LEARNING_RATE]), T(1), w};
    Rung::compute(product<TN>(delta, a_prev, width, width_prev, rows), epilogue, working...);
}

// The layer's whole step in one launch, and by blocks of their own b ← b − η Σ_batch δ. a, b and depth are those of
// the product, and with `Reduction` not those of δ.
template <typename T, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) layer_step(
    const __grid_constant__ Source<Rung, T> a, const __grid_constant__ Source<Rung, T> b,
    const double* control, T* w, const T* delta, T* bias, T* parts, unsigned* arrivals, int64 width, int64 width_prev,
    int64 depth, int64 rows, int64 rows_a_part, const __grid_constant__ Working... working) {
    T step = T(-control[LEARNING_RATE]);
    if (is_beside()) {
        Columns<T> columns{delta, parts, arrivals, rows, width, rows_a_part};
        sum_up_beside(columns, ScaledAccumulate<T>{step, T(1), bias});
    } else {
        Rung::compute(product<TN>(a, b, width, width_prev, depth), ScaledAccumulate<T>{step, T(1), w}, working...);
    }
}
