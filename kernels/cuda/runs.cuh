// Runs: W neighbouring elements of one row, moved by one instruction of up to 16 bytes where the address allows.
#pragma once

using int64 = long long;  // offsets: an array may pass 2³¹ elements

template <typename T, int W>
struct alignas(sizeof(T) * W) Vector {
    T element[W];
};

// How many elements of this type one 16-byte access moves.
template <typename T>
constexpr int WIDEST = 16 / int(sizeof(T));

// Where a run of W elements of a matrix lies, and how much of it is there.
struct Run {
    int64 offset;  // of its first element in the matrix
    int64 column;  // of its first element in the row
    int count;     // how many of its elements are in the row: less than W at the right edge
    bool vector;   // whether one access may move it: all W are there, and every row starts on a W-element boundary
};

template <typename T, int W>
__device__ __forceinline__ void load_run(T (&x)[W], const T* from, int count, bool vector) {
    if (vector) {
        Vector<T, W> whole = *reinterpret_cast<const Vector<T, W>*>(from);
#pragma unroll
        for (int w = 0; w < W; ++w) x[w] = whole.element[w];
    } else {
#pragma unroll
        for (int w = 0; w < W; ++w) x[w] = w < count ? from[w] : T(0);
    }
}

template <typename T, int W>
__device__ __forceinline__ void store_run(T* to, const T (&x)[W], int count, bool vector) {
    if (vector) {
        Vector<T, W> whole;
#pragma unroll
        for (int w = 0; w < W; ++w) whole.element[w] = x[w];
        *reinterpret_cast<Vector<T, W>*>(to) = whole;
    } else {
#pragma unroll
        for (int w = 0; w < W; ++w)
            if (w < count) to[w] = x[w];
    }
}

// Whether a run of W elements at this address may be moved by one access.
template <int W, typename T>
__device__ __forceinline__ bool is_aligned(const T* x) {
    return reinterpret_cast<unsigned long long>(x) % (sizeof(T) * W) == 0;
}
