"""The order of execution as a seed: what depends on it shows, what does not stays, and a seed repeats itself."""

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import cuda
from gpubp.emulator.errors import DeadlockError, HangError, MemoryAccessError
from gpubp.errors import ArgumentError

SEEDS = range(9)

CODE = r"""
extern "C" {
__device__ int ticket, turn;

__global__ void last_block(int* x) { if (threadIdx.x == 0) x[0] = blockIdx.x; }
__global__ void last_warp(int* x) { if (threadIdx.x % 32 == 0) x[blockIdx.x] = threadIdx.x; }
__global__ void last_lane(int* x) { x[blockIdx.x] = threadIdx.x; }
__global__ void own_places(int* x) { x[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x; }

__global__ void sum_floats(int* x) { atomicAdd((float*)x, 1 / (1.f + blockIdx.x * blockDim.x + threadIdx.x)); }
__global__ void sum_floats_of_a_block(int* x) {
    __shared__ float s;
    if (threadIdx.x == 0) s = 0;
    __syncthreads();
    if (threadIdx.x % 3) atomicAdd(&s, 1 / (1.f + threadIdx.x));
    __syncthreads();
    if (threadIdx.x == 0) ((float*)x)[blockIdx.x] = s;
}
__global__ void sum_integers(int* x) { atomicAdd(x, blockIdx.x * blockDim.x + threadIdx.x); }
__global__ void exchange(int* x) { atomicExch(x, blockIdx.x * blockDim.x + threadIdx.x); }
__global__ void most(int* x) { atomicMax(x, blockIdx.x * blockDim.x + threadIdx.x); }
__global__ void numbered(int* x) { x[1 + blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(x, 1); }

__global__ void no_barrier(int* x) {
    __shared__ int s[128];
    for (int i = 0; i < 3; ++i) {
        s[threadIdx.x] = i * threadIdx.x;
        __syncthreads();
        x[blockIdx.x * 128 + threadIdx.x] += s[127 - threadIdx.x];
        // __syncthreads() is missing: a warp may overwrite what another has not read
    }
}
__global__ void barrier(int* x) {
    __shared__ int s[128];
    for (int i = 0; i < 3; ++i) {
        s[threadIdx.x] = i * threadIdx.x;
        __syncthreads();
        x[blockIdx.x * 128 + threadIdx.x] += s[127 - threadIdx.x];
        __syncthreads();
    }
}
__global__ void branches_without_syncwarp(int* x) {
    __shared__ int s[32];
    int t = threadIdx.x;
    s[t] = -1;
    __syncwarp();
    if (t < 16) {
        s[t] = t;
    } else {
        x[t] = ((volatile int*)s)[t - 16];
    }
}
__global__ void branches_with_syncwarp(int* x) {
    __shared__ int s[32];
    int t = threadIdx.x;
    if (t < 16) s[t] = t;
    __syncwarp();
    if (t >= 16) x[t] = s[t - 16];
}
__global__ void warp_sum(int* x) {
    int t = blockIdx.x * blockDim.x + threadIdx.x, v = t;
    for (int i = 0; i < t % 5; ++i) v = v * 3 + 1;
    if (t % 3 == 0) v += 7;
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    x[t] = v;
}
__global__ void half_warps(int* x) {
    int t = threadIdx.x, v = t;
    if (t % 32 < 16) {
        for (int d = 8; d; d /= 2) v += __shfl_xor_sync(0xffffu, v, d);
    } else {
        for (int i = 0; i < 40; ++i) v = v * 5 + i;
    }
    x[blockIdx.x * blockDim.x + t] = v;
}
__global__ void mixed_spaces(int* x) {
    __shared__ int s[64];
    int t = threadIdx.x;
    s[t] = 5 * t;
    x[64 + t] = 7 * t;
    __syncthreads();
    int* p = t % 3 ? s + (t ^ 1) : x + 64 + (t ^ 1);
    x[t] = *p;
}
#if __CUDA_ARCH__ >= 800
__global__ void copied(int* x) {  // asynchronously; every other thread copies zeros instead
    __shared__ int s[64];
    int t = threadIdx.x, size = t % 2 ? 4 : 0;
    x[64 + t] = 3 + t;
    __syncthreads();
    unsigned to = (unsigned)__cvta_generic_to_shared(s + t);
    if (t % 5) asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(x + 64 + (t ^ 2)), "r"(size));
    else s[t] = -1;
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    x[t] = s[t ^ 1];
}
#endif
__global__ void in_turn(int* x) {  // blocks take turns by a ticket, whichever runs first
    __shared__ int mine;
    if (threadIdx.x == 0) {
        mine = atomicAdd(&ticket, 1);
        while (atomicAdd(&turn, 0) != mine) {}
        __threadfence();
        x[0] = 2 * x[0] + mine;
        __threadfence();
        atomicAdd(&turn, 1);
    }
}
__global__ void lock(int* x) {
    for (bool done = false; !done;) {
        if (atomicCAS(x, 0, 1) == 0) {
            ((volatile int*)x)[1] += 1;
            __threadfence();
            atomicExch(x, 0);
            done = true;
        }
    }
}
__global__ void handed_over(int* x) {
    __shared__ volatile int flag;
    if (threadIdx.x == 0) flag = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        while (flag == 0) {}
        x[blockIdx.x] = 5;
    } else if (threadIdx.x == 32) {
        for (int i = 0; i < 100; ++i) atomicAdd(x + 100, 1);
        flag = 1;
    }
}
__global__ void beyond(int* x) { if (blockIdx.x == 3) x[1 << 20] = 1; }
__global__ void endless(int* x) { while (((volatile int*)x)[0] == 0) {} }
__global__ void never_met(int* x) {
    if (threadIdx.x < 32) asm volatile("barrier.sync 1, 64;");
    else asm volatile("barrier.sync 2, 64;");
}
}
"""


@pytest.fixture(scope="module")
def results():
    """Runs a kernel in the usual order and in that of each seed; returns what its array holds then."""
    module = cp.RawModule(code=CODE)

    def run(name, grid, block, seeds=(None, *SEEDS)):
        found = []
        for seed in seeds:
            for variable in ("ticket", "turn"):
                cp.ndarray((1,), np.int32, module.get_global(variable)).set(np.zeros(1, np.int32))
            x = cp.zeros(1 << 10, np.int32)
            with cp.observe(order=seed):
                module.get_function(name)((grid,), (block,), (x,))
            found.append(x.get())
        return found

    return run


DEPENDENT = {
    "last_block": (20, 64), "last_warp": (3, 256), "last_lane": (6, 32), "sum_floats": (4, 96),
    "sum_floats_of_a_block": (4, 96), "exchange": (3, 64), "numbered": (4, 64), "no_barrier": (2, 128),
    "branches_without_syncwarp": (1, 32),
}  # fmt: skip
INDEPENDENT = {
    "own_places": (4, 96), "sum_integers": (4, 96), "most": (3, 64), "barrier": (2, 128),
    "branches_with_syncwarp": (1, 32), "warp_sum": (7, 128), "half_warps": (1, 128), "in_turn": (9, 32),
    "lock": (3, 40), "handed_over": (5, 64), "mixed_spaces": (1, 64), "copied": (1, 64),
}  # fmt: skip


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_depends_on_the_order_shows(results, name):
    found = {x.tobytes() for x in results(name, *DEPENDENT[name])}
    assert len(found) > 1


@pytest.mark.parametrize("name", INDEPENDENT)
def test_what_does_not_depend_on_the_order_stays_the_same(results, name):
    usual, *others = results(name, *INDEPENDENT[name])
    assert usual.any()
    for seed, other in zip(SEEDS, others, strict=True):
        np.testing.assert_array_equal(other, usual, err_msg=f"seed {seed}")


@pytest.mark.parametrize("name", DEPENDENT)
def test_a_seed_repeats_the_order(results, name):
    once, again = (results(name, *DEPENDENT[name], seeds=(3, 7)) for _ in range(2))
    for one, other in zip(once, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_each_launch_has_an_order_of_its_own():
    """That of the third launch under a seed does not depend on what the first two were."""
    kernel = cp.RawModule(code=CODE).get_function("last_block")
    found = []
    for first in ("last_warp", "numbered"):
        x, launches = cp.zeros(1 << 10, np.int32), []
        with cp.observe(order=1):
            cp.RawModule(code=CODE).get_function(first)((4,), (64,), (cp.zeros(1 << 10, np.int32),))
            for _ in range(6):
                kernel((20,), (64,), (x,))
                launches.append(int(x.get()[0]))
        found.append(launches)
    assert found[0] == found[1]
    assert len(set(found[0])) > 2


def test_observers_do_not_change_the_order_of_a_seed(results):
    module = cp.RawModule(code=CODE)
    for seed, expected in zip(SEEDS, results("no_barrier", 2, 128, seeds=SEEDS), strict=True):
        x = cp.zeros(1 << 10, np.int32)
        with cp.observe(races=True, uninitialised=True, traffic=True, order=seed) as report:
            module.get_function("no_barrier")((2,), (128,), (x,))
        np.testing.assert_array_equal(x.get(), expected)
        assert report.races
        assert str(report).startswith("Findings: ")
        assert f"in order {seed}" in str(report)


@pytest.mark.parametrize(("name", "block"), [("barrier", 128), ("warp_sum", 128), ("half_warps", 64), ("in_turn", 32)])
def test_observers_find_nothing_in_right_kernels_in_any_order(name, block):
    module = cp.RawModule(code=CODE)
    for seed in range(3):
        x = cp.zeros(1 << 10, np.int32)
        with cp.observe(races=True, uninitialised=True, order=seed) as report:
            cp.ndarray((1,), np.int32, module.get_global("turn")).set(np.zeros(1, np.int32))
            cp.ndarray((1,), np.int32, module.get_global("ticket")).set(np.zeros(1, np.int32))
            module.get_function(name)((4,), (block,), (x,))
        assert report.findings == []


def test_counts_do_not_depend_on_the_order():
    module = cp.RawModule(code=CODE)
    counted = []
    for seed in (None, 1, 2):
        with cp.observe(traffic=True, order=seed) as report:
            module.get_function("barrier")((6,), (128,), (cp.zeros(1 << 10, np.int32),))
        counted.append((report.instructions, report.bytes, report.accesses))
    assert counted[0] == counted[1] == counted[2]


@pytest.mark.parametrize(
    ("name", "kind"), [("beyond", MemoryAccessError), ("endless", HangError), ("never_met", DeadlockError)]
)
def test_an_error_names_the_seed(results, name, kind):
    for seed in (0, 5):
        with pytest.raises(kind, match=rf"observe\(order={seed}\)"):
            results(name, 5, 64, seeds=(seed,))
    with pytest.raises(kind) as caught:
        results(name, 5, 64, seeds=(None,))
    assert "order" not in str(caught.value)


def test_a_failed_assertion_of_the_block_gets_a_note():
    with pytest.raises(AssertionError) as caught, cp.observe(order=4):
        raise AssertionError("differs")
    assert "observe(order=4)" in caught.value.__notes__[0]


@pytest.mark.parametrize("seed", [-1, 1.5, "3", True])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ArgumentError, match="order was"), cp.observe(order=seed):
        pass


def test_numba_kernels_have_orders_too():
    @cuda.jit
    def last(x):
        x[0] = cuda.grid(1)

    found = set()
    for seed in SEEDS:
        x = np.zeros(1, np.int64)
        with cp.observe(order=seed):
            last[4, 64](x)
        found.add(int(x[0]))
    assert len(found) > 3


def test_more_blocks_than_the_chip_holds():
    """Blocks start in any order, and all of them run."""
    module = cp.RawModule(code=CODE)
    with cp.use("sm_75"):
        for seed in (0, 1):
            x = cp.zeros(900 * 32, np.int32)
            with cp.observe(order=seed):
                module.get_function("own_places")((900,), (32,), (x,))
            np.testing.assert_array_equal(x.get(), np.tile(np.arange(32), 900))
