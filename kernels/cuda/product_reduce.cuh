// The second half of split-K: add the parts of a product in their order, then the epilogue.
//
//   c[i, j] = Σ_s parts[s, i, j]
//
// In place of A it gets the parts, (S, M, N), and in place of the depth their number S; B is not looked at. The order of
// the sum is fixed by the split alone, so the result is the same bits from run to run.
#pragma once

#include "epilogues.cuh"
#include "forms.cuh"

// A block takes 4 THREADS neighbouring elements. Where every row starts on a 16-byte boundary, a thread adds up runs of
// as many as one access moves, else single ones.
struct Reduction {
    static constexpr int THREADS = 64, BLOCKS = 1;
    static constexpr int EACH = 4;  // elements of a thread

    template <class Form, typename T, class Epilogue>
    static __device__ __forceinline__ void compute(const Product<Form, T>& product, const Epilogue& epilogue) {
        constexpr int W = WIDEST<T>;
        const T* parts = product.a.start;
        if (product.n() % W == 0 && is_aligned<W>(parts) && epilogue.template aligned<W>())
            add_up<W>(parts, int(product.last), product.m(), product.n(), epilogue);
        else
            add_up<1>(parts, int(product.last), product.m(), product.n(), epilogue);
    }

    template <int W, typename T, class Epilogue>
    static __device__ __forceinline__ void add_up(
        const T* parts, int split, int64 m, int64 n, const Epilogue& epilogue) {
        int64 size = m * n;
#pragma unroll 1
        for (int e = 0; e < EACH; e += W) {
            int64 index = (int64(blockIdx.x) * EACH + e) * THREADS + threadIdx.x * W;
            if (index >= size) return;
            const T* next = parts + index;
            T sums[W];
            load_run(sums, next, W, true);
            for (int s = 1; s < split; ++s) {
                T part[W];
                load_run(part, next += size, W, true);
#pragma unroll
                for (int w = 0; w < W; ++w) sums[w] += part[w];
            }
            epilogue.finish(Run{index, index / n, index % n, W, W > 1}, sums);
        }
    }
};
