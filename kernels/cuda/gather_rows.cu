// gather_rows: out[i] = source[order[o + i]], o = control[BATCH_OFFSET]
//
//   source (N, ...), order (N,), out (B, ...); a row is `words` words of type Word, the widest that every row starts on
//
// So a data set stays on the device, and a batch is made of any of its rows without a copy from the host.
#include "control.cuh"
#include "runs.cuh"

template <typename Word>
__global__ void gather_rows(
    const Word* source, const int64* order, const double* control, Word* out, int64 rows, int64 words) {
    int64 i = int64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= rows * words) return;
    int64 row = i / words;
    int64 chosen = order[int64(control[BATCH_OFFSET]) + row];
    out[i] = source[chosen * words + (i - row * words)];
}
