// prepare_update: the norm of the gradient, and from it the scale of every gradient:
//   control[SQUARED_NORM] = Σ g² ; control[GRADIENT_SCALE] = min(1, max_norm / √Σ g²)
//
// With loss scaling (growth_interval > 0) the gradient is control[LOSS_SCALE] = S times too large, and the norm √Σ g² /
// S: the gradient's scale is divided by S, and S is doubled after growth_interval updates in a row, up to
// LARGEST_LOSS_SCALE. A gradient that is not finite halves S (not under 1), and nothing is updated: control[SKIP] = 1,
// and control[SKIPPED] counts it.
//
// The norm is summed in float64, one part a block. The last block to arrive adds the parts, and one thread of it does
// the rest: so clipping and skipping need no copy to the host. An infinite max_norm stands for none.
#include "arrivals.cuh"
#include "control.cuh"
#include "reductions.cuh"

__device__ __forceinline__ void prepare(double* control, double squared_norm, int64 growth_interval, double max_norm) {
    const double infinity = __longlong_as_double(0x7ff0000000000000ll);
    double loss_scale = 1;
    control[SQUARED_NORM] = squared_norm;
    if (growth_interval > 0) {
        loss_scale = control[LOSS_SCALE];
        bool finite = squared_norm < infinity;  // not so for a NaN
        control[SKIP] = finite ? 0 : 1;
        if (!finite) {
            control[LOSS_SCALE] = loss_scale > 2 ? loss_scale / 2 : 1;
            control[CLEAN_STEPS] = 0;
            control[SKIPPED] += 1;
            return;
        }
        double clean = control[CLEAN_STEPS] + 1;
        bool grows = clean >= double(growth_interval);
        if (grows && loss_scale < LARGEST_LOSS_SCALE) control[LOSS_SCALE] = loss_scale * 2;
        control[CLEAN_STEPS] = grows ? 0 : clean;
    }
    double scale = 1;
    if (max_norm < infinity) {
        double norm = sqrt(squared_norm) / loss_scale;
        scale = norm <= max_norm ? 1 : max_norm / norm;  // a NaN norm gives a NaN scale, which shows
    }
    control[GRADIENT_SCALE] = scale / loss_scale;
}

template <typename T>
__global__ void __launch_bounds__(SUM_THREADS, 1) prepare_update(
    const T* gradients, double* control, double* parts, unsigned* arrivals, int64 size, int64 growth_interval,
    double max_norm) {
    int64 step = int64(gridDim.x) * SUM_THREADS;
    double sum = 0;
    for (int64 i = int64(blockIdx.x) * SUM_THREADS + threadIdx.x; i < size; i += step)
        sum += double(gradients[i]) * double(gradients[i]);
    sum = team_reduce<SUM_THREADS>(sum, Sum{});
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
    if (!block_arrives_last(arrivals, gridDim.x)) return;
    sum = sum_of_parts<SUM_THREADS>(parts, gridDim.x);
    if (threadIdx.x == 0) prepare(control, sum, growth_interval, max_norm);
}
