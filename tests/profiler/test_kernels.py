"""The profile of any kernel: what it does, of whatever kind it is, and what limits it."""

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp import chips
from gpubp.emulator import cuda
from gpubp.errors import ArgumentError
from gpubp.profiler import profile
from gpubp.profiler.annotated_source import files_of
from gpubp.profiler.profile_tables import heading, picture, tables, title
from gpubp.profiler.workloads import KernelLaunch
from gpubp.toolchain.nvrtc import compile_source

CODE = r"""
extern "C" {
__global__ void axpy(int n, double a, const double* x, double* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}
__global__ void strided(const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    y[i] = x[32 * i] + x[32 * i + 1];
}
__global__ void again(const float* x, float* y) {
    float sum = 0;
    for (int i = 0; i < 16; ++i) sum += x[i];
    y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
__global__ void count(unsigned* x) { atomicAdd(x, 1u); }
__global__ void nothing() {}
#if __CUDA_ARCH__ >= 800
__global__ void tensor(float* out) {
    unsigned a[4] = {}, b[2] = {};
    float c[4] = {};
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    out[threadIdx.x] = c[0] + c[1] + c[2] + c[3];
}
#endif
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
__global__ void warpgroup(float* out) {
    __shared__ __align__(1024) unsigned char tile[8192];
    float c[4] = {};
    for (int i = threadIdx.x; i < 8192; i += 128) tile[i] = 0;
    asm volatile("fence.proxy.async;" ::: "memory");
    __syncthreads();
    unsigned long long rows = 1ull << 62 | 64ull << 32 | (unsigned)__cvta_generic_to_shared(tile) / 16;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %4, 1, 1, 1, 0, 0;"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "l"(rows));
    asm volatile("wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;" ::: "memory");
    out[threadIdx.x] = c[0] + c[1] + c[2] + c[3];
}
#endif
__global__ void race(int* x) {
    __shared__ int s[64];
    s[threadIdx.x] = 1;
    x[threadIdx.x] = s[63 - threadIdx.x];
}
}
"""


def kernel(name):
    return cp.RawKernel(CODE, name)


def test_a_raw_kernel():
    x, y = np.ones(1000), cp.asarray(np.ones(1000))
    found = profile(kernel("axpy"), 4, 256, (np.int32(1000), 2.0, x, y))
    assert found.workload == KernelLaunch(
        "axpy", (4, 1, 1), (256, 1, 1), "float64", 0,
        ("int32 1000", "float 2.0", "float64 (1000,)", "float64 (1000,)"),
    )  # fmt: skip
    assert title(found) == "axpy, 4 blocks of 256 threads, float64: sm_90 on H100 SXM"
    assert heading(found) == "axpy"
    assert found.cost.flops == 2000
    assert (found.cost.bytes_read, found.cost.bytes_written) == (16000, 8000)
    (one,) = found.kernels
    assert one.counts.blocks == 4
    assert one.threads == 256
    assert one.resources.registers > 0
    assert one.machine_code.classes["FMA"] == 1
    assert one.occupancy.blocks == 8
    np.testing.assert_array_equal(y.get(), np.full(1000, 3.0))  # an array of the device is the kernel's own
    np.testing.assert_array_equal(x, np.ones(1000))
    assert found.exact
    assert found.to_dict()["workload"]["grid"] == (4, 1, 1)


def test_what_is_touched_counts_once():
    """Each 32-byte sector once, however often it is asked for, and whole where a part of it is read."""
    once = profile(kernel("again"), 2, 64, (np.ones(16, np.float32), np.zeros(128, np.float32)))
    assert (once.cost.bytes_read, once.cost.bytes_written) == (64, 512)
    assert once.traffic == 32 * (16 * 4 + 16)  # each warp asks again
    sparse = profile(kernel("strided"), 1, 64, (np.ones(2048, np.float32), np.zeros(64, np.float32)))
    assert sparse.cost.bytes_read == 64 * 32
    assert sparse.kernels[0].counts.total("global", "excess") > 0


def test_an_atomic_reads_and_writes():
    found = profile(kernel("count"), 1, 32, (np.zeros(1, np.uint32),))
    assert (found.cost.bytes_read, found.cost.bytes_written) == (32, 32)


@pytest.mark.parametrize("name", ["count", "nothing"])
def test_kernels_without_flops(name):
    """They have no place on the roofline, and no share of a peak rate."""
    found = profile(kernel(name), 1000, 32, (np.zeros(1, np.uint32),) if name == "count" else ())
    assert found.cost.flops == 0
    assert "peak rate" not in found.limiter
    assert picture([found]).startswith(b"\x89PNG")
    assert [each for each in tables(found) if isinstance(each, str)][-2] == "Counted in one launch, as it is."


def test_the_rate_is_that_of_most_instructions():
    assert profile(kernel("tensor"), 1, 32, (np.zeros(32, np.float32),)).workload.dtype == "bfloat16"
    assert profile(kernel("again"), 1, 32, (np.ones(16, np.float32), np.zeros(32, np.float32))).cost.rate == "float32"
    chosen = profile(kernel("tensor"), 1, 32, (np.zeros(32, np.float32),), dtype="fp32")
    assert chosen.roofline == chips.get("H100").roofline("float32")


def test_the_rate_of_products_by_warpgroups_is_that_of_matrix_units(tmp_path):
    path = tmp_path / "warpgroup.ptx"
    path.write_text(compile_source(CODE, "sm_90a").ptx)
    found = profile(
        cp.RawModule(path=str(path)).get_function("warpgroup"), 1, 128, (np.zeros(128, np.float32),), "H100"
    )
    assert (found.workload.dtype, found.cost.flops) == ("bfloat16", 2 * 64 * 8 * 16 + 3 * 128)


def test_chips():
    arguments = (kernel("count"), 1, 32, (np.zeros(1, np.uint32),))
    assert (profile(*arguments, "T4").arch, profile(*arguments, chips.get("A100")).arch) == ("sm_75", "sm_80")
    assert profile(*arguments, None, arch="sm_80").gpu.key == "A100"
    with pytest.raises(ArgumentError, match="H100"):
        profile(*arguments, "H10")
    with pytest.raises(ArgumentError, match="one that Tesla T4 runs"):
        profile(*arguments, "T4", arch="sm_90")


def doubled(x, y):
    i = cuda.grid(1)
    if i < x.size:
        y[i] = 2 * x[i] + 1


def test_numba_kernels_emulated_and_real():
    import numba.cuda

    arguments = np.ones(100), np.zeros(100)
    own = profile(cuda.jit(doubled), 2, 64, arguments)
    real = profile(numba.cuda.jit(doubled), 2, (64, 1), arguments)
    assert own.cost == real.cost
    assert own.kernels[0].counts == real.kernels[0].counts
    assert own.backend == "numba"
    assert own.title == "doubled"
    assert own.cost.bytes_written == 800


def test_cupys_own_kernels():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed, whose kernels are profiled here")
    arguments = np.ones(16, np.float32), np.zeros(64, np.float32)
    real = profile(cupy.RawKernel(CODE, "again"), (2,), (32,), arguments)
    assert real.kernels[0].counts == profile(kernel("again"), 2, 32, arguments).kernels[0].counts


def test_the_source_is_annotated():
    found = profile(kernel("again"), 1, 32, (np.ones(16, np.float32), np.zeros(32, np.float32)))
    (file,) = files_of(found.kernels[0].counts.lines, found.sources)
    assert file.found
    (row,) = [row for row in file.rows if "sum += x[i]" in row.text]
    assert row.sectors == 16
    assert row.executed > 16 * 32


def test_observers_on_request():
    arguments = (kernel("race"), 1, 64, (np.zeros(64, np.int32),))
    assert profile(*arguments).findings == ()
    (finding,) = profile(*arguments, observe=True).findings
    assert finding.kind == "same-value race" or finding.kind == "race"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("axpy", 1, 32), "kernel was 'axpy'; it must be a RawKernel or a Numba kernel"),
        ((kernel("nothing"), 0, 32), "grid was 0"),
        ((kernel("nothing"), 1, (1, 1, 1, 1)), "block was (1, 1, 1, 1)"),
        ((kernel("nothing"), 1.5, 32), "grid was 1.5"),
        ((doubled, 1, 32), "a RawKernel or a Numba kernel"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises((ArgumentError, TypeError)) as caught:
        profile(*arguments)
    assert message in str(caught.value)


def test_a_fault_of_the_kernel_is_raised():
    with pytest.raises(cp.MemoryAccessError):
        profile(kernel("again"), 1, 32, (np.ones(8, np.float32), np.zeros(32, np.float32)))
