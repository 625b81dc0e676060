// C = A Bt with tensor cores: A (M, K) and B (N, K) row-major in tf32, bf16 or f16, C (M, N) in float32.
// Any M and N; rows of A and B must be multiples of 16 bytes. A block of 128 threads computes 64 x 64 of C, a warp 32 x 32,
// in steps of 64 bytes along K, through three stages of shared memory that cp.async fills two steps ahead.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

constexpr int TILE = 64;
constexpr int CHUNK = 16;                  // bytes that one cp.async moves
constexpr int CHUNKS = 4;                  // chunks of a row of a tile
constexpr int ROW = CHUNK * CHUNKS;        // bytes of a row of a tile
constexpr int STAGE = 2 * TILE * ROW;      // bytes of a stage: a tile of A, then one of B
constexpr int STAGES = 3;

// Chunks of a row change places from row to row, so that the 8 rows that ldmatrix reads at a time meet all banks.
__device__ int place(int row, int chunk) { return row * ROW + (chunk ^ (row / 2 % CHUNKS)) * CHUNK; }

__device__ void copy_chunk(unsigned int shared, const void* global, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(inside ? CHUNK : 0));
}

// Rows outside of the matrix and bytes beyond its end are filled with zeros.
__device__ void load_tile(unsigned int shared, const char* matrix, int rows, int row_bytes, int row0, int byte0) {
    for (int i = threadIdx.x; i < TILE * CHUNKS; i += 128) {
        const int row = i / CHUNKS, chunk = i % CHUNKS, byte = byte0 + chunk * CHUNK;
        const bool inside = row0 + row < rows && byte < row_bytes;
        const char* source = inside ? matrix + (size_t)(row0 + row) * row_bytes + byte : matrix;
        copy_chunk(shared + place(row, chunk), source, inside);
    }
}

__device__ void load_fragments(unsigned int (&parts)[4], unsigned int address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(parts[0]), "=r"(parts[1]), "=r"(parts[2]), "=r"(parts[3])
                 : "r"(address));
}

template <typename T>
__device__ void multiply(float (&c)[4], const unsigned int (&a)[4], unsigned int b0, unsigned int b1);

#define MULTIPLY(type, instruction)                                                                            \
    template <>                                                                                                \
    __device__ void multiply<type>(float(&c)[4], const unsigned int(&a)[4], unsigned int b0, unsigned int b1) { \
        asm volatile(instruction " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"           \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                          \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                          \
    }

MULTIPLY(float, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
MULTIPLY(__half, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")
MULTIPLY(__nv_bfloat16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")

// Tensor cores read tf32 out of float32 registers, whose last 13 bits must be rounded away first.
template <typename T>
__device__ void round_inputs(unsigned int (&)[4]) {}
template <>
__device__ void round_inputs<float>(unsigned int (&parts)[4]) {
    for (int i = 0; i < 4; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(parts[i]) : "f"(__uint_as_float(parts[i])));
}

template <typename T>
__global__ void __launch_bounds__(128) tensor_product(int m, int n, int k, const T* a, const T* b, float* c) {
    __shared__ __align__(128) char stages[STAGES * STAGE];
    const unsigned int shared = (unsigned int)__cvta_generic_to_shared(stages);
    const int row0 = blockIdx.y * TILE, col0 = blockIdx.x * TILE;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int warp_row = warp / 2 * 32, warp_col = warp % 2 * 32;
    const int row_bytes = k * (int)sizeof(T);
    const int steps = (row_bytes + ROW - 1) / ROW;

    auto load_stage = [&](int step) {
        const unsigned int stage = shared + step % STAGES * STAGE;
        if (step < steps) {
            load_tile(stage, (const char*)a, m, row_bytes, row0, step * ROW);
            load_tile(stage + TILE * ROW, (const char*)b, n, row_bytes, col0, step * ROW);
        }
        asm volatile("cp.async.commit_group;");  // an empty group keeps the count of groups right
    };

    float sums[2][4][4] = {};
    for (int step = 0; step < STAGES - 1; step++) load_stage(step);
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group 1;" ::: "memory");
        __syncthreads();  // the stage has arrived for all, and all have done with the one that is filled next
        load_stage(step + STAGES - 1);
        const unsigned int tile_a = shared + step % STAGES * STAGE, tile_b = tile_a + TILE * ROW;
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk += 2) {
            unsigned int part_a[2][4], part_b[2][4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                // Matrices of 8 rows: rows 0-7 and 8-15 of the first chunk, then the same of the second.
                load_fragments(part_a[i], tile_a + place(warp_row + i * 16 + lane % 16, chunk + lane / 16));
                round_inputs<T>(part_a[i]);
                // Rows 0-7 of both chunks, then rows 8-15 of both.
                load_fragments(
                    part_b[i], tile_b + place(warp_col + i * 16 + lane % 8 + lane / 16 * 8, chunk + lane / 8 % 2));
                round_inputs<T>(part_b[i]);
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    multiply<T>(sums[i][j], part_a[i], part_b[j / 2][j % 2 * 2], part_b[j / 2][j % 2 * 2 + 1]);
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int row = row0 + warp_row + i * 16 + lane / 4 + e / 2 * 8;
                const int col = col0 + warp_col + j * 8 + lane % 4 * 2 + e % 2;
                if (row < m && col < n) c[(size_t)row * n + col] = sums[i][j][e];
            }
}
