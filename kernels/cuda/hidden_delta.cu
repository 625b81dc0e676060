// hidden_delta: δ^l = (δ^{l+1} w^{l+1}) ⊙ σ'(z^l)
//
//   delta_next (B, n_next), w_next (n_next, n), saved (B, n): a or z of this layer, as σ' reads; delta (B, n)
//
// A product of the form NN (M = B, N = n, K = n_next). In the books, with examples as columns, it is (wᵀ δ) ⊙ σ'(z): the
// transpose product and the Hadamard product in one pass, so that the product itself never goes to memory.
#include "activations.cuh"
#include "product_naive.cuh"
#include "product_pipelined.cuh"
#include "product_reduce.cuh"
#include "product_tensorcore.cuh"
#include "product_tiled.cuh"

// naive: thread (i, j) computes delta[i, j] and reads all it needs from memory.
template <typename T, template <typename> class Activation>
__global__ void hidden_delta_naive(
    const T* delta_next, const T* w_next, const T* saved, T* delta, int64 rows, int64 width, int64 width_next,
    T parameter) {
    TimesDerivative<T, Activation> epilogue{saved, delta, {parameter}};
    product_naive<NN>(delta_next, w_next, rows, width, width_next, epilogue);
}

// tiled: a block shares TILE×TILE pieces of delta_next and w_next through shared memory.
template <typename T, template <typename> class Activation, int TILE>
__global__ void __launch_bounds__(TILE * TILE, 1) hidden_delta_tiled(
    const T* delta_next, const T* w_next, const T* saved, T* delta, int64 rows, int64 width, int64 width_next,
    T parameter) {
    TimesDerivative<T, Activation> epilogue{saved, delta, {parameter}};
    product_tiled<NN, TILE>(delta_next, w_next, rows, width, width_next, epilogue);
}

// pipelined: sums in registers, copies that overlap with arithmetic, no guards in the main loop.
template <typename T, template <typename> class Activation, class P>
__global__ void __launch_bounds__(P::THREADS, 1) hidden_delta_pipelined(
    const T* delta_next, const T* w_next, const T* saved, T* delta, int64 rows, int64 width, int64 width_next,
    T parameter) {
    TimesDerivative<T, Activation> epilogue{saved, delta, {parameter}};
    product_pipelined<NN, P>(delta_next, w_next, rows, width, width_next, 0, width_next, epilogue);
}

// tensorcore: matrix units; arrays of type T, sums and σ' in float.
template <typename T, template <typename> class Activation, class P>
__global__ void __launch_bounds__(P::THREADS, 1) hidden_delta_tensorcore(
    const T* delta_next, const T* w_next, const T* saved, T* delta, int64 rows, int64 width, int64 width_next,
    Accumulator<T> parameter) {
    TimesDerivative<T, Activation> epilogue{saved, delta, {parameter}};
    product_tensorcore<NN, P>(delta_next, w_next, rows, width, width_next, 0, width_next, epilogue);
}

// reduce: the second half of a product whose depth was split among blocks (see product.cu).
template <typename T, template <typename> class Activation>
__global__ void __launch_bounds__(REDUCE_THREADS, 1) hidden_delta_reduce(
    const Accumulator<T>* parts, int64 split, const T* saved, T* delta, int64 rows, int64 width,
    Accumulator<T> parameter) {
    TimesDerivative<T, Activation> epilogue{saved, delta, {parameter}};
    product_reduce(parts, split, rows, width, epilogue);
}
