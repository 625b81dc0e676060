// cast: out = source, rounded to the type of out
//
//   source, out: `size` elements each
template <typename Source, typename T>
__global__ void cast(const Source* source, T* out, long long size) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < size) out[i] = T(source[i]);
}
