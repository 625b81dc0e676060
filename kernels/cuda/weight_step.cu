// weight_step: w ← w − η δᵀ a_prev
//
//   delta (B, n), a_prev (B, n_prev), control: η at its place LEARNING_RATE, w (n, n_prev)
//
// The weight gradient and plain SGD in one product of the form TN (M = n, N = n_prev, K = B): the gradient never goes to
// memory. η is read from the device, so that a captured step can be replayed with another one.
#include "control.cuh"
#include "ladder.cuh"

template <typename T, class Rung>
__global__ void __launch_bounds__(Rung::THREADS, Rung::BLOCKS) weight_step(
    Source<Rung, T> delta, Source<Rung, T> a_prev, const double* control, T* w, int64 width, int64 width_prev,
    int64 rows) {
    ScaledAccumulate<T> epilogue{T(-control[LEARNING_RATE]), T(1), w};
    Rung::compute(product<TN>(delta, a_prev, width, width_prev, rows), epilogue);
}
