// output_delta: δ^L = ∂L/∂a ⊙ σ'(z), and the loss L itself
//
//   output (B, n): a, or the logits z for a loss from logits; saved (B, n): what σ' reads; y (B, n), or (B,) labels;
//   weights (B,), or null for none; delta (B, n); losses: L, and the running sum of the examples'
//   scale: 1/B for the mean over the batch, 1 for the sum; with weights control[LOSS_FACTOR] stands in its place
//   control: δ is multiplied by the loss scale in it, the loss is not; null for no scale
//
// Each kernel adds the terms of the loss in float64, one part a block or a row, and the last block to arrive adds the
// parts: always in the same order, so that the loss has the same bits every time.
#include "activations.cuh"
#include "arrivals.cuh"
#include "control.cuh"
#include "losses.cuh"
#include "reductions.cuh"

// How much a row counts, in the loss and in δ: once, or as often as its weight says. A row of weight 0 adds 0, whatever
// its numbers are.
template <typename A>
struct Unweighted {
    const A* unused;
    static __device__ double factor(double scale, const double*) { return scale; }
    template <typename X>
    __device__ X of_row(int64, X x) const {
        return x;
    }
};
template <typename A>
struct Weighted {
    const A* weights;
    static __device__ double factor(double, const double* control) { return control[LOSS_FACTOR]; }
    template <typename X>
    __device__ X of_row(int64 row, X x) const {
        A weight = weights[row];
        return weight == A(0) ? X(0) : X(weight) * x;
    }
};

// The factor of δ, before it is rounded.
template <typename A, template <typename> class Weighing>
__device__ A delta_factor(double scale, const double* control) {
    double factor = Weighing<A>::factor(scale, control);
    return A(control == nullptr ? factor : factor * control[LOSS_SCALE]);
}

// Where the loss goes: `parts`, whose sum the last block to arrive makes
//   losses[BATCH] = Σ parts · scale ; losses[TOTAL] += Σ parts
struct Total {
    double *parts, *losses;
    unsigned* arrivals;

    template <class Weighing, int THREADS>
    __device__ __forceinline__ void add_up(int64 count, double scale, const double* control) const {
        if (!block_arrives_last(arrivals, gridDim.x)) return;
        double sum = sum_of_parts<THREADS>(parts, count);
        if (threadIdx.x == 0 && threadIdx.y == 0) {
            losses[BATCH] = sum * Weighing::factor(scale, control);
            losses[TOTAL] += sum;
        }
    }
};

// Threads of a block whose teams take a row each: one large team, or ROWS_A_BLOCK warps in gpubp/backends/gpu_backend.py.
template <int TEAM>
constexpr int ROW_THREADS = TEAM == 32 ? 4 * TEAM : TEAM;

// elementwise: σ' is a function of one element. A loss from logits has σ' in its derivative already.
template <
    typename T, template <typename> class Loss, template <typename> class Activation,
    template <typename> class Weighing>
__global__ void __launch_bounds__(SUM_THREADS, 1) output_delta_elementwise(
    const T* output, const T* saved, const Accumulator<T>* y, const Accumulator<T>* weights, const double* control,
    T* delta, double* parts, unsigned* arrivals, double* losses, int64 rows, int64 width, double scale,
    Accumulator<T> loss_parameter, Accumulator<T> parameter) {
    using A = Accumulator<T>;
    Weighing<A> weighing{weights};
    Loss<A> loss{loss_parameter, width};
    Activation<A> sigma{parameter};
    A factor = delta_factor<A, Weighing>(scale, control);
    int64 size = rows * width, step = int64(gridDim.x) * SUM_THREADS;
    double sum = 0;
    for (int64 i = int64(blockIdx.x) * SUM_THREADS + threadIdx.x; i < size; i += step) {
        A derivative = loss.derivative(output[i], y[i]);
        sum += weighing.of_row(i / width, loss.term(output[i], y[i]));
        if constexpr (!Loss<A>::from_logits) derivative *= sigma.derivative(saved[i]);
        delta[i] = T(weighing.of_row(i / width, derivative * factor));
    }
    sum = team_reduce<SUM_THREADS>(sum, Sum{});
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
    Total{parts, losses, arrivals}.add_up<Weighing<A>, SUM_THREADS>(gridDim.x, scale, control);
}

// softmax: a = softmax(z) couples the elements of a row: with g = ∂ℓ/∂a, δ = a ⊙ (g − Σ_j g_j a_j). A team of threads
// takes a row: a warp for narrow rows, a block for wide ones. One part of the loss a row.
template <typename T, template <typename> class Loss, template <typename> class Weighing, int TEAM>
__global__ void output_delta_softmax(
    const T* a, const Accumulator<T>* y, const Accumulator<T>* weights, const double* control, T* delta, double* parts,
    unsigned* arrivals, double* losses, int64 rows, int64 width, double scale, Accumulator<T> loss_parameter) {
    using A = Accumulator<T>;
    int64 row = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row < rows) {
        Loss<A> loss{loss_parameter, width};
        Weighing<A> weighing{weights};
        A factor = delta_factor<A, Weighing>(scale, control);
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
            delta[j] = T(weighing.of_row(row, (loss.derivative(a[j], y[j]) - product) * A(a[j]) * factor));
        if (threadIdx.x == 0) parts[row] = weighing.of_row(row, sum);
    }
    Total{parts, losses, arrivals}.add_up<Weighing<A>, ROW_THREADS<TEAM>>(rows, scale, control);
}

// What softmax cross-entropy compares a row with: the label of the row's class, or a row of probabilities. A label that
// is no class makes the whole row NaN, a number that is no probability its own place and the loss.
template <typename T>
struct Labels {
    int64 label;
    bool is_class;
    __device__ Labels(const int64* y, int64 row, int64 width, T)  // y (B,)
        : label(y[row]), is_class(label >= 0 && label < width) {}
    __device__ T target(int64 j) const { return is_class ? T(label == j) : not_a_number<T>(); }
};
template <typename T>
struct Probabilities {
    const T* of_row;
    __device__ Probabilities(const T* y, int64 row, int64 width, T) : of_row(y + row * width) {}  // y (B, n)
    __device__ T target(int64 j) const { return probability(of_row[j]); }
};

// Label smoothing ε: (1 − ε) y + ε / n in place of y.
template <typename T, class Target>
struct Smoothed {
    Target exact;
    T share, rest;
    template <typename Y>
    __device__ Smoothed(const Y* y, int64 row, int64 width, T smoothing)
        : exact(y, row, width, smoothing), share(T(1) - smoothing), rest(smoothing / T(width)) {}
    __device__ T target(int64 j) const { return share * exact.target(j) + rest; }
};
template <typename T>
using SmoothedLabels = Smoothed<T, Labels<T>>;
template <typename T>
using SmoothedProbabilities = Smoothed<T, Probabilities<T>>;

// softmax cross-entropy from the logits, fused: with m = max z and s = Σ_j e^(z_j − m),
//   ℓ = ln s − Σ_j y_j (z_j − m) ;  ∂ℓ/∂z = e^(z − m) / s − y
// Nothing overflows, and no logarithm of a small a is taken.
template <typename T, template <typename> class Target, typename Y, template <typename> class Weighing, int TEAM>
__global__ void output_delta_softmax_cross_entropy(
    const T* z, const Y* y, const Accumulator<T>* weights, const double* control, T* delta, double* parts,
    unsigned* arrivals, double* losses, int64 rows, int64 width, double scale, Accumulator<T> smoothing) {
    using A = Accumulator<T>;
    int64 row = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row < rows) {
        Target<A> expected(y, row, width, smoothing);
        Weighing<A> weighing{weights};
        A factor = delta_factor<A, Weighing>(scale, control);
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
            delta[j] = T(weighing.of_row(row, (exp(A(z[j]) - largest) / sum - expected.target(j)) * factor));
        if (threadIdx.x == 0) parts[row] = weighing.of_row(row, double(log(sum)) - double(chosen));
    }
    Total{parts, losses, arrivals}.add_up<Weighing<A>, ROW_THREADS<TEAM>>(rows, scale, control);
}

// softmax focal cross-entropy from the logits: with a = e^(z − m) / s, and f, h of a focal loss (losses.cuh),
//   ℓ = Σ_j y_j f(a_j) ;  ∂ℓ/∂z_j = y_j h(a_j) − a_j Σ_k y_k h(a_k)
template <typename T, template <typename> class Target, typename Y, template <typename> class Weighing, int TEAM>
__global__ void output_delta_softmax_focal_cross_entropy(
    const T* z, const Y* y, const Accumulator<T>* weights, const double* control, T* delta, double* parts,
    unsigned* arrivals, double* losses, int64 rows, int64 width, double scale, Accumulator<T> gamma) {
    using A = Accumulator<T>;
    int64 row = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row < rows) {
        Target<A> expected(y, row, width, A(0));
        Weighing<A> weighing{weights};
        A factor = delta_factor<A, Weighing>(scale, control);
        z += row * width, delta += row * width;
        A largest = z[0];
        for (int64 j = threadIdx.x; j < width; j += TEAM) largest = Maximum{}(largest, A(z[j]));
        largest = team_reduce<TEAM>(largest, Maximum{});
        A sum = 0;
        for (int64 j = threadIdx.x; j < width; j += TEAM) sum += exp(A(z[j]) - largest);
        sum = team_reduce<TEAM>(sum, Sum{});
        auto focal = [&](int64 j) {
            A shifted = A(z[j]) - largest, log_a = shifted - log(sum);
            return Focal<A>{exp(shifted) / sum, -expm1(log_a), log_a, gamma};
        };
        A loss = 0, wanted = 0;
        for (int64 j = threadIdx.x; j < width; j += TEAM) {
            loss += expected.target(j) * focal(j).loss();
            wanted += expected.target(j) * focal(j).slope();
        }
        loss = team_reduce<TEAM>(loss, Sum{});
        wanted = team_reduce<TEAM>(wanted, Sum{});
        for (int64 j = threadIdx.x; j < width; j += TEAM) {
            A derivative = expected.target(j) * focal(j).slope() - focal(j).p * wanted;
            delta[j] = T(weighing.of_row(row, derivative * factor));
        }
        if (threadIdx.x == 0) parts[row] = weighing.of_row(row, double(loss));
    }
    Total{parts, losses, arrivals}.add_up<Weighing<A>, ROW_THREADS<TEAM>>(rows, scale, control);
}
