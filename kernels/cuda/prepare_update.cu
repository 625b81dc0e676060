// prepare_update: control[STEP] += 1, and the scale of every gradient:
//   control[GRADIENT_SCALE] = min(1, max_norm / √control[SQUARED_NORM])
//
// By one thread, on the device, so that clipping needs no copy to the host. An infinite max_norm stands for none.
#include "control.cuh"

template <typename T>
__global__ void prepare_update(T* control, T max_norm) {
    control[STEP] += 1;
    T scale = 1;
    if (max_norm < T(__longlong_as_double(0x7ff0000000000000ll))) {
        T norm = sqrt(control[SQUARED_NORM]);
        scale = norm <= max_norm ? T(1) : max_norm / norm;  // a NaN norm gives a NaN scale, which shows
    }
    control[GRADIENT_SCALE] = scale;
}
