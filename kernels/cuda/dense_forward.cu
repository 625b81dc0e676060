// dense_forward: z = a_prev wᵀ + b ; a = σ(z)
// dense_forward_dropout: z = α a_prev wᵀ + b ; a = mask ⊙ σ(z)
//
//   a_prev (B, n_prev), w (n, n_prev), b (n,) or null, z (B, n) or null, a (B, n)
//
// A product of the form NT (M = B, N = n, K = n_prev), with the bias and σ applied before anything is stored: z goes to
// memory only where σ' will read it. `parameter` is σ's own (a slope, α), else unused.
//
// With dropout (dropout.cuh), α is 1 / (1 − p) of the layer below, whose units lie in a_prev without it; the mask of this
// layer's units is drawn for the step that control says. Threshold 0, and no control: α alone.
#include "activations.cuh"
#include "ladder.cuh"

template <typename T, template <typename> class Activation, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) dense_forward(
    const __grid_constant__ Source<Rung, T> a_prev, const __grid_constant__ Source<Rung, T> w,
    const Accumulator<T>* b, T* z, T* a, int64 rows, int64 width, int64 width_prev, Accumulator<T> parameter,
    const __grid_constant__ Working... working) {
    BiasActivation<T, Activation> epilogue{b, z, a, {parameter}};
    Rung::compute(product<NT>(a_prev, w, rows, width, width_prev), epilogue, working...);
}

template <typename T, template <typename> class Activation, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) dense_forward_dropout(
    const __grid_constant__ Source<Rung, T> a_prev, const __grid_constant__ Source<Rung, T> w,
    const Accumulator<T>* b, T* z, T* a, const double* control, int64 rows, int64 width, int64 width_prev,
    Accumulator<T> alpha, unsigned threshold, unsigned key0, unsigned key1, unsigned layer, int64 first_row,
    Accumulator<T> parameter, const __grid_constant__ Working... working) {
    Dropout<Accumulator<T>> units(alpha, threshold, key0, key1, layer, first_row, control);
    BiasActivation<T, Activation, Dropout<Accumulator<T>>> epilogue{b, z, a, {parameter}, units};
    Rung::compute(product<NT>(a_prev, w, rows, width, width_prev), epilogue, working...);
}
