// hadamard_derivative: delta = product ⊙ σ'(z^l), the second half of `hidden_delta`
//
//   product, saved, delta: `size` elements each; saved is a or z, as σ' reads
//
// Bound by memory: a thread moves 16 bytes an access where all three arrays start on 16-byte boundaries.
#include "activations.cuh"
#include "runs.cuh"

template <typename T, template <typename> class Activation>
__global__ void hadamard_derivative(const T* product, const T* saved, T* delta, int64 size, Accumulator<T> parameter) {
    constexpr int W = WIDEST<T>;
    Activation<Accumulator<T>> sigma{parameter};
    bool aligned = is_aligned<W>(product) && is_aligned<W>(saved) && is_aligned<W>(delta);
    int64 i = (int64(blockIdx.x) * blockDim.x + threadIdx.x) * W;
    if (i >= size) return;
    int count = size - i < W ? int(size - i) : W;
    __builtin_assume(count > 0);  // the first element is moved without asking
    bool vector = aligned && count == W;
    Accumulator<T> x[W], s[W];
    load_values<T>(x, product + i, count, vector);
    load_values<T>(s, saved + i, count, vector);
#pragma unroll
    for (int w = 0; w < W; ++w) x[w] *= sigma.derivative(s[w]);
    store_values<T>(delta + i, x, count, vector);
}
