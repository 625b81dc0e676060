"""Dynamic shared memory of several kernels in one module, under different names and types, sized at each launch."""

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import MemoryAccessError, cuda, observe

SOURCE = """
extern __shared__ float floats[];
extern __shared__ double doubles[];
struct alignas(16) Pair { int first, second; };
extern __shared__ Pair pairs[];

extern "C" __global__ void reverse_floats(float* x, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) floats[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = floats[n - 1 - i];
}
extern "C" __global__ void reverse_doubles(double* x, int n) {
    __shared__ char odd[3];
    odd[threadIdx.x % 3] = 1;
    for (int i = threadIdx.x; i < n; i += blockDim.x) doubles[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = doubles[n - 1 - i];
}
extern "C" __global__ void swap_pairs(int* x) {
    pairs[threadIdx.x].first = x[2 * threadIdx.x];
    pairs[threadIdx.x].second = x[2 * threadIdx.x + 1];
    __syncthreads();
    Pair other = pairs[blockDim.x - 1 - threadIdx.x];
    x[2 * threadIdx.x] = other.second;
    x[2 * threadIdx.x + 1] = other.first;
}
// Both names stand for the same bytes.
extern "C" __global__ void halves(unsigned* out) {
    doubles[threadIdx.x] = threadIdx.x + 1.0;
    __syncthreads();
    out[threadIdx.x] = __float_as_uint(floats[2 * threadIdx.x + 1]);
}
// In functions that kernels call, one of them through a pointer.
__device__ __noinline__ float first_float() { return floats[0]; }
__device__ float last_float() { return floats[blockDim.x - 1]; }
__device__ float (*reads[2])() = {first_float, last_float};
extern "C" __global__ void read(float* out, int which) {
    floats[threadIdx.x] = threadIdx.x + 10;
    __syncthreads();
    out[threadIdx.x] = reads[which]() + first_float();
}
"""


@pytest.fixture(scope="module")
def module():
    return cp.RawModule(code=SOURCE)


def test_each_kernel_has_its_own_type_and_each_launch_its_own_size(module):
    for n in (1, 33, 500, 7):
        with observe(races=True, uninitialised=True) as report:
            floats = cp.asarray(np.arange(n, dtype=np.float32))
            module.get_function("reverse_floats")((1,), (64,), (floats, np.int32(n)), shared_mem=4 * n)
            doubles = cp.asarray(np.arange(n, dtype=np.float64))
            module.get_function("reverse_doubles")((1,), (64,), (doubles, np.int32(n)), shared_mem=8 * n)
        assert np.array_equal(floats.get(), np.arange(n)[::-1])
        assert np.array_equal(doubles.get(), np.arange(n)[::-1])
        assert not [finding for finding in report.findings if finding.kind != "same-value race"]


def test_structures(module):
    x = cp.asarray(np.arange(64, dtype=np.int32))
    module.get_function("swap_pairs")((1,), (32,), (x,), shared_mem=8 * 32 * 2)
    assert np.array_equal(x.get(), np.arange(64)[::-1])


def test_two_names_of_the_same_bytes(module):
    out = cp.empty(40, np.uint32)
    module.get_function("halves")((1,), (40,), (out,), shared_mem=320)
    assert np.array_equal(out.get(), (np.arange(40) + 1.0).view(np.uint32)[1::2])


@pytest.mark.parametrize(("which", "value"), [(0, 20), (1, 20 + 31)])
def test_functions(module, which, value):
    out = cp.empty(32, np.float32)
    module.get_function("read")((1,), (32,), (out, np.int32(which)), shared_mem=128)
    assert (out.get() == value).all()


@pytest.mark.parametrize(
    ("kernel", "dtype", "given", "says"),
    [
        ("reverse_floats", np.float32, 4 * 99, "writes 4 bytes .* 0 bytes past the end of floats of 396 bytes"),
        ("reverse_doubles", np.float64, 8 * 99, "writes 8 bytes .* 0 bytes past the end of doubles of 792 bytes"),
        ("reverse_doubles", np.float64, 4 * 100, "writes 8 bytes .* 0 bytes past the end of doubles of 400 bytes"),
        ("reverse_floats", np.float32, 0, "writes 4 bytes .* past the end of floats of 0 bytes"),
    ],
)
def test_a_launch_with_too_little_is_named(module, kernel, dtype, given, says):
    with pytest.raises(MemoryAccessError, match=says):
        module.get_function(kernel)((1,), (128,), (cp.zeros(100, dtype), np.int32(100)), shared_mem=given)


@cuda.jit
def numba_floats(x):
    s = cuda.shared.array(0, np.float32)
    i = cuda.threadIdx.x
    s[i] = x[i]
    cuda.syncthreads()
    x[i] = s[cuda.blockDim.x - 1 - i]


@cuda.jit
def numba_doubles(x):
    s = cuda.shared.array(0, np.float64)
    i = cuda.threadIdx.x
    s[i] = x[i]
    cuda.syncthreads()
    x[i] = s[cuda.blockDim.x - 1 - i]


def test_numba():
    for kernel, dtype in ((numba_floats, np.float32), (numba_doubles, np.float64)):
        for n in (32, 70):
            x = np.arange(n, dtype=dtype)
            kernel[1, n, 0, x.nbytes](x)
            assert np.array_equal(x, np.arange(n)[::-1])
            with pytest.raises(MemoryAccessError, match="past the end of"):
                kernel[1, n, 0, x.nbytes - dtype().itemsize](x)
