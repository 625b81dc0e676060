// Epilogues: what happens to an element of a product between the main loop and memory.
//
// A main loop hands each epilogue runs of W sums that lie side by side in one row of the M×N result, and knows nothing
// of what becomes of them; so every main loop serves every primitive, and no product is written just to be read again.
// `aligned<W>` says whether every array of the epilogue starts where a run of W elements may be moved by one access.
#pragma once

#include "runs.cuh"

// c = Σ
template <typename T>
struct Plain {
    T* c;  // (M, N)

    template <int W>
    __device__ bool aligned() const {
        return is_aligned<W>(c);
    }

    template <int W>
    __device__ void finish(const Run& run, const T (&sum)[W]) const {
        store_run(c + run.offset, sum, run.count, run.vector);
    }
};

// z = Σ + b ; a = σ(z)
template <typename T, template <typename> class Activation>
struct BiasActivation {
    const T* b;  // (N,), or null for no bias
    T* z;        // (M, N), or null where σ' does not read it
    T* a;        // (M, N)
    Activation<T> sigma;

    template <int W>
    __device__ bool aligned() const {
        return is_aligned<W>(z) && is_aligned<W>(a);
    }

    template <int W>
    __device__ void finish(const Run& run, const T (&sum)[W]) const {
        T z_run[W], a_run[W];
#pragma unroll
        for (int w = 0; w < W; ++w) {
            T bias = b != nullptr && w < run.count ? b[run.column + w] : T(0);
            z_run[w] = sum[w] + bias;
            a_run[w] = sigma.apply(z_run[w]);
        }
        if (z != nullptr) store_run(z + run.offset, z_run, run.count, run.vector);
        store_run(a + run.offset, a_run, run.count, run.vector);
    }
};

// delta = Σ ⊙ σ'(z)
template <typename T, template <typename> class Activation>
struct TimesDerivative {
    const T* saved;  // (M, N): a or z, as the activation reads
    T* delta;        // (M, N)
    Activation<T> sigma;

    template <int W>
    __device__ bool aligned() const {
        return is_aligned<W>(saved) && is_aligned<W>(delta);
    }

    template <int W>
    __device__ void finish(const Run& run, const T (&sum)[W]) const {
        T saved_run[W], delta_run[W];
        load_run(saved_run, saved + run.offset, run.count, run.vector);
#pragma unroll
        for (int w = 0; w < W; ++w) delta_run[w] = sum[w] * sigma.derivative(saved_run[w]);
        store_run(delta + run.offset, delta_run, run.count, run.vector);
    }
};

// c = α Σ + β c
template <typename T>
struct ScaledAccumulate {
    T alpha, beta;
    T* c;  // (M, N), not read where β = 0

    template <int W>
    __device__ bool aligned() const {
        return is_aligned<W>(c);
    }

    template <int W>
    __device__ void finish(const Run& run, const T (&sum)[W]) const {
        T c_run[W] = {};
        if (beta != T(0)) load_run(c_run, c + run.offset, run.count, run.vector);
#pragma unroll
        for (int w = 0; w < W; ++w) c_run[w] = alpha * sum[w] + beta * c_run[w];
        store_run(c + run.offset, c_run, run.count, run.vector);
    }
};

// One element of the result: for the rungs where a thread owns single elements.
template <typename T, class Epilogue>
__device__ __forceinline__ void finish_element(const Epilogue& epilogue, int64 row, int64 column, int64 n, T sum) {
    T sums[1] = {sum};
    epilogue.finish(Run{row * n + column, column, 1, false}, sums);
}
