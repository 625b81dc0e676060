"""The names of `numba.cuda` on the emulated device, and Numba's compiler without a driver."""
