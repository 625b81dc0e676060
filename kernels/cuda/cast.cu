// cast: out = source, rounded to the type of out
//
//   source, out: `size` elements each
#include "numbers.cuh"

template <typename T, typename Source>
__device__ T rounded(Source x) {
    return T(x);
}

// From double to 16 bits by way of a float, rounded to odd: rounding twice to nearest could go the wrong way, this does
// not (Boldo & Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
template <typename T>
__device__ T narrowed(double x) {
    float cut = __double2float_rz(x);
    if (double(cut) != x && x == x) cut = __uint_as_float(__float_as_uint(cut) | 1);
    return T(cut);
}
template <>
__device__ bfloat16 rounded(double x) {
    return narrowed<bfloat16>(x);
}
template <>
__device__ float16 rounded(double x) {
    return narrowed<float16>(x);
}

template <typename Source, typename T>
__global__ void cast(const Source* source, T* out, long long size) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) out[i] = rounded<T>(source[i]);
}
