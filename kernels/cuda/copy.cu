// copy: out = source, as words
//
//   source, out: `words` words each
template <typename Word>
__global__ void copy(const Word* source, Word* out, long long words) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < words) out[i] = source[i];
}
