// Activation functions: each σ with its derivative σ', once for every kernel.
//
// `derivative` reads what the activation's own line names: the output a wherever σ' is a function of it, else the
// pre-activation z. Where σ' has a kink it takes the value for z <= 0, so ReLU'(0) = 0. A NaN goes through σ, and no
// finite z overflows into one. exp, tanh, normcdf, expm1 and log1p are CUDA's accurate functions, never the fast ones.
#pragma once

// σ(z) = z
template <typename T>
struct Identity {
    T unused;
    __device__ T apply(T z) const { return z; }
    __device__ T derivative(T) const { return T(1); }
};

// σ(z) = max(z, 0) ; σ' = 1 where a > 0, else 0
template <typename T>
struct ReLU {
    T unused;
    __device__ T apply(T z) const { return z < T(0) ? T(0) : z; }  // fmax would swallow a NaN
    __device__ T derivative(T a) const { return a > T(0) ? T(1) : T(0); }
};

// σ(z) = z where z > 0, else slope z ; σ' = 1 where a > 0, else slope
template <typename T>
struct LeakyReLU {
    T slope;
    __device__ T apply(T z) const { return z > T(0) ? z : slope * z; }
    __device__ T derivative(T a) const { return a > T(0) ? T(1) : slope; }
};

// σ(z) = z where z > 0, else α (eᶻ − 1) ; σ' = 1 where a > 0, else a + α
template <typename T>
struct ELU {
    T alpha;
    __device__ T apply(T z) const { return z > T(0) ? z : alpha * expm1(z); }
    __device__ T derivative(T a) const { return a > T(0) ? T(1) : a + alpha; }
};

// σ(z) = ln(1 + eᶻ) = max(z, 0) + ln(1 + e^−|z|) ; σ' = sigmoid(z) = 1 − e^−a
template <typename T>
struct Softplus {
    T unused;
    __device__ T apply(T z) const { return (z > T(0) ? z : T(0)) + log1p(exp(-fabs(z))); }
    __device__ T derivative(T a) const { return -expm1(-a); }
};

// σ(z) = 1 / (1 + e^−z) ; σ' = a (1 − a)
template <typename T>
struct Sigmoid {
    T unused;
    __device__ T apply(T z) const {
        T e = exp(-fabs(z));  // at most 1: neither side overflows
        return (z < T(0) ? e : T(1)) / (T(1) + e);
    }
    __device__ T derivative(T a) const { return a * (T(1) - a); }
};

// σ(z) = tanh z ; σ' = 1 − a²
template <typename T>
struct Tanh {
    T unused;
    __device__ T apply(T z) const { return tanh(z); }
    __device__ T derivative(T a) const { return T(1) - a * a; }
};

// σ(z) = z Φ(z), Φ the normal distribution function ; σ' = Φ(z) + z φ(z)
template <typename T>
struct GELU {
    T unused;
    __device__ T apply(T z) const { return z * normcdf(z); }
    __device__ T derivative(T z) const {
        T density = exp(T(-0.5) * z * z) * T(0.3989422804014327);  // 1/√(2π)
        return normcdf(z) + z * density;
    }
};

// σ(z) = ½ z (1 + tanh u), u = √(2/π) (z + 0.044715 z³) ; σ' = ½ (1 + tanh u) + ½ z (1 − tanh² u) u'
template <typename T>
struct GELUTanh {
    T unused;
    static constexpr T sqrt_2_over_pi = T(0.7978845608028654);
    static constexpr T cubic = T(0.044715);
    __device__ T u(T z) const { return sqrt_2_over_pi * (z + cubic * z * z * z); }
    __device__ T apply(T z) const { return T(0.5) * z * (T(1) + tanh(u(z))); }
    __device__ T derivative(T z) const {
        T t = tanh(u(z));
        T slope_u = sqrt_2_over_pi * (T(1) + T(3) * cubic * z * z);
        return T(0.5) * (T(1) + t) + T(0.5) * z * (T(1) - t * t) * slope_u;
    }
};

// σ(z) = z s, s = sigmoid(z) ; σ' = s (1 + z (1 − s))
template <typename T>
struct SiLU {
    T unused;
    __device__ T apply(T z) const { return z * Sigmoid<T>{}.apply(z); }
    __device__ T derivative(T z) const {
        T s = Sigmoid<T>{}.apply(z);
        return s * (T(1) + z * (T(1) - s));
    }
};
