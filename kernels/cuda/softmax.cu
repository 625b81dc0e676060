// softmax: a[i, j] = e^(z[i, j] − m) / Σ_k e^(z[i, k] − m), m = max_k z[i, k]
//
//   z (B, n); a (B, n), of z's type, or of what is computed in
//
// A team of TEAM threads takes a row: a warp for narrow rows, a block for wide ones.
#include "reductions.cuh"

template <typename T, typename Out, int TEAM>
__global__ void softmax(const T* z, Out* a, int64 rows, int64 width) {
    using A = Accumulator<T>;
    int64 row = int64(blockIdx.x) * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    z += row * width, a += row * width;
    A largest = z[0];
    for (int64 j = threadIdx.x; j < width; j += TEAM) largest = Maximum{}(largest, A(z[j]));
    largest = team_reduce<TEAM>(largest, Maximum{});
    A sum = 0;
    for (int64 j = threadIdx.x; j < width; j += TEAM) sum += exp(A(z[j]) - largest);
    sum = team_reduce<TEAM>(sum, Sum{});
    for (int64 j = threadIdx.x; j < width; j += TEAM) a[j] = Out(exp(A(z[j]) - largest) / sum);
}
