// Epilogues: what happens to an element of a product between the main loop and memory.
//
// A main loop hands each epilogue runs of W sums that lie side by side in one row of the M×N result, and knows nothing
// of what becomes of them; so every main loop serves every primitive, and no product is written just to be read again.
// `aligned<W>` says whether every array of the epilogue starts where a run of W elements may be moved by one access.
// A run knows how it is stored: by the thread, or by way of shared memory (result_stores.cuh).
// Arrays are of type T; everything is computed in Accumulator<T>, and only what is stored is rounded to T.
#pragma once

#include "dropout.cuh"
#include "runs.cuh"

// c = Σ
template <typename T>
struct Plain {
    T* c;  // (M, N)

    template <int W>
    __device__ bool aligned() const {
        return is_aligned<W>(c);
    }

    template <int W, class R>
    __device__ void finish(const R& run, const Accumulator<T> (&sum)[W]) const {
        run.template store<0>(c, sum);
    }
};

// z = α Σ + b ; a = σ(z) of the units that are kept, else 0. α = 1 without dropout.
template <typename T, template <typename> class Activation, class Units = AllUnits>
struct BiasActivation {
    const Accumulator<T>* b;  // (N,), or null for no bias
    T* z;                     // (M, N), or null where σ' does not read it
    T* a;                     // (M, N)
    Activation<Accumulator<T>> sigma;
    Units units;

    template <int W>
    __device__ bool aligned() const {
        return is_aligned<W>(z) && is_aligned<W>(a);
    }

    template <int W, class R>
    __device__ void finish(const R& run, const Accumulator<T> (&sum)[W]) const {
        Accumulator<T> bias[W] = {}, z_run[W], a_run[W];
        // b alone need not be aligned: it lies in the middle of all parameters
        if (b != nullptr) load_run(bias, b + run.column, run.count, run.vector && is_aligned<W>(b));
        bool kept[W];
        units.draw(run, kept);
#pragma unroll
        for (int w = 0; w < W; ++w) {
            z_run[w] = units.scaled(sum[w]) + bias[w];
            a_run[w] = kept[w] ? sigma.apply(z_run[w]) : Accumulator<T>(0);
        }
        if (z != nullptr) run.template store<1>(z, z_run);
        run.template store<0>(a, a_run);
    }
};

// delta = α Σ ⊙ σ'(z) of the units that are kept, else 0. α = 1 without dropout.
template <typename T, template <typename> class Activation, class Units = AllUnits>
struct TimesDerivative {
    const T* saved;  // (M, N): a or z, as the activation reads
    T* delta;        // (M, N)
    Activation<Accumulator<T>> sigma;
    Units units;

    template <int W>
    __device__ bool aligned() const {
        return is_aligned<W>(saved) && is_aligned<W>(delta);
    }

    template <int W, class R>
    __device__ void finish(const R& run, const Accumulator<T> (&sum)[W]) const {
        Accumulator<T> saved_run[W], delta_run[W];
        load_values(saved_run, saved + run.offset, run.count, run.vector);
        bool kept[W];
        units.draw(run, kept);
#pragma unroll
        for (int w = 0; w < W; ++w)
            delta_run[w] = kept[w] ? units.scaled(sum[w]) * sigma.derivative(saved_run[w]) : Accumulator<T>(0);
        run.template store<0>(delta, delta_run);
    }
};

// c = α Σ + β c
template <typename T>
struct ScaledAccumulate {
    Accumulator<T> alpha, beta;
    T* c;  // (M, N), not read where β = 0

    template <int W>
    __device__ bool aligned() const {
        return is_aligned<W>(c);
    }

    template <int W, class R>
    __device__ void finish(const R& run, const Accumulator<T> (&sum)[W]) const {
        Accumulator<T> c_run[W] = {};
        if (beta != Accumulator<T>(0)) load_values(c_run, c + run.offset, run.count, run.vector);
#pragma unroll
        for (int w = 0; w < W; ++w) c_run[w] = alpha * sum[w] + beta * c_run[w];
        run.template store<0>(c, c_run);
    }
};

// One element of the result: for the rungs where a thread owns single elements.
template <typename T, class Epilogue>
__device__ __forceinline__ void finish_element(const Epilogue& epilogue, int64 row, int64 column, int64 n, T sum) {
    T sums[1] = {sum};
    epilogue.finish(Run{row * n + column, row, column, 1, false}, sums);
}

// A thread's sums, ROWS × COLUMNS of them: row i belongs to row row_of(i) of the result; its columns g W .. g W + W − 1
// to a run that begins at column column_of(g).
//
// One run of sums at a time, always from the same registers: those behind it move up. So the loops stay loops, with
// the epilogue in them once and not for every run, and the sums stay in registers.
template <int W, int ROWS, int COLUMNS, typename T, class Epilogue, class RowOf, class ColumnOf>
__device__ __forceinline__ void finish_sums(
    T (&sums)[ROWS][COLUMNS], int64 m, int64 n, RowOf row_of, ColumnOf column_of, const Epilogue& epilogue) {
    bool aligned = n % W == 0 && epilogue.template aligned<W>();
#pragma unroll 1
    for (int i = 0; i < ROWS; ++i) {
        int64 row = row_of(i);
        T line[COLUMNS];
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) line[j] = sums[0][j];
#pragma unroll
        for (int r = 1; r < ROWS; ++r)
#pragma unroll
            for (int j = 0; j < COLUMNS; ++j) sums[r - 1][j] = sums[r][j];

#pragma unroll 1
        for (int g = 0; g < COLUMNS / W; ++g) {
            int64 column = column_of(g);
            T run[W];
#pragma unroll
            for (int w = 0; w < W; ++w) run[w] = line[w];
#pragma unroll
            for (int j = W; j < COLUMNS; ++j) line[j - W] = line[j];
            if (row < m && column < n) {
                int count = n - column < W ? int(n - column) : W;
                epilogue.finish(Run{row * n + column, row, column, count, aligned}, run);
            }
        }
    }
}
