// The ladder: the rungs that a product can be computed with, each adding one idea to the one before.
//
//   Naive        one thread, one output element
//   Tiled        + tiles in shared memory that a block's threads share
//   Blocked      + 64 sums a thread, in registers
//   Pipelined    + 16-byte copies that overlap with arithmetic, no guards in the main loop
//   TensorCore   + matrix units
//   Wgmma        + a copy engine and matrix units that run on their own, on sm_90
//
// A rung is a type, and a template argument of the primitives' kernels:
//
//   compute(product, epilogue)  computes this block's elements of a `Product` (forms.cuh) and hands them to the
//                               epilogue (epilogues.cuh)
//   THREADS, BLOCKS             what kernels say in __launch_bounds__: threads of a block, and how many blocks a
//                               multiprocessor must hold at once. With BLOCKS = 1 the compiler may use all registers;
//                               left open, it may spill some to make a second block fit.
//   CLUSTER                     of `Wgmma` alone: blocks that run as a cluster
//
// Two more have the same interface, and are no rungs to climb: `StreamK<Rung>` gives every block the same work, whatever
// the shape; its `compute` also takes working memory, which the primitives' kernels hand on. `Reduction` is the second
// half of a product whose depth was split.
#pragma once

// `IN_CLUSTERS` is said of every kernel with a rung. It means something where kernels are compiled for sm_90a, which is
// done for `Wgmma` alone.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define IN_CLUSTERS __cluster_dims__(Rung::CLUSTER, 1, 1)
#else
#define IN_CLUSTERS
#endif

#include "product_blocked.cuh"
#include "product_naive.cuh"
#include "product_pipelined.cuh"
#include "product_reduce.cuh"
#include "product_stream_k.cuh"
#include "product_tensorcore.cuh"
#include "product_tiled.cuh"
#include "product_wgmma.cuh"

// What a kernel is given for an operand of a product of elements T, by its rung.
template <class Rung, typename T>
struct SourceOf {
    using type = const T*;
};
template <typename T>
struct SourceOf<Reduction, T> {
    using type = const Accumulator<T>*;  // the parts, summed but not yet rounded
};
template <int ROWS, int COLUMNS, int STAGES, int BLOCKS, typename T>
struct SourceOf<Wgmma<ROWS, COLUMNS, STAGES, BLOCKS>, T> {
    using type = TensorMap<T>;  // the copy engine reads it where the launch has put it
};
// A kernel's parameters of this type are `const __grid_constant__`: they have an address.
template <class Rung, typename T>
using Source = typename SourceOf<Rung, T>::type;
