// Runs: W neighbouring elements of one row, moved by one instruction of up to 16 bytes where the address allows.
#pragma once

#include "numbers.cuh"

using int64 = long long;  // offsets: an array may pass 2³¹ elements

// W elements as one value of a type that the compiler moves by one instruction.
template <typename T, int W>
struct VectorOf;
template <>
struct VectorOf<float, 4> {
    using type = float4;
};
template <>
struct VectorOf<float, 2> {
    using type = float2;
};
template <>
struct VectorOf<double, 2> {
    using type = double2;
};
template <>
struct VectorOf<bfloat16, 8> {
    using type = uint4;
};
template <>
struct VectorOf<bfloat16, 4> {
    using type = uint2;
};
template <>
struct VectorOf<float16, 8> {
    using type = uint4;
};
template <>
struct VectorOf<float16, 4> {
    using type = uint2;
};
template <typename T>
struct VectorOf<T, 1> {
    using type = T;
};
template <typename T, int W>
using Vector = typename VectorOf<T, W>::type;

// How many elements of this type one 16-byte access moves.
template <typename T>
constexpr int WIDEST = 16 / int(sizeof(T));

// The compiler splits a store of values that come from separate registers into single elements; these do not.
__device__ __forceinline__ void store_whole(float* to, const float (&x)[4]) {
    asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
                 : "memory");
}
__device__ __forceinline__ void store_whole(float* to, const float (&x)[2]) {
    asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(to), "f"(x[0]), "f"(x[1]) : "memory");
}
__device__ __forceinline__ void store_whole(double* to, const double (&x)[2]) {
    asm volatile("st.global.v2.f64 [%0], {%1, %2};" ::"l"(to), "d"(x[0]), "d"(x[1]) : "memory");
}
template <typename T>
__device__ __forceinline__ unsigned pair_of(const T& low, const T& high) {
    return unsigned(low.bits) | unsigned(high.bits) << 16;
}
template <typename T>
__device__ __forceinline__ void store_whole(T* to, const T (&x)[4]) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(pair_of(x[0], x[1])), "r"(pair_of(x[2], x[3]))
                 : "memory");
}
template <typename T>
__device__ __forceinline__ void store_whole(T* to, const T (&x)[8]) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(pair_of(x[0], x[1])),
                 "r"(pair_of(x[2], x[3])), "r"(pair_of(x[4], x[5])), "r"(pair_of(x[6], x[7]))
                 : "memory");
}
template <typename T>
__device__ __forceinline__ void store_whole(T* to, const T (&x)[1]) {
    *to = x[0];
}

template <typename T, int W>
__device__ __forceinline__ void load_run(T (&x)[W], const T* from, int count, bool vector) {
    if (vector) {
        *reinterpret_cast<Vector<T, W>*>(x) = *reinterpret_cast<const Vector<T, W>*>(from);
    } else {
#pragma unroll
        for (int w = 0; w < W; ++w) x[w] = w < count ? from[w] : T(0);
    }
}

// Into global memory.
template <typename T, int W>
__device__ __forceinline__ void store_run(T* to, const T (&x)[W], int count, bool vector) {
    if (vector) {
        store_whole(to, x);
    } else {
#pragma unroll
        for (int w = 0; w < W; ++w)
            if (w < count) to[w] = x[w];
    }
}

// The same between memory and the values that are computed with: Accumulator<T>, rounded when it is stored.
template <typename T, int W>
__device__ __forceinline__ void load_values(Accumulator<T> (&x)[W], const T* from, int count, bool vector) {
    if constexpr (sizeof(T) == sizeof(x[0])) {
        load_run(x, from, count, vector);
    } else {
        T stored[W];
        load_run(stored, from, count, vector);
#pragma unroll
        for (int w = 0; w < W; ++w) x[w] = stored[w];
    }
}

template <typename T, int W>
__device__ __forceinline__ void store_values(T* to, const Accumulator<T> (&x)[W], int count, bool vector) {
    if constexpr (sizeof(T) == sizeof(x[0])) {
        store_run(to, x, count, vector);
    } else {
        T stored[W];
#pragma unroll
        for (int w = 0; w < W; ++w) stored[w] = T(x[w]);
        store_run(to, stored, count, vector);
    }
}

// Whether a run of W elements at this address may be moved by one access.
template <int W, typename T>
__device__ __forceinline__ bool is_aligned(const T* x) {
    return reinterpret_cast<unsigned long long>(x) % (sizeof(T) * W) == 0;
}

// Where a run of W elements of a matrix lies, and how much of it is there.
struct Run {
    int64 offset;  // of its first element in the matrix
    int64 row;
    int64 column;  // of its first element in the row
    int count;     // how many of its elements are in the row: less than W at the right edge
    bool vector;   // whether one access may move it: all W are there, and every row starts on a W-element boundary

    // Store it into an output of the epilogue, the first (0) or the second (1).
    template <int OUTPUT, typename T, int W>
    __device__ __forceinline__ void store(T* output, const Accumulator<T> (&x)[W]) const {
        store_values(output + offset, x, count, vector);
    }
};
