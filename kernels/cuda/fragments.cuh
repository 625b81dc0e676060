// Fragments: what each thread of a warp holds of a matrix that a tensor core multiplies, and how it gets there.
//
// One instruction, mma.sync, makes a 16×8 piece of C += A B, of 32 bytes of depth: 16 elements of 2 bytes, or 8 of 4.
// All 32 threads of the warp take part, and each holds a few elements of A, B and C in registers, in places that the
// instruction set fixes. With g = lane / 4 (0 .. 7) and t = lane % 4 (0 .. 3), and a register being 4 bytes:
//
//   A, 16 rows:      4 registers; register h + 2 d holds bytes 16 d + 4 t .. + 3 of the depth of row g + 8 h
//   B, 8 columns:    2 registers; register d holds bytes 16 d + 4 t .. + 3 of the depth of column g
//   C, 16×8 floats:  4 registers; register 2 h + e holds row g + 8 h, column 2 t + e
//
// (PTX ISA, "Matrix Fragments for mma.m16n8k8" and "mma.m16n8k16".) So two fragments of B beside each other are much as
// one of A: of 16 sides, those with number g + 8 h belong to half h. One reader (FragmentTile) serves both operands, a
// group of 16 sides and 4 registers at a time. Only their order differs, as one fragment must lie in neighbouring
// registers: half h at depth half d is register h + 2 d of A, and register d + 2 h of B, whose h-th fragment is 2 h and
// 2 h + 1.
#pragma once

#include "copies.cuh"

// A register of a fragment: 4 bytes, or a double.
template <typename T>
struct FragmentWordOf {
    using type = unsigned;
};
template <>
struct FragmentWordOf<double> {
    using type = double;
};
template <typename T>
using FragmentWord = typename FragmentWordOf<T>::type;

// c += A B for one fragment of each.
template <typename T>
__device__ __forceinline__ void multiply_fragments(
    Accumulator<T> (&c)[4], const FragmentWord<T> (&a)[4], FragmentWord<T> b_first, FragmentWord<T> b_second);

#define GPUBP_MULTIPLY(T, INSTRUCTION)                                                            \
    template <>                                                                                   \
    __device__ __forceinline__ void multiply_fragments<T>(                                        \
        float(&c)[4], const unsigned(&a)[4], unsigned b_first, unsigned b_second) {               \
        asm(INSTRUCTION " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"        \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                      \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_first), "r"(b_second));           \
    }

GPUBP_MULTIPLY(float, "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32")
GPUBP_MULTIPLY(bfloat16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
GPUBP_MULTIPLY(float16, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")

// A tensor core takes floats as tf32: 8 bits of exponent and 10 stored bits of significand. It would ignore the other
// 13 bits of the register, which rounds toward zero; rounding to nearest (ties away from zero) halves the error. Half a
// unit added as an integer would do the same to finite numbers, but carry the NaN that arithmetic makes, 0x7fffffff, on
// to −0.
template <typename T>
__device__ __forceinline__ void round_fragment(unsigned (&registers)[4]) {
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(registers[i]) : "f"(__uint_as_float(registers[i])));
    }
}

// ldmatrix reads four 8×8 matrices of 2-byte elements: lane i gives the address of row i % 8 of matrix number i / 8, 16
// bytes, and then holds bytes 4 t .. 4 t + 3 of row g of every matrix. `transposed` reads each by columns instead: the
// lane holds elements (2 t, g) and (2 t + 1, g).
template <bool transposed>
__device__ __forceinline__ void load_matrices(unsigned (&registers)[4], unsigned address) {
    if constexpr (transposed)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                     : "r"(address));
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                     : "r"(address));
}

__device__ __forceinline__ void load_element(unsigned& element, unsigned address) {
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(element) : "r"(address));
}

// Where sides and depths lie in a tile (see TileCopies), so that fragments are read without bank conflicts and a
// thread's sums end up beside each other in a row of the result.
//
//   depth-contiguous  Tiles are [slot][depth], and ldmatrix reads a unit of 16 bytes from each of 8 neighbouring slots.
//                     Of each 16 sides the even ones lie in the first 8 slots and the odd ones in the others.
//   side-contiguous,  Tiles are [depth][side], and ldmatrix reads 8 sides from each of 8 neighbouring rows, transposed.
//     2 bytes
//   side-contiguous,  Tiles are [depth][side]. ldmatrix cannot transpose elements of 4 bytes, so each thread reads its
//     4 bytes         own: the warp 8 sides from each of 4 neighbouring rows.
//
// In the first two, 8 neighbouring rows of the tile are read at one unit: an exclusive or with the number of the line
// (128 bytes, all banks once) puts them into 8 different groups of 4 banks. In the third, 4 neighbouring rows are read,
// 2 units of each: they are put into 4 different groups of 8 banks.
template <typename T, Layout LAYOUT, int SIDE, int TILE_K>
struct FragmentPlace {
    static constexpr bool by_depth = LAYOUT == Layout::depth_contiguous;
    static constexpr bool by_elements = !by_depth && sizeof(T) == 4;
    static constexpr int UNITS = (by_depth ? TILE_K : SIDE) / WIDEST<T>;  // 16-byte units of a row of the tile
    static constexpr int ROWS_A_LINE = UNITS < 8 ? 8 / UNITS : 1;
    static constexpr int KEYS = (UNITS < 8 ? UNITS : 8) / (by_elements ? 2 : 1);
    static_assert(SIDE % 16 == 0 && (UNITS & (UNITS - 1)) == 0 && UNITS >= 4, "groups of 16 sides; lines that fit");

    static constexpr bool swizzled = true;
    static __device__ __forceinline__ int swizzle(int row) { return row / ROWS_A_LINE % KEYS * (by_elements ? 2 : 1); }

    static __device__ __forceinline__ int side_of(int slot) {
        return slot / 16 * 16 + slot % 8 * 2 + slot / 8 % 2;
    }

    // Which side of a group is number g of its half h: halves are the even and odd sides, or the first and last ones.
    static constexpr bool interleaved = by_depth;
    static __device__ __forceinline__ int side_of(int g, int h) { return interleaved ? 2 * g + h : g + 8 * h; }
};

enum class Factor { a, b };

// One operand's tiles: copied by the block, and read into fragments by a warp.
template <Factor FACTOR, typename T, Layout LAYOUT, int SIDE, int TILE_K, int VECTOR, int BLOCK_THREADS>
struct FragmentTile
    : TileCopies<T, LAYOUT, SIDE, TILE_K, VECTOR, BLOCK_THREADS, FragmentPlace<T, LAYOUT, SIDE, TILE_K>> {
    using Place = FragmentPlace<T, LAYOUT, SIDE, TILE_K>;
    using Copies = TileCopies<T, LAYOUT, SIDE, TILE_K, VECTOR, BLOCK_THREADS, Place>;
    static constexpr int ROW = Copies::WIDTH * sizeof(T);  // bytes of a row of the tile
    static constexpr int DEPTH = 32 / sizeof(T);           // that one mma.sync takes

    using Copies::Copies;

    // Which half of the sides, and which half of the depth, a register holds.
    static constexpr __device__ int side_half(int i) { return FACTOR == Factor::a ? i % 2 : i / 2; }
    static constexpr __device__ int depth_half(int i) { return FACTOR == Factor::a ? i / 2 : i % 2; }

    // Where in a tile this lane begins to read, in bytes, for the warp whose sides begin at first_side.
    static __device__ __forceinline__ unsigned start(int first_side, int lane) {
        // ldmatrix takes this lane's address for matrix lane / 8, which goes into the register of that number
        int h = side_half(lane / 8), d = depth_half(lane / 8);
        int row, unit, rest = 0;
        if constexpr (Place::by_depth) {
            row = first_side + 8 * h + lane % 8;
            unit = d;
        } else if constexpr (!Place::by_elements) {
            row = 8 * d + lane % 8;
            unit = first_side / WIDEST<T> + h;
        } else {
            int g = lane / 4, t = lane % 4;
            row = t;
            unit = (first_side + g) / WIDEST<T>;
            rest = g % WIDEST<T> * sizeof(T);
        }
        return row * ROW + (unit ^ Place::swizzle(row)) * 16 + rest;
    }

    // The fragment of 16 sides, number `group` of the warp, and of depths step · DEPTH .. (step + 1) · DEPTH − 1 of the
    // tile at `tile`. What is added to `start` is a multiple of the swizzle's period, or meets no bit of it: so where a
    // unit changes, an exclusive or adds.
    static __device__ __forceinline__ void read(
        unsigned (&registers)[4], unsigned tile, unsigned start, int group, int step) {
        if constexpr (Place::by_depth) {
            load_matrices<false>(registers, tile + (start ^ step * 32) + group * 16 * ROW);
        } else if constexpr (!Place::by_elements) {
            load_matrices<true>(registers, tile + (start ^ group * 32) + step * DEPTH * ROW);
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                int k = step * DEPTH + depth_half(i) * 4;
                load_element(registers[i], tile + (start ^ group * 64 ^ side_half(i) * 32) + k * ROW);
            }
        }
        round_fragment<T>(registers);
    }
};

// Lane t of each four holds columns 2 t and 2 t + 1 of two fragments of a row. Neighbours swap a pair, so that each
// holds four columns that lie side by side: an even lane those of the first fragment, an odd one those of the second.
__device__ __forceinline__ void swap_pairs(float (&run)[4], int lane) {
    bool odd = lane % 2;
    float first = __shfl_xor_sync(~0u, odd ? run[0] : run[2], 1);
    float second = __shfl_xor_sync(~0u, odd ? run[1] : run[3], 1);
    if (odd) {  // no computed index: it would put the run into memory
        run[0] = first;
        run[1] = second;
    } else {
        run[2] = first;
        run[3] = second;
    }
}

// A lane's sums of one row of the result, in runs of four columns: run j begins at column 16 j + first_column_of(lane).
//
// Sums come as fragments of C. Where B's are its even and odd columns, a lane's columns are neighbours already.
template <bool interleaved, int FRAGMENTS>
__device__ __forceinline__ void gather_row(
    float (&row)[4 * (FRAGMENTS / 2)], const float (&sums)[FRAGMENTS][4], int h, int lane) {
#pragma unroll
    for (int j = 0; j < FRAGMENTS / 2; ++j) {
        const float *first = sums[2 * j] + 2 * h, *second = sums[2 * j + 1] + 2 * h;
        float run[4] = {first[0], interleaved ? second[0] : first[1], interleaved ? first[1] : second[0], second[1]};
        if (!interleaved) swap_pairs(run, lane);
#pragma unroll
        for (int w = 0; w < 4; ++w) row[4 * j + w] = run[w];
    }
}

template <bool interleaved, typename A = float>
__device__ __forceinline__ int first_column_of(int lane) {
    int t = lane % 4;
    return interleaved || sizeof(A) == 8 ? WIDEST<A> * t : 4 * (t / 2) + 8 * (t % 2);
}
