// gather_rows: out[i] = source[order[o + i]], o = control[BATCH_OFFSET], of up to three arrays: x, y and the weights
//
//   x (N, ...), order (N,), x_out (B, ...); a row is `words` words of a type, the widest that every row starts on, and 0
//   words of an array that is not there
//
// So a data set stays on the device, and one launch makes a batch of any of its rows, without a copy from the host.
#include "control.cuh"
#include "runs.cuh"

// Move word i of the batch.
template <typename Word>
__device__ __forceinline__ void gather(const Word* source, Word* out, int64 words, const int64* order, int64 i) {
    int64 row = i / words;
    out[i] = source[order[row] * words + (i - row * words)];
}

template <typename X, typename Y = unsigned short, typename W = unsigned short>
__global__ void gather_rows(
    const X* x, const Y* y, const W* weights, const int64* order, const double* control, X* x_out, Y* y_out,
    W* weights_out, int64 rows, int64 x_words, int64 y_words, int64 weights_words) {
    int64 i = int64(blockIdx.x) * blockDim.x + threadIdx.x;
    int64 x_end = rows * x_words, y_end = x_end + rows * y_words, end = y_end + rows * weights_words;
    order += int64(control[BATCH_OFFSET]);
    if (i < x_end)
        gather(x, x_out, x_words, order, i);
    else if (i < y_end)
        gather(y, y_out, y_words, order, i - x_end);
    else if (i < end)
        gather(weights, weights_out, weights_words, order, i - y_end);
}
