// The three forms of a product C = A B, by how its operands lie in memory (rows are examples, all arrays C-contiguous).
//
//   NT: A is (M, K), B is stored as (N, K):  dense_forward      z = a_prev wᵀ
//   NN: A is (M, K), B is stored as (K, N):  hidden_delta       δ w
//   TN: A is stored as (K, M), B as (K, N):  weight_gradient    δᵀ a_prev
//
// An operand has a side (M or N) and the depth K; what differs is which of the two is contiguous.
#pragma once

#include "runs.cuh"

enum class Layout {
    depth_contiguous,  // (side, K): element (s, k) lies at s K + k
    side_contiguous,   // (K, side): element (s, k) lies at k side + s
};

struct NT {
    static constexpr Layout a = Layout::depth_contiguous, b = Layout::depth_contiguous;
};
struct NN {
    static constexpr Layout a = Layout::depth_contiguous, b = Layout::side_contiguous;
};
struct TN {
    static constexpr Layout a = Layout::side_contiguous, b = Layout::side_contiguous;
};

// One operand as it lies in memory.
template <Layout LAYOUT, typename T>
struct Operand {
    const T* start;
    int64 side, depth;

    __device__ __forceinline__ int64 offset(int64 s, int64 k) const {
        return LAYOUT == Layout::depth_contiguous ? s * depth + k : k * side + s;
    }
    // A reference, so that profiles show the load in the line that asks for it.
    __device__ __forceinline__ const T& operator()(int64 s, int64 k) const { return start[offset(s, k)]; }
};

// What a rung computes: Σ_k A[i, k] B[k, j] over the depths k = first .. last − 1, for i < M and j < N.
template <class Form, typename T>
struct Product {
    Operand<Form::a, T> a;
    Operand<Form::b, T> b;
    int64 first, last;

    __device__ __forceinline__ int64 m() const { return a.side; }
    __device__ __forceinline__ int64 n() const { return b.side; }

    // The sum over these depths alone, as far as there are any.
    __device__ __forceinline__ Product between(int64 begin, int64 end) const {
        return {a, b, begin, end < a.depth ? end : a.depth};
    }
};

template <class Form, typename T>
__device__ __forceinline__ Product<Form, T> product(const T* a, const T* b, int64 m, int64 n, int64 depth) {
    return {{a, m, depth}, {b, n, depth}, 0, depth};
}
