// output_delta: δ^L = ∂L/∂a ⊙ σ'(z), and the loss L itself
//
//   output (B, n): a, or the logits z for a loss from logits; saved (B, n): what σ' reads; y (B, n), or (B,) labels;
//   delta (B, n); scale: 1/B for the mean over the batch, 1 for the sum; losses: L, and the running sum of the examples'
//   control: δ is multiplied by the loss scale in it, the loss is not; null for no scale
//
// Each kernel adds the terms of the loss in float64, one part a block, and `total_loss` adds the parts: always in the
// same order, so that the loss has the same bits every time.
#include "activations.cuh"
#include "control.cuh"
#include "losses.cuh"
#include "reductions.cuh"

// The factor of δ, before it is rounded.
template <typename A>
__device__ A delta_factor(double scale, const double* control) {
    return A(control == nullptr ? scale : scale * control[LOSS_SCALE]);
}

// elementwise: σ' is a function of one element. A loss from logits has σ' in its derivative already.
template <typename T, template <typename> class Loss, template <typename> class Activation>
__global__ void __launch_bounds__(SUM_THREADS, 1) output_delta_elementwise(
    const T* output, const T* saved, const Accumulator<T>* y, const double* control, T* delta, double* parts,
    int64 rows, int64 width, double scale, Accumulator<T> loss_parameter, Accumulator<T> parameter) {
    using A = Accumulator<T>;
    Loss<A> loss{loss_parameter, width};
    Activation<A> sigma{parameter};
    A factor = delta_factor<A>(scale, control);
    int64 size = rows * width, step = int64(gridDim.x) * SUM_THREADS;
    double sum = 0;
    for (int64 i = int64(blockIdx.x) * SUM_THREADS + threadIdx.x; i < size; i += step) {
        A derivative = loss.derivative(output[i], y[i]);
        sum += loss.term(output[i], y[i]);
        if constexpr (!Loss<A>::from_logits) derivative *= sigma.derivative(saved[i]);
        delta[i] = T(derivative * factor);
    }
    sum = team_reduce<SUM_THREADS>(sum, Sum{});
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// softmax: a = softmax(z) couples the elements of a row: with g = ∂ℓ/∂a, δ = a ⊙ (g − Σ_j g_j a_j). A team of threads
// takes a row: a warp for narrow rows, a block for wide ones. One part of the loss a row.
template <typename T, template <typename> class Loss, int TEAM>
__global__ void output_delta_softmax(
    const T* a, const Accumulator<T>* y, const double* control, T* delta, double* parts, int64 rows, int64 width,
    double scale, Accumulator<T> loss_parameter) {
    using A = Accumulator<T>;
    int64 row = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    Loss<A> loss{loss_parameter, width};
    A factor = delta_factor<A>(scale, control);
    a += row * width, y += row * width, delta += row * width;
    double sum = 0;
    A product = 0;
    for (int64 j = threadIdx.x; j < width; j += TEAM) {
        sum += loss.term(a[j], y[j]);
        product += loss.derivative(a[j], y[j]) * A(a[j]);
    }
    sum = team_reduce<TEAM>(sum, Sum{});
    product = team_reduce<TEAM>(product, Sum{});
    for (int64 j = threadIdx.x; j < width; j += TEAM)
        delta[j] = T((loss.derivative(a[j], y[j]) - product) * A(a[j]) * factor);
    if (threadIdx.x == 0) parts[row] = sum;
}

// What softmax cross-entropy compares a row with: the label of the row's class, or a row of probabilities. A label that is
// no class makes the whole row NaN, a number that is no probability its own place and the loss.
template <typename T>
struct Labels {
    int64 label;
    bool is_class;
    __device__ Labels(const int64* y, int64 row, int64 width)  // y (B,)
        : label(y[row]), is_class(label >= 0 && label < width) {}
    __device__ T target(int64 j) const { return is_class ? T(label == j) : not_a_number<T>(); }
};
template <typename T>
struct Probabilities {
    const T* of_row;
    __device__ Probabilities(const T* y, int64 row, int64 width) : of_row(y + row * width) {}  // y (B, n)
    __device__ T target(int64 j) const { return probability(of_row[j]); }
};

// softmax cross-entropy from the logits, fused: with m = max z and s = Σ_j e^(z_j − m),
//   ℓ = ln s − Σ_j y_j (z_j − m) ;  ∂ℓ/∂z = e^(z − m) / s − y
// Nothing overflows, and no logarithm of a small a is taken.
template <typename T, template <typename> class Target, typename Y, int TEAM>
__global__ void output_delta_softmax_cross_entropy(
    const T* z, const Y* y, const double* control, T* delta, double* parts, int64 rows, int64 width, double scale) {
    using A = Accumulator<T>;
    int64 row = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    Target<A> expected(y, row, width);
    A factor = delta_factor<A>(scale, control);
    z += row * width, delta += row * width;
    A largest = z[0];
    for (int64 j = threadIdx.x; j < width; j += TEAM) largest = Maximum{}(largest, A(z[j]));
    largest = team_reduce<TEAM>(largest, Maximum{});
    A sum = 0, chosen = 0;
    for (int64 j = threadIdx.x; j < width; j += TEAM) {
        A shifted = A(z[j]) - largest;
        sum += exp(shifted);
        chosen += expected.target(j) * shifted;
    }
    sum = team_reduce<TEAM>(sum, Sum{});
    chosen = team_reduce<TEAM>(chosen, Sum{});
    for (int64 j = threadIdx.x; j < width; j += TEAM)
        delta[j] = T((exp(A(z[j]) - largest) / sum - expected.target(j)) * factor);
    if (threadIdx.x == 0) parts[row] = double(log(sum)) - double(chosen);
}

// The second stage of the loss, by one block: losses[BATCH] = Σ parts · scale, losses[TOTAL] += Σ parts.
template <typename T>
__global__ void __launch_bounds__(SUM_THREADS, 1) total_loss(
    const T* parts, double* losses, int64 count, double scale) {
    double sum = sum_of_parts(parts, count);
    if (threadIdx.x == 0) {
        losses[BATCH] = sum * scale;
        losses[TOTAL] += sum;
    }
}
