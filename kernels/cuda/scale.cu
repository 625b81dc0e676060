// scale: x ← factor x
//
//   x: `size` elements
template <typename T>
__global__ void scale(T* x, long long size, T factor) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) x[i] *= factor;
}
