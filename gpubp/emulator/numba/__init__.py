"""The names of `numba.cuda` on the emulated device, and Numba's compiler without a driver."""

import numba

# Here, before a module asks the simulator for what it lacks.
if numba.config.ENABLE_CUDASIM:
    raise RuntimeError("NUMBA_ENABLE_CUDASIM replaces Numba's compiler by its simulator: unset it to use the emulator")
