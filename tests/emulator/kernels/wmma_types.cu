// d = 2 (a b + c) of one tile, by one warp, in every type that wmma has. a and c by rows, b by columns, d as told.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;
namespace types = wmma::experimental::precision;

template <typename Type>
struct Stored {
    using type = Type;
};
template <>
struct Stored<wmma::precision::tf32> {
    using type = float;
};

template <int M, int N, int K, typename Type, typename Sum>
__global__ void tile(const typename Stored<Type>::type* a, const typename Stored<Type>::type* b, const Sum* c, Sum* d) {
    wmma::fragment<wmma::matrix_a, M, N, K, Type, wmma::row_major> factor_a;
    wmma::fragment<wmma::matrix_b, M, N, K, Type, wmma::col_major> factor_b;
    wmma::fragment<wmma::accumulator, M, N, K, Sum> sums;
    wmma::load_matrix_sync(factor_a, a, K);
    wmma::load_matrix_sync(factor_b, b, K);
    wmma::load_matrix_sync(sums, c, N, wmma::mem_row_major);
    wmma::mma_sync(sums, factor_a, factor_b, sums);
    for (int i = 0; i < sums.num_elements; i++) sums.x[i] = sums.x[i] + sums.x[i];
    wmma::store_matrix_sync(d, sums, M, wmma::mem_col_major);
}

// The types of fewer than eight bits, at their one shape.
template <typename Type, int K>
__global__ void packed_tile(const void* a, const void* b, const int* c, int* d) {
    wmma::fragment<wmma::matrix_a, 8, 8, K, Type, wmma::row_major> factor_a;
    wmma::fragment<wmma::matrix_b, 8, 8, K, Type, wmma::col_major> factor_b;
    wmma::fragment<wmma::accumulator, 8, 8, K, int> sums;
    wmma::load_matrix_sync(factor_a, (const Type*)a, K);
    wmma::load_matrix_sync(factor_b, (const Type*)b, K);
    wmma::load_matrix_sync(sums, c, 8, wmma::mem_row_major);
    if constexpr (K == 128)
        wmma::bmma_sync(sums, factor_a, factor_b, sums, wmma::experimental::bmmaBitOpAND);
    else
        wmma::mma_sync(sums, factor_a, factor_b, sums);
    for (int i = 0; i < sums.num_elements; i++) sums.x[i] = sums.x[i] + sums.x[i];
    wmma::store_matrix_sync(d, sums, 8, wmma::mem_col_major);
}
