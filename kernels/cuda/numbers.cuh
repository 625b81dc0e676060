// Numbers of 16 bits that arrays are stored in, and what they are summed in.
//
// Arithmetic is never done in them: a value becomes a float when it is read, without an error, and is rounded to nearest
// (ties to even) when it is stored. Rounding does not saturate: what is too large becomes infinite, so that an overflow
// shows. CUDA's own headers have such types too, but take several times longer to compile than a whole kernel.
#pragma once

// The upper half of a float: 8 bits of exponent, 7 stored bits of significand.
struct bfloat16 {
    unsigned short bits;

    bfloat16() = default;
    __device__ __forceinline__ explicit bfloat16(float x) {
#if __CUDA_ARCH__ >= 800
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
#else
        unsigned whole = __float_as_uint(x);
        // up to half a unit of the last bit that stays is rounded away, a tie to the even neighbour
        bits = x != x ? 0x7fff : (unsigned short)((whole + 0x7fff + (whole >> 16 & 1)) >> 16);
#endif
    }
    __device__ __forceinline__ operator float() const { return __uint_as_float(unsigned(bits) << 16); }
};

// IEEE binary16: 5 bits of exponent, 10 stored bits of significand; the largest finite value is 65504.
struct float16 {
    unsigned short bits;

    float16() = default;
    __device__ __forceinline__ explicit float16(float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x)); }
    __device__ __forceinline__ operator float() const {
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
        return x;
    }
};

// What values of a type are added up in, and what is computed from them before it is rounded to be stored.
template <typename T>
struct AccumulatorOf {
    using type = T;
};
template <>
struct AccumulatorOf<bfloat16> {
    using type = float;
};
template <>
struct AccumulatorOf<float16> {
    using type = float;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

template <typename T>
__device__ __forceinline__ T not_a_number() {
    return T(__longlong_as_double(0x7ff8000000000000ll));
}
