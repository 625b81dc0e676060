// bias_gradient: ∂L/∂b = Σ_batch δ, a column sum
//
//   delta (B, n), gradient (n,)
//
// Two stages, each in a fixed order. Neighbouring threads take neighbouring columns, so that every access moves whole
// sectors; BLOCK_ROWS threads of a block share a column, and so do the blocks of one column of blocks.
#include "runs.cuh"

constexpr int BLOCK_COLUMNS = 32, BLOCK_ROWS = 8;

// First stage: parts[p, j] = Σ δ[i, j] over the rows i of part p. With one part, parts is the gradient itself.
template <typename T>
__global__ void __launch_bounds__(BLOCK_COLUMNS * BLOCK_ROWS, 1) bias_gradient_parts(
    const T* delta, Accumulator<T>* parts, int64 rows, int64 width, int64 rows_a_part) {
    using A = Accumulator<T>;
    __shared__ A sums[BLOCK_ROWS][BLOCK_COLUMNS];
    int64 column = int64(blockIdx.x) * BLOCK_COLUMNS + threadIdx.x;
    int64 first = blockIdx.y * rows_a_part;
    int64 last = first + rows_a_part < rows ? first + rows_a_part : rows;
    A sum = 0;
    if (column < width)
        for (int64 i = first + threadIdx.y; i < last; i += BLOCK_ROWS) sum += A(delta[i * width + column]);
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < width) {
#pragma unroll
        for (int y = 1; y < BLOCK_ROWS; ++y) sum += sums[y][threadIdx.x];
        parts[blockIdx.y * width + column] = sum;
    }
}

// Second stage: gradient[j] = Σ_p parts[p, j].
template <typename T>
__global__ void bias_gradient(const T* parts, T* gradient, int64 count, int64 width) {
    int64 column = int64(blockIdx.x) * blockDim.x + threadIdx.x;
    if (column >= width) return;
    T sum = parts[column];
    for (int64 p = 1; p < count; ++p) sum += parts[p * width + column];
    gradient[column] = sum;
}
