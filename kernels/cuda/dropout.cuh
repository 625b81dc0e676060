// Dropout: which units of a layer take part in a step. The mask lies in no memory: it is a function of the place and of
// the step, and is drawn anew by every kernel that asks for it.
//
// The random word of the unit in row i of the global batch and in column j is number j mod 4 of Philox at
// (i, ⌊j/4⌋, layer, step); the unit is kept if the word is not under the threshold, p 2³². So four neighbouring columns
// share one call. (../../gpubp/nn/dropout.py says the same for the host.)
//
// An epilogue asks its units for two things: `scaled`, the sum times the factor α of what the product reads; and `draw`,
// which elements of a run are kept.
#pragma once

#include "control.cuh"
#include "philox.cuh"
#include "runs.cuh"

// No dropout: every unit is kept, and no sum gets a factor.
struct AllUnits {
    template <typename A>
    __device__ A scaled(A sum) const {
        return sum;
    }
    template <int W>
    __device__ void draw(const Run&, bool (&kept)[W]) const {
#pragma unroll
        for (int w = 0; w < W; ++w) kept[w] = true;
    }
};

template <typename A>
struct Dropout {
    A alpha;
    unsigned threshold;  // 0: every unit is kept, and nothing is drawn
    uint2 key;
    unsigned layer, step;
    int64 first_row;  // of the global batch, which is row 0 of the product

    // control: the step to draw for; null if nothing is drawn
    __device__ Dropout(
        A alpha, unsigned threshold, unsigned key0, unsigned key1, unsigned layer, int64 first_row,
        const double* control)
        : alpha(alpha), threshold(threshold), key{key0, key1}, layer(layer),
          step(control == nullptr ? 0 : unsigned(int64(control[STEP]))), first_row(first_row) {}

    __device__ A scaled(A sum) const { return alpha * sum; }

    // A run of W columns begins at a multiple of W.
    template <int W>
    __device__ void draw(const Run& run, bool (&kept)[W]) const {
        static_assert(4 % W == 0, "one call serves a run");
        AllUnits{}.draw(run, kept);
        if (threshold == 0) return;
        unsigned row = unsigned(first_row + run.row), group = unsigned(run.column / 4);
        uint4 words = Philox::words(make_uint4(row, group, layer, step), key);
        int first = W < 4 ? int(run.column % 4) : 0;
#pragma unroll
        for (int w = 0; w < W; ++w) kept[w] = word(words, first + w) >= threshold;
    }

    static __device__ __forceinline__ unsigned word(const uint4& words, int i) {
        return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
    }
};
