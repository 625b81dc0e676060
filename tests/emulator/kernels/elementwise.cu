// Functions of CUDA's mathematics library, element by element, in float32 and float64.
#define ELEMENTWISE(name, type, call)                                        \
    extern "C" __global__ void name(int n, const type* x, type* y) {         \
        int i = blockIdx.x * blockDim.x + threadIdx.x;                       \
        if (i < n) y[i] = call(x[i]);                                        \
    }

ELEMENTWISE(exp_float, float, expf)
ELEMENTWISE(tanh_float, float, tanhf)
ELEMENTWISE(erf_float, float, erff)
ELEMENTWISE(exp_double, double, exp)
ELEMENTWISE(tanh_double, double, tanh)
ELEMENTWISE(erf_double, double, erf)
