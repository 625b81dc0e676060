"""The primitives in Numba CUDA, one module each."""
