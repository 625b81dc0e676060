// The sum of each block's 256 elements of x, by a tree in shared memory and by warp shuffles.
constexpr int THREADS = 256;

extern "C" __global__ void tree_sum(int n, const float* x, float* partial) {
    __shared__ float sums[THREADS];
    const int i = blockIdx.x * THREADS + threadIdx.x;
    sums[threadIdx.x] = i < n ? x[i] : 0.0f;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}

__device__ float warp_total(float value) {
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffff, value, offset);
    return value;
}

extern "C" __global__ void shuffle_sum(int n, const float* x, float* partial) {
    __shared__ float warps[THREADS / 32];
    const int i = blockIdx.x * THREADS + threadIdx.x;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float total = warp_total(i < n ? x[i] : 0.0f);
    if (lane == 0) warps[warp] = total;
    __syncthreads();
    if (warp == 0) {
        total = warp_total(lane < THREADS / 32 ? warps[lane] : 0.0f);
        if (lane == 0) partial[blockIdx.x] = total;
    }
}
