// hidden_delta: δ^l = (δ^{l+1} w^{l+1}) ⊙ σ'(z^l)
// hidden_delta_dropout: δ^l = α (δ^{l+1} w^{l+1}) ⊙ σ'(z^l) ⊙ mask
//
//   delta_next (B, n_next), w_next (n_next, n), saved (B, n): a or z of this layer, as σ' reads; delta (B, n)
//
// A product of the form NN (M = B, N = n, K = n_next). In the books, with examples as columns, it is (wᵀ δ) ⊙ σ'(z): the
// transpose product and the Hadamard product in one pass, so that the product itself never goes to memory.
//
// With dropout (dropout.cuh), α is 1 / (1 − p) of this layer, and the mask is the one that `dense_forward_dropout` drew:
// it is drawn anew, as an output of 0 is no sign of a dropped unit.
#include "activations.cuh"
#include "ladder.cuh"

template <typename T, template <typename> class Activation, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) hidden_delta(
    const __grid_constant__ Source<Rung, T> delta_next, const __grid_constant__ Source<Rung, T> w_next,
    const T* saved, T* delta, int64 rows, int64 width, int64 width_next, Accumulator<T> parameter,
    const __grid_constant__ Working... working) {
    TimesDerivative<T, Activation> epilogue{saved, delta, {parameter}};
    Rung::compute(product<NN>(delta_next, w_next, rows, width, width_next), epilogue, working...);
}

template <typename T, template <typename> class Activation, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) hidden_delta_dropout(
    const __grid_constant__ Source<Rung, T> delta_next, const __grid_constant__ Source<Rung, T> w_next,
    const T* saved, T* delta, const double* control, int64 rows, int64 width, int64 width_next, Accumulator<T> alpha,
    unsigned threshold, unsigned key0, unsigned key1, unsigned layer, int64 first_row, Accumulator<T> parameter,
    const __grid_constant__ Working... working) {
    Dropout<Accumulator<T>> units(alpha, threshold, key0, key1, layer, first_row, control);
    TimesDerivative<T, Activation, Dropout<Accumulator<T>>> epilogue{saved, delta, {parameter}, units};
    Rung::compute(product<NN>(delta_next, w_next, rows, width, width_next), epilogue, working...);
}
