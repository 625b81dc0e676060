// product: c = α A B + β c, in each of the three forms NT, NN, TN (see forms.cuh)
//
//   c (M, N); A and B as the form says; c is not read where β = 0
//
// The primitives' own products have files of their own; here are the general one and the first half of split-K, which
// serves them all.
#include "ladder.cuh"

template <typename T, class Form, class Rung, class... Working>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) general_product(
    const __grid_constant__ Source<Rung, T> a, const __grid_constant__ Source<Rung, T> b,
    Accumulator<T>* c, int64 m, int64 n, int64 depth, Accumulator<T> alpha, Accumulator<T> beta,
    const __grid_constant__ Working... working) {
    ScaledAccumulate<Accumulator<T>> epilogue{alpha, beta, c};
    Rung::compute(product<Form>(a, b, m, n, depth), epilogue, working...);
}

// Split-K: more blocks for the same tiles. Block (tile, s) sums over the depths s · part .. (s + 1) · part − 1 alone and
// stores that in parts[s], (S, M, N); then the primitive's own kernel, with the rung `Reduction`, adds the parts up.
// `part` is a multiple of TILE_K, and no part is empty.
template <typename T, class Form, class Rung>
__global__ void IN_CLUSTERS __launch_bounds__(Rung::THREADS, Rung::BLOCKS) partial_product(
    const __grid_constant__ Source<Rung, T> a, const __grid_constant__ Source<Rung, T> b,
    Accumulator<T>* parts, int64 m, int64 n, int64 depth, int64 part) {
    auto one = product<Form>(a, b, m, n, depth).between(blockIdx.y * part, (blockIdx.y + 1) * part);
    Rung::compute(one, Plain<Accumulator<T>>{parts + blockIdx.y * m * n});
}
