// bias_gradient: ∂L/∂b = Σ_batch δ, a column sum
//
//   delta (B, n), gradient (n,); with β = 1 it is added to what gradient holds
//
// A training step has it in the launch of the weight gradient (weight_gradient.cu); here it stands alone.
#include "column_sums.cuh"

template <typename T>
__global__ void bias_gradient(
    const T* delta, Accumulator<T>* gradient, Accumulator<T>* parts, unsigned* arrivals, int64 rows, int64 width,
    int64 rows_a_part, Accumulator<T> beta) {
    using A = Accumulator<T>;
    int64 thread = int64(blockIdx.x) * blockDim.x + threadIdx.x;
    Columns<T> columns{delta, parts, arrivals, rows, width, rows_a_part};
    columns.sum_up(thread / 32, int(thread % 32), ScaledAccumulate<A>{A(1), beta, gradient});
}
