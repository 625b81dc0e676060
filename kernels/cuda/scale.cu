// scale: x ← factor x
//
//   x: `size` elements
#include "numbers.cuh"

template <typename T>
__global__ void scale(T* x, long long size, Accumulator<T> factor) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) x[i] = T(Accumulator<T>(x[i]) * factor);
}
