// Fragments of doubles. A register is 8 bytes here, and one piece of C += A B is 16×8 of 8 depths: 64 bytes.
//
// With g = lane / 4 and t = lane % 4 a thread holds as many registers as of other types, in the same order:
//
//   A, 16 rows:       4 registers; register h + 2 d holds row g + 8 h, depth t + 4 d
//   B, 8 columns:     2 registers; register d holds column g, depth t + 4 d
//   C, 16×8 doubles:  4 registers; register 2 h + e holds row g + 8 h, column 2 t + e
//
// (PTX ISA, "Matrix Fragments for mma.m16n8k8".) sm_90 multiplies such a piece by one instruction. sm_80 takes four of
// 8×8 and 4 depths, "mma.m8n8k4", whose fragments are these registers one by one: so both add in the same order.
//
// ldmatrix gives each lane 4 bytes of a row, never a double. So each lane reads its own, as of side-contiguous tiles of
// 4 bytes. Reads of 16 bytes would be half as many, but bring neighbours that an instruction of sm_90 wants in registers
// apart: it then takes two moves for each.
#pragma once

#include "fragments.cuh"

template <>
__device__ __forceinline__ void multiply_fragments<double>(
    double (&c)[4], const double (&a)[4], double b_first, double b_second) {
#if __CUDA_ARCH__ >= 900
    asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b_first), "d"(b_second));
#else
#pragma unroll
    for (int d = 0; d < 2; ++d)
#pragma unroll
        for (int h = 0; h < 2; ++h)
            asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                : "+d"(c[2 * h]), "+d"(c[2 * h + 1])
                : "d"(a[h + 2 * d]), "d"(d == 0 ? b_first : b_second));
#endif
}

__device__ __forceinline__ void load_double(double& element, unsigned address) {
    asm volatile("ld.shared.f64 %0, [%1];" : "=d"(element) : "r"(address));
}

// Where sides and depths lie in a tile, all in their own order. Shared memory serves 16 lanes at a time with 8 bytes each:
// four neighbouring numbers g, and all four t. In [side][depth] these are 2 units of each of 4 neighbouring rows, by g;
// in [depth][side] likewise, by t. An exclusive or puts them into 4 different groups of 8 banks.
template <Layout LAYOUT, int SIDE, int TILE_K>
struct FragmentPlace<double, LAYOUT, SIDE, TILE_K> {
    static constexpr bool by_depth = LAYOUT == Layout::depth_contiguous;
    static constexpr int UNITS = (by_depth ? TILE_K : SIDE) / WIDEST<double>;  // 16-byte units of a row of the tile
    static_assert(SIDE % 16 == 0 && UNITS % 8 == 0, "groups of 16 sides; whole lines");

    static constexpr bool swizzled = true, interleaved = false;
    static __device__ __forceinline__ int swizzle(int row) { return row % 4 * 2; }
    static __device__ __forceinline__ int side_of(int slot) { return slot; }
    static __device__ __forceinline__ int side_of(int g, int h) { return g + 8 * h; }
};

template <Factor FACTOR, Layout LAYOUT, int SIDE, int TILE_K, int VECTOR, int BLOCK_THREADS>
struct FragmentTile<FACTOR, double, LAYOUT, SIDE, TILE_K, VECTOR, BLOCK_THREADS>
    : TileCopies<double, LAYOUT, SIDE, TILE_K, VECTOR, BLOCK_THREADS, FragmentPlace<double, LAYOUT, SIDE, TILE_K>> {
    using Place = FragmentPlace<double, LAYOUT, SIDE, TILE_K>;
    using Copies = TileCopies<double, LAYOUT, SIDE, TILE_K, VECTOR, BLOCK_THREADS, Place>;
    static constexpr int ROW = Copies::WIDTH * sizeof(double);  // bytes of a row of the tile
    static constexpr int DEPTH = 8;                             // of a piece

    using Copies::Copies;

    // Where in a tile this lane begins to read, in bytes, for the warp whose sides begin at first_side.
    static __device__ __forceinline__ unsigned start(int first_side, int lane) {
        int g = lane / 4, t = lane % 4;
        int row = Place::by_depth ? first_side + g : t;
        int element = Place::by_depth ? t : first_side + g;
        return row * ROW + (element / 2 ^ Place::swizzle(row)) * 16 + element % 2 * 8;
    }

    // The fragment of 16 sides, number `group` of the warp, and of depths step · DEPTH .. (step + 1) · DEPTH − 1 of the
    // tile at `tile`. What is added to `start` is a multiple of four rows or of a line; within it an exclusive or adds.
    static __device__ __forceinline__ void read(
        double (&registers)[4], unsigned tile, unsigned start, int group, int step) {
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int d = 0; d < 2; ++d) {
                unsigned from = Place::by_depth ? (start ^ step * 64 ^ d * 32) + (16 * group + 8 * h) * ROW
                                                : (start ^ h * 64) + group * 128 + (DEPTH * step + 4 * d) * ROW;
                load_double(registers[FACTOR == Factor::a ? h + 2 * d : 2 * h + d], tile + from);
            }
    }
};

// A lane's sums of one row of the result, in runs of two columns: run j begins at column 8 j + first_column_of(lane).
template <bool, int FRAGMENTS>
__device__ __forceinline__ void gather_row(
    double (&row)[4 * (FRAGMENTS / 2)], const double (&sums)[FRAGMENTS][4], int h, int) {
#pragma unroll
    for (int j = 0; j < FRAGMENTS; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) row[2 * j + e] = sums[j][2 * h + e];
}
