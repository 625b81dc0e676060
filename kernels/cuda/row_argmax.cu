// row_argmax: out[i] = the first j of the largest x[i, j]; a NaN counts as the largest
//
//   x (B, n), out (B,)
//
// A team of TEAM threads takes a row: a warp for narrow rows, a block for wide ones.
#include "reductions.cuh"

template <typename T>
__device__ __forceinline__ bool precedes(T x, int64 i, T y, int64 j) {
    bool x_nan = x != x, y_nan = y != y;
    if (x_nan != y_nan) return x_nan;
    if (x_nan || x == y) return i < j;
    return x > y;
}

template <typename T, int TEAM>
__global__ void row_argmax(const T* x, int64* out, int64 rows, int64 width) {
    int64 row = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    x += row * width;
    using A = Accumulator<T>;
    A best = x[0];
    int64 place = 0;
    for (int64 j = threadIdx.x; j < width; j += TEAM)
        if (A value = x[j]; precedes(value, j, best, place)) best = value, place = j;
    // the winning value first, then the first place that holds it
    A winner = team_reduce<TEAM>(best, Maximum{});
    bool mine = best == winner || (best != best && winner != winner);
    int64 last = width;
    place = -team_reduce<TEAM>(mine ? -place : -last, Maximum{});
    if (threadIdx.x == 0) out[row] = place;
}
