"""The emulated CUDA device: executes PTX on the CPU."""
