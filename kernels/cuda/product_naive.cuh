// naive: one thread, one element of the product; the equation as code.
//
//   c[i, j] = Σ_k A[i, k] B[k, j]
//
// Every operand element is fetched from memory anew by each thread that needs it: 2 K loads for K multiply-adds.
#pragma once

#include "epilogues.cuh"
#include "forms.cuh"

template <class Form, typename T, class Epilogue>
__device__ void product_naive(const T* a, const T* b, int64 m, int64 n, int64 depth, const Epilogue& epilogue) {
    int64 i = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    int64 j = int64(blockIdx.y) * blockDim.x + threadIdx.x;  // neighbours along a row: their stores form whole sectors
    if (i >= m || j >= n) return;
    T sum = 0;
    for (int64 k = 0; k < depth; ++k)
        sum += a[element_offset<Form::a>(i, k, m, depth)] * b[element_offset<Form::b>(j, k, n, depth)];
    finish_element(epilogue, i, j, n, sum);
}
