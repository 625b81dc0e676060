// Warpgroups: four warps that multiply together, by the instruction wgmma of the matrix units of sm_90.
//
// One instruction makes 64×N×16 multiply-adds of 2-byte elements, or 64×N×8 of floats, of which it takes tf32's bits alone.
// Both operands lie in shared memory, where a descriptor says how; only the sums lie in registers. It runs on its own,
// while the threads go on:
//
//   begin_products      before the first product, and after the threads have touched their sums
//   multiply            any number of them, which add to the same sums
//   end_products        closes a group of products
//   wait_for_products   until at most so many groups are not done. Before, nobody may touch sums or overwrite operands
//
// Of the N/8 fragments of sums, warp w holds rows 16 w .. 16 w + 15, each as mma.sync does (fragments.cuh).
#pragma once

#include "forms.cuh"
#include "numbers.cuh"

constexpr int WARPGROUP = 128;  // threads

// How many registers each thread of a warpgroup may use from now on: some give theirs back, others ask for them.
template <int COUNT>
__device__ __forceinline__ void give_registers_back() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void ask_for_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int GROUPS>
__device__ __forceinline__ void wait_for_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}

// Sums as operands of an instruction that reads and writes them: 1, 4 or 16 fragments from number i on.
#define FRAGMENT(i) "+f"(sums[i][0]), "+f"(sums[i][1]), "+f"(sums[i][2]), "+f"(sums[i][3])
#define FRAGMENTS_4(i) FRAGMENT(i), FRAGMENT(i + 1), FRAGMENT(i + 2), FRAGMENT(i + 3)
#define FRAGMENTS_16(i) FRAGMENTS_4(i), FRAGMENTS_4(i + 4), FRAGMENTS_4(i + 8), FRAGMENTS_4(i + 12)

// The same in the instruction's text.
#define SUMS_64 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                           \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                 \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SUMS_128 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                           \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                 \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "                                 \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "                                 \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "                                 \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "                     \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// LAYOUTS: of 2-byte elements two more operands, which say of A and of B whether their sides are contiguous, and not their
// depths. Of floats the depths are, and there is nothing to say.
#define MULTIPLY_128(DEPTH, TYPE, LAYOUTS)                                 \
    "{\n"                                                                  \
    ".reg .pred add;\n"                                                    \
    "setp.ne.b32 add, 1, 0;\n"                                             \
    "wgmma.mma_async.sync.aligned.m64n128" DEPTH ".f32." TYPE "." TYPE     \
    " {" SUMS_64 "}, %64, %65, add, 1, 1" LAYOUTS ";\n"                    \
    "}"
#define MULTIPLY_256(DEPTH, TYPE, LAYOUTS)                                 \
    "{\n"                                                                  \
    ".reg .pred add;\n"                                                    \
    "setp.ne.b32 add, 1, 0;\n"                                             \
    "wgmma.mma_async.sync.aligned.m64n256" DEPTH ".f32." TYPE "." TYPE     \
    " {" SUMS_128 "}, %128, %129, add, 1, 1" LAYOUTS ";\n"                 \
    "}"

// Add the product of 64 sides of A and 128 or 256 of B, both 32 bytes deep, to the sums of the warpgroup.
template <typename T, class Form>
struct Warpgroup;

#define WARPGROUP_OF(T, TYPE)                                                                                          \
    template <class Form>                                                                                              \
    struct Warpgroup<T, Form> {                                                                                        \
        static constexpr int A_BY_SIDE = Form::a == Layout::side_contiguous;                                           \
        static constexpr int B_BY_SIDE = Form::b == Layout::side_contiguous;                                           \
        using Descriptor = unsigned long long;                                                                         \
        static __device__ __forceinline__ void multiply(float (&sums)[16][4], Descriptor a, Descriptor b) {            \
            asm volatile(MULTIPLY_128("k16", TYPE, ", %66, %67")                                                       \
                         : FRAGMENTS_16(0)                                                                             \
                         : "l"(a), "l"(b), "n"(A_BY_SIDE), "n"(B_BY_SIDE));                                            \
        }                                                                                                              \
        static __device__ __forceinline__ void multiply(float (&sums)[32][4], Descriptor a, Descriptor b) {            \
            asm volatile(MULTIPLY_256("k16", TYPE, ", %130, %131")                                                     \
                         : FRAGMENTS_16(0), FRAGMENTS_16(16)                                                           \
                         : "l"(a), "l"(b), "n"(A_BY_SIDE), "n"(B_BY_SIDE));                                            \
        }                                                                                                              \
    };
WARPGROUP_OF(bfloat16, "bf16")
WARPGROUP_OF(float16, "f16")

template <class Form>
struct Warpgroup<float, Form> {
    static_assert(Form::a == Layout::depth_contiguous && Form::b == Layout::depth_contiguous, "the form NT alone");
    using Descriptor = unsigned long long;
    static __device__ __forceinline__ void multiply(float (&sums)[16][4], Descriptor a, Descriptor b) {
        asm volatile(MULTIPLY_128("k8", "tf32", "") : FRAGMENTS_16(0) : "l"(a), "l"(b));
    }
    static __device__ __forceinline__ void multiply(float (&sums)[32][4], Descriptor a, Descriptor b) {
        asm volatile(MULTIPLY_256("k8", "tf32", "") : FRAGMENTS_16(0), FRAGMENTS_16(16) : "l"(a), "l"(b));
    }
};

// Until all products are done. That the sums are operands keeps the compiler from reading them before.
__device__ __forceinline__ void wait_for_sums(float (&sums)[16][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : FRAGMENTS_16(0)::"memory");
}
__device__ __forceinline__ void wait_for_sums(float (&sums)[32][4]) {
    asm volatile("wgmma.wait_group.sync.aligned 0;" : FRAGMENTS_16(0), FRAGMENTS_16(16)::"memory");
}
