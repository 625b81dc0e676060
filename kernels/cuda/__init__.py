"""The primitives in CUDA C++, one .cu file each."""
