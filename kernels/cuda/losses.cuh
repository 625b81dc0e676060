// Losses: what an output adds to the loss of its example, and the derivative ∂ℓ/∂output.
//
// `output` is a, or the logits z for a loss `from_logits`, whose derivative is already the one by z. The
// cross-entropies of softmax work on whole rows; they are in output_delta.cu. Terms are float64, for the sums they go into.
#pragma once

#include "runs.cuh"

// ℓ = Σ_j ½ (a_j − y_j)² ; ∂ℓ/∂a = a − y
template <typename T>
struct HalfSquaredError {
    static constexpr bool from_logits = false;
    T unused;
    int64 width;
    __device__ double term(T a, T y) const { return 0.5 * double(a - y) * double(a - y); }
    __device__ T derivative(T a, T y) const { return a - y; }
};

// ℓ = Σ_j (y_j − a_j)² ; ∂ℓ/∂a = −2 (y − a)
template <typename T>
struct SquaredError {
    static constexpr bool from_logits = false;
    T unused;
    int64 width;
    __device__ double term(T a, T y) const { return double(a - y) * double(a - y); }
    __device__ T derivative(T a, T y) const { return T(2) * (a - y); }
};

// ℓ = (1/n) Σ_j (a_j − y_j)² ; ∂ℓ/∂a = (2/n) (a − y)
template <typename T>
struct MeanSquaredError {
    static constexpr bool from_logits = false;
    T unused;
    int64 width;
    __device__ double term(T a, T y) const { return double(a - y) * double(a - y) / double(width); }
    __device__ T derivative(T a, T y) const { return T(2.0 / double(width)) * (a - y); }
};

// ℓ = Σ_j |a_j − y_j| ; ∂ℓ/∂a = sign(a − y), 0 at 0
template <typename T>
struct AbsoluteError {
    static constexpr bool from_logits = false;
    T unused;
    int64 width;
    __device__ double term(T a, T y) const { return double(fabs(a - y)); }
    __device__ T derivative(T a, T y) const {
        T d = a - y;
        return d > T(0) ? T(1) : d < T(0) ? T(-1) : d;  // the last: 0, or NaN
    }
};

// d = a − y: ℓ = Σ_j ½ d_j² where |d_j| ≤ threshold t, else t (|d_j| − ½ t) ; ∂ℓ/∂a = clip(d, −t, t)
template <typename T>
struct Huber {
    static constexpr bool from_logits = false;
    T threshold;
    int64 width;
    __device__ double term(T a, T y) const {
        T c = derivative(a, y);
        return double(c) * (double(a - y) - 0.5 * double(c));  // both branches, with c = clip(d, −t, t)
    }
    __device__ T derivative(T a, T y) const {
        T d = a - y;
        return d > threshold ? threshold : d < -threshold ? -threshold : d;
    }
};

// d = a − y: ℓ = Σ_j (1 − τ) d_j where d_j > 0, else −τ d_j ; ∂ℓ/∂a = 1 − τ or −τ, 0 at 0
template <typename T>
struct Quantile {
    static constexpr bool from_logits = false;
    T quantile;
    int64 width;
    __device__ double term(T a, T y) const { return double(derivative(a, y) * (a - y)); }
    __device__ T derivative(T a, T y) const {
        T d = a - y;
        return d > T(0) ? T(1) - quantile : d < T(0) ? -quantile : d;  // the last: 0, or NaN
    }
};

// A target that is no probability makes the loss NaN, and with it what is learnt from it.
template <typename T>
__device__ __forceinline__ T probability(T y) {
    return y >= T(0) && y <= T(1) ? y : not_a_number<T>();
}

// a = sigmoid(z): ℓ = −Σ_j (y_j ln a_j + (1 − y_j) ln(1 − a_j)) = Σ_j max(z_j, 0) − z_j y_j + ln(1 + e^−|z_j|) ;
// ∂ℓ/∂z = a − y
template <typename T>
struct BinaryCrossEntropy {
    static constexpr bool from_logits = true;
    T unused;
    int64 width;
    __device__ double term(T z, T y) const {
        return double((z > T(0) ? z : T(0)) - z * probability(y) + log1p(exp(-fabs(z))));
    }
    __device__ T derivative(T z, T y) const { return Sigmoid<T>{}.apply(z) - probability(y); }
};

// What focal losses are made of, at a probability p: f(p) = −(1 − p)^γ ln p, and h(p) = p f'(p) =
// (1 − p)^γ (γ p ln p / (1 − p) − 1). `rest` is 1 − p and `log_p` is ln p, each computed from the logits.
template <typename T>
struct Focal {
    T p, rest, log_p, gamma;
    __device__ T loss() const { return -pow(rest, gamma) * log_p; }
    __device__ T slope() const {
        T ratio = rest > T(0) ? log_p / rest : T(-1);  // which goes to −1 as p goes to 1
        return pow(rest, gamma) * (gamma * p * ratio - T(1));
    }
};

// a = sigmoid(z): ℓ = Σ_j y_j f(a_j) + (1 − y_j) f(1 − a_j) ; ∂ℓ/∂z = y (1 − a) h(a) − (1 − y) a h(1 − a)
template <typename T>
struct BinaryFocalCrossEntropy {
    static constexpr bool from_logits = true;
    T gamma;
    int64 width;
    // At sigmoid(z); of −z that is 1 − sigmoid(z).
    __device__ Focal<T> at(T z) const {
        return {Sigmoid<T>{}.apply(z), Sigmoid<T>{}.apply(-z), -Softplus<T>{}.apply(-z), gamma};
    }
    __device__ double term(T z, T y) const {
        y = probability(y);
        return double(y * at(z).loss() + (T(1) - y) * at(-z).loss());
    }
    __device__ T derivative(T z, T y) const {
        y = probability(y);
        Focal<T> one = at(z), other = at(-z);
        return y * one.rest * one.slope() - (T(1) - y) * other.rest * other.slope();
    }
};
