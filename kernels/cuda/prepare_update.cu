// prepare_update: control[STEP] += 1, and the scale of every gradient:
//   control[GRADIENT_SCALE] = min(1, max_norm / √control[SQUARED_NORM])
//
// With loss scaling (growth_interval > 0) the gradient is control[LOSS_SCALE] = S times too large, and the norm
// √control[SQUARED_NORM] / S: the gradient's scale is divided by S, and S is doubled after growth_interval updates in a
// row, up to LARGEST_LOSS_SCALE. A gradient that is not finite halves S (not under 1), and nothing is updated:
// control[SKIP] = 1, STEP stays.
//
// By one thread, on the device, so that clipping and skipping need no copy to the host. An infinite max_norm stands for
// none.
#include "control.cuh"

template <typename T>
__global__ void prepare_update(T* control, long long growth_interval, T max_norm) {
    const T infinity = T(__longlong_as_double(0x7ff0000000000000ll));
    T loss_scale = 1;
    if (growth_interval > 0) {
        loss_scale = control[LOSS_SCALE];
        bool finite = control[SQUARED_NORM] < infinity;  // not so for a NaN
        control[SKIP] = finite ? T(0) : T(1);
        if (!finite) {
            control[LOSS_SCALE] = loss_scale > T(2) ? loss_scale / T(2) : T(1);
            control[CLEAN_STEPS] = 0;
            return;
        }
        T clean = control[CLEAN_STEPS] + 1;
        bool grows = clean >= T(growth_interval);
        if (grows && loss_scale < T(LARGEST_LOSS_SCALE)) control[LOSS_SCALE] = loss_scale * T(2);
        control[CLEAN_STEPS] = grows ? T(0) : clean;
    }
    control[STEP] += 1;
    T scale = 1;
    if (max_norm < infinity) {
        T norm = sqrt(control[SQUARED_NORM]) / loss_scale;
        scale = norm <= max_norm ? T(1) : max_norm / norm;  // a NaN norm gives a NaN scale, which shows
    }
    control[GRADIENT_SCALE] = scale / loss_scale;
}
