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

template <Layout layout>
__device__ __forceinline__ int64 element_offset(int64 s, int64 k, int64 side, int64 depth) {
    return layout == Layout::depth_contiguous ? s * depth + k : k * side + s;
}
