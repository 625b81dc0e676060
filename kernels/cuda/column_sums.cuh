// Column sums of a matrix, in one launch: parts of the rows, which the last warp to arrive adds up.
//
//   Σ_i x[i, j] for every column j
//
// A warp takes 32 neighbouring columns, so that every access moves whole sectors, of one part of the rows. It needs no
// shared memory and no barrier of its block: so further blocks of any kernel can do it, beside what that is there for.
#pragma once

#include "arrivals.cuh"
#include "epilogues.cuh"

// x (rows, width); parts: room for every sum of every part; arrivals: a 0 for every 32 columns. Warps are numbered from
// 0, and those after the last part have nothing to do.
template <typename T>
struct Columns {
    using A = Accumulator<T>;
    const T* x;
    A* parts;
    unsigned* arrivals;
    int64 rows, width, rows_a_part;

    template <class Epilogue>
    __device__ __forceinline__ void sum_up(int64 warp, int lane, const Epilogue& epilogue) const {
        int64 groups = (width + 31) / 32, count = (rows + rows_a_part - 1) / rows_a_part;
        int64 group = warp % groups, part = warp / groups, column = group * 32 + lane;
        if (part >= count) return;
        int64 first = part * rows_a_part, last = first + rows_a_part < rows ? first + rows_a_part : rows;
        A sum = 0;
        if (column < width) sum = sum_of_rows(x, first, last, column);
        if (count > 1) {
            if (column < width) parts[part * width + column] = sum;
            if (!warp_arrives_last(arrivals + group, unsigned(count), lane)) return;
            if (column < width) sum = sum_of_rows(parts, 0, count, column);
        }
        if (column < width) finish_element(epilogue, 0, column, width, sum);
    }

    template <typename X>
    __device__ __forceinline__ A sum_of_rows(const X* from, int64 first, int64 last, int64 column) const {
        A sum = 0;
#pragma unroll 8  // so many loads are on their way at once
        for (int64 i = first; i < last; ++i) sum += A(from[i * width + column]);
        return sum;
    }
};
