// hidden_delta: δ^l = (δ^{l+1} w^{l+1}) ⊙ σ'(z^l)
//
//   delta_next (B, n_next), w_next (n_next, n), saved (B, n): a or z of this layer, as σ' reads; delta (B, n)
//
// A product of the form NN (M = B, N = n, K = n_next). In the books, with examples as columns, it is (wᵀ δ) ⊙ σ'(z): the
// transpose product and the Hadamard product in one pass, so that the product itself never goes to memory.
#include "activations.cuh"
#include "ladder.cuh"

template <typename T, template <typename> class Activation, class Rung>
__global__ void __launch_bounds__(Rung::THREADS, Rung::BLOCKS) hidden_delta(
    Source<Rung, T> delta_next, Source<Rung, T> w_next, const T* saved, T* delta, int64 rows, int64 width,
    int64 width_next, Accumulator<T> parameter) {
    TimesDerivative<T, Activation> epilogue{saved, delta, {parameter}};
    Rung::compute(product<NN>(delta_next, w_next, rows, width, width_next), epilogue);
}
