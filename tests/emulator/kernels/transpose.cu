// y (cols, rows) = x (rows, cols) transposed, by tiles of 32 x 32 and blocks of 32 x 8 threads.
constexpr int TILE = 32;

extern "C" __global__ void transpose(int rows, int cols, const float* x, float* y) {
    __shared__ float tile[TILE][TILE + 1];  // one more column, so that a column of the tile meets 32 banks
    int col = blockIdx.x * TILE + threadIdx.x;
    for (int i = threadIdx.y; i < TILE; i += blockDim.y) {
        int row = blockIdx.y * TILE + i;
        if (row < rows && col < cols) tile[i][threadIdx.x] = x[(size_t)row * cols + col];
    }
    __syncthreads();
    int row = blockIdx.y * TILE + threadIdx.x;
    for (int i = threadIdx.y; i < TILE; i += blockDim.y) {
        int col = blockIdx.x * TILE + i;
        if (row < rows && col < cols) y[(size_t)col * rows + row] = tile[threadIdx.x][i];
    }
}
