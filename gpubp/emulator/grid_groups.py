"""The functions that Numba's grid groups call, in CUDA C++: CUDA's device runtime has them as machine code."""

from __future__ import annotations

SOURCE = """
#include <cooperative_groups.h>
namespace groups = cooperative_groups;

extern "C" __device__ unsigned long long cudaCGGetIntrinsicHandle(cudaCGScope scope) {
  return groups::this_grid().is_valid();
}

extern "C" __device__ cudaError_t cudaCGSynchronize(unsigned long long handle, unsigned flags) {
  groups::this_grid().sync();
  return cudaSuccess;
}
"""
NAMES = frozenset(("cudaCGGetIntrinsicHandle", "cudaCGSynchronize"))
"""The names that it defines."""
