"""The names of `numba.cuda` on the emulated device, and Numba's compiler without a driver."""

from gpubp.toolchain import numba_package

# Here, before a module asks the simulator for what it lacks.
if getattr(numba_package.part("core.config"), "ENABLE_CUDASIM", 0):
    raise RuntimeError("NUMBA_ENABLE_CUDASIM replaces Numba's compiler by its simulator: unset it to use the emulator")
