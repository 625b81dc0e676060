// The second half of split-K: add the parts of a product in their order, then the epilogue.
//
//   c[i, j] = Σ_s parts[s, i, j]
//
// In place of A it gets the parts, (S, M, N), and in place of the depth their number S; B is not looked at. The order of
// the sum is fixed by the split alone, so the result is the same bits from run to run.
#pragma once

#include "epilogues.cuh"
#include "forms.cuh"

struct Reduction {
    static constexpr int THREADS = 256, BLOCKS = 1;

    template <class Form, typename T, class Epilogue>
    static __device__ __forceinline__ void compute(const Product<Form, T>& product, const Epilogue& epilogue) {
        const T* parts = product.a.start;
        int64 m = product.m(), n = product.n(), split = product.last;
        int64 index = int64(blockIdx.x) * THREADS + threadIdx.x;
        if (index >= m * n) return;
        T sum = parts[index];
        for (int64 s = 1; s < split; ++s) sum += parts[s * m * n + index];
        finish_element(epilogue, index / n, index % n, n, sum);
    }
};
