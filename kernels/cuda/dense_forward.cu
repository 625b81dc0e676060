// dense_forward: z = a_prev wᵀ + b ; a = σ(z)
//
//   a_prev (B, n_prev), w (n, n_prev), b (n,) or null, z (B, n) or null, a (B, n)
//
// A product of the form NT (M = B, N = n, K = n_prev), with the bias and σ applied before anything is stored: z goes to
// memory only where σ' will read it. `parameter` is σ's own (a slope, α), else unused.
#include "activations.cuh"
#include "ladder.cuh"

template <typename T, template <typename> class Activation, class Rung>
__global__ void __launch_bounds__(Rung::THREADS, Rung::BLOCKS) dense_forward(
    Source<Rung, T> a_prev, Source<Rung, T> w, const Accumulator<T>* b, T* z, T* a, int64 rows, int64 width,
    int64 width_prev, Accumulator<T> parameter) {
    BiasActivation<T, Activation> epilogue{b, z, a, {parameter}};
    Rung::compute(product<NT>(a_prev, w, rows, width, width_prev), epilogue);
}
