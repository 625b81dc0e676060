// Losses: what an output adds to the loss of its example, and the derivative ∂ℓ/∂output.
//
// `output` is a, or the logits z for a loss `from_logits`, whose derivative is already the one by z. Softmax
// cross-entropy works on whole rows; it is in output_delta.cu. Terms are float64, for the sums they go into.
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
