// naive: one thread, one element of the product; the equation as code.
//
//   c[i, j] = Σ_k A[i, k] B[k, j]
//
// Every operand element is fetched from memory anew by each thread that needs it: 2 K loads for K multiply-adds.
#pragma once

#include "epilogues.cuh"
#include "forms.cuh"

struct Naive {
    static constexpr int THREADS = 0, BLOCKS = 0;  // any block: a bound would cost four registers, and gain nothing

    template <class Form, typename T, class Epilogue>
    static __device__ void compute(const Product<Form, T>& product, const Epilogue& epilogue) {
        int64 i = int64(blockIdx.x) * blockDim.y + threadIdx.y;
        int64 j = int64(blockIdx.y) * blockDim.x + threadIdx.x;  // neighbours in a row: they store whole sectors
        if (i >= product.m() || j >= product.n()) return;
        T sum = 0;
        for (int64 k = product.first; k < product.last; ++k) sum += product.a(i, k) * product.b(j, k);
        finish_element(epilogue, i, j, product.n(), sum);
    }
};
