// c = max(alpha a b, 0) with tensor cores, through wmma: a block of four warps has 32 x 32 elements of c, a warp 16 x 16.
// m and n are multiples of 32, k of 16.

#include <cuda_fp16.h>
#include <mma.h>

using namespace nvcuda;

constexpr int TILE = 32, STEP = 16;
constexpr int LDA = STEP + 8, LDB = TILE + 8, LDC = TILE + 4;  // padded, for fewer bank conflicts

extern "C" __global__ void wmma_product(int n, int k, float alpha, const half* a, const half* b, float* c) {
    __shared__ __align__(32) half tile_a[TILE * LDA];
    __shared__ __align__(32) half tile_b[STEP * LDB];
    __shared__ __align__(32) float tile_c[TILE * LDC];
    const int row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE;
    const int warp = threadIdx.x / 32, row = warp / 2 * 16, col = warp % 2 * 16;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
    wmma::fill_fragment(sums, 0.0f);
    for (int step = 0; step < k; step += STEP) {
        for (int i = threadIdx.x; i < TILE * STEP; i += blockDim.x) {
            tile_a[i / STEP * LDA + i % STEP] = a[(row0 + i / STEP) * k + step + i % STEP];
            tile_b[i / TILE * LDB + i % TILE] = b[(step + i / TILE) * n + col0 + i % TILE];
        }
        __syncthreads();
        wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> factor_a;
        wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> factor_b;
        wmma::load_matrix_sync(factor_a, tile_a + row * LDA, LDA);
        wmma::load_matrix_sync(factor_b, tile_b + col, LDB);
        wmma::mma_sync(sums, factor_a, factor_b, sums);
        __syncthreads();  // nobody may fill the tiles before all have read them
    }
    for (int i = 0; i < sums.num_elements; i++) sums.x[i] = fmaxf(alpha * sums.x[i], 0.0f);
    wmma::store_matrix_sync(tile_c + row * LDC + col, sums, LDC, wmma::mem_row_major);
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * TILE; i += blockDim.x)
        c[(row0 + i / TILE) * n + col0 + i % TILE] = tile_c[i / TILE * LDC + i % TILE];
}

// The sums of the rows of a matrix of 16 x 16, times its transposed one, by one warp.
extern "C" __global__ void wmma_row_sums(const half* a, float* rows) {
    __shared__ __align__(32) float product[16 * 16];
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sums;
    wmma::fill_fragment(sums, 0.0f);
    wmma::load_matrix_sync(left, a, 16);
    wmma::load_matrix_sync(right, a, 16);
    wmma::mma_sync(sums, left, right, sums);
    wmma::store_matrix_sync(product, sums, 16, wmma::mem_row_major);
    __syncwarp();
    if (threadIdx.x < 16) {
        float total = 0.0f;
        for (int i = 0; i < 16; i++) total += product[threadIdx.x * 16 + i];
        rows[threadIdx.x] = total;
    }
}
