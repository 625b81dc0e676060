// C = A B in float32: A (M, K), B (K, N), C (M, N), all row-major, any sides.
// A block of 256 threads computes a tile of 128 x 128 in steps of 8 along K; a thread computes 8 x 8 of it.
constexpr int TILE = 128;
constexpr int STEP = 8;
constexpr int EACH = 8;

extern "C" __global__ void __launch_bounds__(256) sgemm(
    int m, int n, int k, const float* __restrict__ a, const float* __restrict__ b, float* __restrict__ c) {
    __shared__ float tile_a[STEP][TILE];  // transposed, so that a thread reads its 8 rows side by side
    __shared__ float tile_b[STEP][TILE];

    const int row0 = blockIdx.y * TILE;
    const int col0 = blockIdx.x * TILE;
    const int thread_row = threadIdx.x / 16 * EACH;
    const int thread_col = threadIdx.x % 16 * EACH;

    float sums[EACH][EACH] = {};
    for (int k0 = 0; k0 < k; k0 += STEP) {
        for (int i = threadIdx.x; i < TILE * STEP; i += 256) {
            const int row = row0 + i / STEP, inner = k0 + i % STEP;
            tile_a[i % STEP][i / STEP] = row < m && inner < k ? a[(size_t)row * k + inner] : 0.0f;
        }
        for (int i = threadIdx.x; i < TILE * STEP; i += 256) {
            const int inner = k0 + i / TILE, col = col0 + i % TILE;
            tile_b[i / TILE][i % TILE] = inner < k && col < n ? b[(size_t)inner * n + col] : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int inner = 0; inner < STEP; inner++) {
            float column[EACH], row[EACH];
#pragma unroll
            for (int i = 0; i < EACH; i++) column[i] = tile_a[inner][thread_row + i];
#pragma unroll
            for (int j = 0; j < EACH; j++) row[j] = tile_b[inner][thread_col + j];
#pragma unroll
            for (int i = 0; i < EACH; i++)
#pragma unroll
                for (int j = 0; j < EACH; j++) sums[i][j] += column[i] * row[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < EACH; i++)
#pragma unroll
        for (int j = 0; j < EACH; j++) {
            const int row = row0 + thread_row + i, col = col0 + thread_col + j;
            if (row < m && col < n) c[(size_t)row * n + col] = sums[i][j];
        }
}
