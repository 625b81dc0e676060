// y = softmax of each row of x (rows, cols); a block of 128 threads takes a row.
#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif
constexpr int THREADS = 128;

__device__ float reduce(float* scratch, float value, bool maximum) {
    scratch[threadIdx.x] = value;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            float other = scratch[threadIdx.x + half], own = scratch[threadIdx.x];
            scratch[threadIdx.x] = maximum ? fmaxf(own, other) : own + other;
        }
        __syncthreads();
    }
    float result = scratch[0];
    __syncthreads();  // nobody may overwrite scratch[0] before all have read it
    return result;
}

extern "C" __global__ void softmax(int cols, const float* x, float* y) {
    __shared__ float scratch[THREADS];
    const float* row = x + (size_t)blockIdx.x * cols;
    float largest = -INFINITY;
    for (int j = threadIdx.x; j < cols; j += THREADS) largest = fmaxf(largest, row[j]);
    largest = reduce(scratch, largest, true);
    float total = 0.0f;
    for (int j = threadIdx.x; j < cols; j += THREADS) total += expf(row[j] - largest);
    total = reduce(scratch, total, false);
    for (int j = threadIdx.x; j < cols; j += THREADS) y[(size_t)blockIdx.x * cols + j] = expf(row[j] - largest) / total;
}
