// The ladder: the rungs that a product can be computed with, each adding one idea to the one before.
//
//   Naive        one thread, one output element
//   Tiled        + tiles in shared memory that a block's threads share
//   Blocked      + 64 sums a thread, in registers
//   Pipelined    + 16-byte copies that overlap with arithmetic, no guards in the main loop
//   TensorCore   + matrix units
//
// A rung is a type, and a template argument of the primitives' kernels:
//
//   compute(product, epilogue)  computes this block's elements of a `Product` (forms.cuh) and hands them to the
//                               epilogue (epilogues.cuh)
//   THREADS, BLOCKS             what kernels say in __launch_bounds__: threads of a block, and how many blocks a
//                               multiprocessor must hold at once. With BLOCKS = 1 the compiler may use all registers;
//                               left open, it may spill some to make a second block fit.
//
// `Reduction` is no rung to climb, but has the same interface: the second half of a product whose depth was split.
#pragma once

#include "product_blocked.cuh"
#include "product_naive.cuh"
#include "product_pipelined.cuh"
#include "product_reduce.cuh"
#include "product_tensorcore.cuh"
#include "product_tiled.cuh"

// What a kernel is given for an operand of a product of elements T, by its rung.
template <class Rung, typename T>
struct SourceOf {
    using type = const T*;
};
template <typename T>
struct SourceOf<Reduction, T> {
    using type = const Accumulator<T>*;  // the parts, summed but not yet rounded
};
template <class Rung, typename T>
using Source = typename SourceOf<Rung, T>::type;
