// update: one step of an optimiser over all parameters, in one pass: w ← w − η g, and the other recurrences
//
//   gradients, parameters, first, second: `size` elements each (the optimiser's state: null where it has none);
//   the first `decayed` parameters, the weights, are drawn to 0 besides; η, the step t and the gradient's scale are in
//   control
//   stored: the new parameters rounded to its type, or null: what the products read where they read 16 bits
//
// Where control[SKIP] is set, nothing changes.
//
// A gradient is scaled, then clipped by value (clip_value may be infinite); then what draws weights to 0 is added, and what
// draws them apart from the gradient shrinks them; then the recurrence follows.
#include "control.cuh"
#include "runs.cuh"

// For an update that stores no rounded copy.
struct Nothing {};
template <typename Stored>
constexpr bool STORES_COPY = true;
template <>
constexpr bool STORES_COPY<Nothing> = false;

// What changes from step to step, computed once a block in float64.
template <typename T>
struct Step {
    T rate;            // η
    T gradient_scale;  // of clipping by the global norm
    T shrink;          // 1 − η λ₂, of what draws apart from the gradient
    T mean_rate;       // Adam: η / (1 − β₁ᵗ)
    T square_scale;    // Adam: 1 / (1 − β₂ᵗ)
    bool skip;
};

// baseᵗ for t = 0, 1, ..., by squaring.
__device__ inline double power(double base, int64 t) {
    double result = 1;
    for (; t > 0; t /= 2, base *= base)
        if (t % 2) result *= base;
    return result;
}

// Each optimiser: the change of one parameter w by its gradient g; h holds its own two numbers and ε.
template <typename T>
struct Hyper {
    double first, second;  // μ ; ρ ; β₁, β₂
    T epsilon;
};

// w ← w − η g
template <typename T>
struct SGD {
    static constexpr bool decoupled = false, corrects_bias = false;
    static constexpr int states = 0;
    static __device__ void apply(T& w, T g, T&, T&, const Hyper<T>&, const Step<T>& step) { w -= step.rate * g; }
};

// v ← μ v + g ; w ← w − η v
template <typename T>
struct Momentum {
    static constexpr bool decoupled = false, corrects_bias = false;
    static constexpr int states = 1;
    static __device__ void apply(T& w, T g, T& v, T&, const Hyper<T>& h, const Step<T>& step) {
        v = T(h.first) * v + g;
        w -= step.rate * v;
    }
};

// v ← μ v + g ; w ← w − η (g + μ v)
template <typename T>
struct Nesterov {
    static constexpr bool decoupled = false, corrects_bias = false;
    static constexpr int states = 1;
    static __device__ void apply(T& w, T g, T& v, T&, const Hyper<T>& h, const Step<T>& step) {
        v = T(h.first) * v + g;
        w -= step.rate * (g + T(h.first) * v);
    }
};

// s ← ρ s + (1 − ρ) g² ; w ← w − η g / (√s + ε)
template <typename T>
struct RMSProp {
    static constexpr bool decoupled = false, corrects_bias = false;
    static constexpr int states = 1;
    static __device__ void apply(T& w, T g, T& s, T&, const Hyper<T>& h, const Step<T>& step) {
        s = T(h.first) * s + T(1 - h.first) * (g * g);
        w -= step.rate * (g / (sqrt(s) + h.epsilon));
    }
};

// m ← β₁ m + (1 − β₁) g ; s ← β₂ s + (1 − β₂) g² ; w ← w − η m̂ / (√ŝ + ε), m̂ = m / (1 − β₁ᵗ), ŝ = s / (1 − β₂ᵗ)
template <typename T>
struct Adam {
    static constexpr bool decoupled = false, corrects_bias = true;
    static constexpr int states = 2;
    static __device__ void apply(T& w, T g, T& m, T& s, const Hyper<T>& h, const Step<T>& step) {
        m = T(h.first) * m + T(1 - h.first) * g;
        s = T(h.second) * s + T(1 - h.second) * (g * g);
        w -= step.mean_rate * (m / (sqrt(s * step.square_scale) + h.epsilon));
    }
};

// Adam with decoupled decay: w ← w − η λ w first, and no λ w in g
template <typename T>
struct AdamW : Adam<T> {
    static constexpr bool decoupled = true;
};

// Factors of what draws a weight w to 0: λ₁ of sign(w), and λ₂ of w.
struct Penalty {
    double l1, l2;
};

// Weight decay alone: λ w in the gradient, or, for AdamW, apart from it: w ← (1 − η λ) w
struct WeightDecay {
    template <typename T>
    using StepOf = Step<T>;
    template <typename T>
    static __device__ void prepare(Step<T>& step, double rate, const Penalty& apart) {
        step.shrink = T(1 - rate * apart.l2);
    }
    template <class Rule, typename T>
    static __device__ void apply(T& w, T& g, const Penalty& in_gradient, const Step<T>& step) {
        if constexpr (Rule::decoupled)
            w *= step.shrink;
        else
            g += T(in_gradient.l2) * w;
    }
};

// Both penalties: λ₂ w + λ₁ sign(w) in the gradient ; apart from it w ← (1 − η λ₂) w, then towards 0 by η λ₁, and not past
// it: w ← w − clip(w, −η λ₁, η λ₁)
struct L1AndL2 {
    template <typename T>
    struct StepOf : Step<T> {
        T pull;  // η λ₁
    };
    template <typename T>
    static __device__ void prepare(StepOf<T>& step, double rate, const Penalty& apart) {
        step.shrink = T(1 - rate * apart.l2);
        step.pull = T(rate * apart.l1);
    }
    template <class Rule, typename T>
    static __device__ void apply(T& w, T& g, const Penalty& in_gradient, const StepOf<T>& step) {
        g += T(in_gradient.l2) * w;
        g += w > T(0) ? T(in_gradient.l1) : w < T(0) ? T(-in_gradient.l1) : w;  // the last: 0, or NaN
        w *= step.shrink;
        w -= w > step.pull ? step.pull : w < -step.pull ? -step.pull : w;
    }
};

template <typename T, template <typename> class Optimizer, class Penalties, typename Stored = Nothing>
__global__ void update(
    const T* gradients, T* parameters, T* first, T* second, const double* control, Stored* stored, int64 size,
    int64 decayed, double l1_in_gradient, double l2_in_gradient, double l1_apart, double l2_apart, T clip_value,
    double first_number, double second_number, T epsilon) {
    using Rule = Optimizer<T>;
    __shared__ typename Penalties::template StepOf<T> step;
    if (threadIdx.x == 0) {
        double rate = control[LEARNING_RATE];
        step.skip = control[SKIP] != 0;
        step.rate = T(rate);
        step.gradient_scale = T(control[GRADIENT_SCALE]);
        Penalties::prepare(step, rate, Penalty{l1_apart, l2_apart});
        if constexpr (Rule::corrects_bias) {
            int64 t = int64(control[STEP] + 1 - control[SKIPPED]);
            step.mean_rate = T(rate / (1 - power(first_number, t)));
            step.square_scale = T(1 / (1 - power(second_number, t)));
        }
    }
    __syncthreads();
    if (step.skip) return;

    constexpr int W = WIDEST<T>;
    bool aligned = is_aligned<W>(gradients) && is_aligned<W>(parameters) && is_aligned<W>(first) && is_aligned<W>(second);
    int64 i = (int64(blockIdx.x) * blockDim.x + threadIdx.x) * W;
    if (i >= size) return;
    int count = size - i < W ? int(size - i) : W;
    __builtin_assume(count > 0);  // the first element is moved without asking
    bool vector = aligned && count == W;
    T g[W], w[W], first_state[W] = {}, second_state[W] = {};
    load_run(g, gradients + i, count, vector);
    load_run(w, parameters + i, count, vector);
    if constexpr (Rule::states > 0) load_run(first_state, first + i, count, vector);
    if constexpr (Rule::states > 1) load_run(second_state, second + i, count, vector);

    Hyper<T> hyper{first_number, second_number, epsilon};
#pragma unroll
    for (int v = 0; v < W; ++v) {
        g[v] *= step.gradient_scale;
        g[v] = g[v] < -clip_value ? -clip_value : g[v] > clip_value ? clip_value : g[v];  // a NaN stays one
        if (i + v < decayed)
            Penalties::template apply<Rule>(w[v], g[v], Penalty{l1_in_gradient, l2_in_gradient}, step);
        Rule::apply(w[v], g[v], first_state[v], second_state[v], hyper, step);
    }

    if constexpr (Rule::states > 0) store_run(first + i, first_state, count, vector);
    if constexpr (Rule::states > 1) store_run(second + i, second_state, count, vector);
    store_run(parameters + i, w, count, vector);
    if constexpr (STORES_COPY<Stored>)
        store_values<Stored>(stored + i, w, count, count == W && is_aligned<W>(stored));
}
