// dense_forward: z = a_prev wᵀ + b ; a = σ(z)
//
//   a_prev (B, n_prev), w (n, n_prev), b (n,) or null, z (B, n) or null, a (B, n)
//
// A product of the form NT (M = B, N = n, K = n_prev), with the bias and σ applied before anything is stored: z goes to
// memory only where σ' will read it. `parameter` is σ's own (a slope, α), else unused.
#include "activations.cuh"
#include "product_naive.cuh"
#include "product_pipelined.cuh"
#include "product_reduce.cuh"
#include "product_tensorcore.cuh"
#include "product_tiled.cuh"

// naive: thread (i, j) computes a[i, j] and reads all it needs from memory.
template <typename T, template <typename> class Activation>
__global__ void dense_forward_naive(
    const T* a_prev, const T* w, const T* b, T* z, T* a, int64 rows, int64 width, int64 width_prev, T parameter) {
    BiasActivation<T, Activation> epilogue{b, z, a, {parameter}};
    product_naive<NT>(a_prev, w, rows, width, width_prev, epilogue);
}

// tiled: a block shares TILE×TILE pieces of a_prev and w through shared memory, for 1/TILE of the memory traffic.
template <typename T, template <typename> class Activation, int TILE>
__global__ void __launch_bounds__(TILE * TILE, 1) dense_forward_tiled(
    const T* a_prev, const T* w, const T* b, T* z, T* a, int64 rows, int64 width, int64 width_prev, T parameter) {
    BiasActivation<T, Activation> epilogue{b, z, a, {parameter}};
    product_tiled<NT, TILE>(a_prev, w, rows, width, width_prev, epilogue);
}

// pipelined: sums in registers, copies that overlap with arithmetic, no guards in the main loop.
template <typename T, template <typename> class Activation, class P>
__global__ void __launch_bounds__(P::THREADS, 1) dense_forward_pipelined(
    const T* a_prev, const T* w, const T* b, T* z, T* a, int64 rows, int64 width, int64 width_prev, T parameter) {
    BiasActivation<T, Activation> epilogue{b, z, a, {parameter}};
    product_pipelined<NT, P>(a_prev, w, rows, width, width_prev, 0, width_prev, epilogue);
}

// tensorcore: matrix units; a_prev, w, z and a of type T, sums, bias and σ in float.
template <typename T, template <typename> class Activation, class P>
__global__ void __launch_bounds__(P::THREADS, 1) dense_forward_tensorcore(
    const T* a_prev, const T* w, const Accumulator<T>* b, T* z, T* a, int64 rows, int64 width, int64 width_prev,
    Accumulator<T> parameter) {
    BiasActivation<T, Activation> epilogue{b, z, a, {parameter}};
    product_tensorcore<NT, P>(a_prev, w, rows, width, width_prev, 0, width_prev, epilogue);
}

// reduce: the second half of a product whose depth was split among blocks (see product.cu).
template <typename T, template <typename> class Activation>
__global__ void __launch_bounds__(REDUCE_THREADS, 1) dense_forward_reduce(
    const Accumulator<T>* parts, int64 split, const Accumulator<T>* b, T* z, T* a, int64 rows, int64 width,
    Accumulator<T> parameter) {
    BiasActivation<T, Activation> epilogue{b, z, a, {parameter}};
    product_reduce(parts, split, rows, width, epilogue);
}
