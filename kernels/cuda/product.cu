// product: c = α A B + β c, in each of the three forms NT, NN, TN (see forms.cuh)
//
//   c (M, N); A and B as the form says; c is not read where β = 0
//
// The primitives' own products have files of their own; here are the general one and the first half of split-K, which
// serves them all.
#include "product_naive.cuh"
#include "product_pipelined.cuh"
#include "product_reduce.cuh"
#include "product_tensorcore.cuh"
#include "product_tiled.cuh"

// naive: thread (i, j) computes c[i, j] and reads all it needs from memory.
template <typename T, class Form>
__global__ void general_product_naive(
    const T* a, const T* b, T* c, int64 m, int64 n, int64 depth, T alpha, T beta) {
    product_naive<Form>(a, b, m, n, depth, ScaledAccumulate<T>{alpha, beta, c});
}

// tiled: a block shares TILE×TILE pieces of A and B through shared memory.
template <typename T, class Form, int TILE>
__global__ void __launch_bounds__(TILE * TILE, 1) general_product_tiled(
    const T* a, const T* b, T* c, int64 m, int64 n, int64 depth, T alpha, T beta) {
    product_tiled<Form, TILE>(a, b, m, n, depth, ScaledAccumulate<T>{alpha, beta, c});
}

// pipelined: sums in registers, copies that overlap with arithmetic, no guards in the main loop.
template <typename T, class Form, class P>
__global__ void __launch_bounds__(P::THREADS, 1) general_product_pipelined(
    const T* a, const T* b, T* c, int64 m, int64 n, int64 depth, T alpha, T beta) {
    product_pipelined<Form, P>(a, b, m, n, depth, 0, depth, ScaledAccumulate<T>{alpha, beta, c});
}

// tensorcore: matrix units; A and B of type T, sums and c in float.
template <typename T, class Form, class P>
__global__ void __launch_bounds__(P::THREADS, 1) general_product_tensorcore(
    const T* a, const T* b, Accumulator<T>* c, int64 m, int64 n, int64 depth, Accumulator<T> alpha,
    Accumulator<T> beta) {
    ScaledAccumulate<Accumulator<T>> epilogue{alpha, beta, c};
    product_tensorcore<Form, P>(a, b, m, n, depth, 0, depth, epilogue);
}

// partial: the first half of split-K. Block (tile, s) sums over the depths s · part .. (s + 1) · part − 1 alone and stores
// that in parts[s]; more blocks for the same tiles. `part` is a multiple of TILE_K, and no part is empty.
template <typename T, class Form, class P>
__global__ void __launch_bounds__(P::THREADS, 1) partial_product_pipelined(
    const T* a, const T* b, T* parts, int64 m, int64 n, int64 depth, int64 part) {
    int64 first = blockIdx.y * part;
    int64 last = first + part < depth ? first + part : depth;
    product_pipelined<Form, P>(a, b, m, n, depth, first, last, Plain<T>{parts + blockIdx.y * m * n});
}

template <typename T, class Form, class P>
__global__ void __launch_bounds__(P::THREADS, 1) partial_product_tensorcore(
    const T* a, const T* b, Accumulator<T>* parts, int64 m, int64 n, int64 depth, int64 part) {
    int64 first = blockIdx.y * part;
    int64 last = first + part < depth ? first + part : depth;
    Plain<Accumulator<T>> epilogue{parts + blockIdx.y * m * n};
    product_tensorcore<Form, P>(a, b, m, n, depth, first, last, epilogue);
}

// reduce: the second half of split-K.
template <typename T>
__global__ void __launch_bounds__(REDUCE_THREADS, 1) general_product_reduce(
    const Accumulator<T>* parts, int64 split, Accumulator<T>* c, int64 m, int64 n, Accumulator<T> alpha,
    Accumulator<T> beta) {
    product_reduce(parts, split, m, n, ScaledAccumulate<Accumulator<T>>{alpha, beta, c});
}
