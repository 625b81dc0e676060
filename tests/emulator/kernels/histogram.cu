// How often each value 0..255 occurs: counted in shared memory, then added to global memory.
extern "C" __global__ void histogram(int n, const unsigned char* x, unsigned int* counts) {
    __shared__ unsigned int own[256];
    for (int i = threadIdx.x; i < 256; i += blockDim.x) own[i] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&own[x[i]], 1u);
    __syncthreads();
    for (int i = threadIdx.x; i < 256; i += blockDim.x) atomicAdd(&counts[i], own[i]);
}
