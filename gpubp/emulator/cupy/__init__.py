"""CuPy's names on the emulated device."""
