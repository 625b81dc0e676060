"""Blocks that wait for each other, loops that never end, limits, and interruption."""

import _thread
import threading

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.chips import architectures
from gpubp.emulator import cuda
from gpubp.emulator.errors import HangError
from gpubp.emulator.launch import launch

GRID_SYNC = """
__device__ void grid_sync(unsigned* count) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        unsigned goal = (atomicAdd(count, 1) / gridDim.x + 1) * gridDim.x;
        while (atomicAdd(count, 0) < goal);  // spins
        __threadfence();
    }
    __syncthreads();  // waits
}
"""


def kernel(body: str, functions: str = "") -> cp.RawKernel:
    return cp.RawKernel(
        f'{functions}\nextern "C" __global__ void kernel(int* y) {{ const int t = threadIdx.x, b = blockIdx.x;\n'
        f"volatile int* v = y;\n{body}\n}}",
        "kernel",
    )


def outcome(body: str, blocks: int, threads: int, lanes: int | None = None, functions: str = "") -> np.ndarray:
    y = cp.zeros(1024, np.int32)
    compiled = kernel(body, functions).kernel
    launch(compiled, (blocks, 1, 1), (threads, 1, 1), [y.data.ptr.to_bytes(8, "little")], lanes=lanes)
    return y.get()


WAITING = {
    "a barrier of the grid": (
        "for (int i = 0; i < 3; i++) grid_sync((unsigned*)y);\nif (t == 0) y[b + 1] = y[0];", 9, 64
    ),
    "a later block sets a flag": (
        "if (b == 0) { while (v[1] == 0); v[2] = v[1]; } else if (b == 5 && t == 3) v[1] = 7;", 6, 64
    ),
    "turns counted while waiting": (
        "if (b == 0) { int n = 0; while (v[1] == 0) n++; v[2] = 5 + (n < 0); } else if (t == 0) v[1] = 1;", 2, 32
    ),
    "look-back from the last block to the first": (
        "int c = gridDim.x - 1 - b;\nif (t == 0) { while (c && v[c - 1] == 0); v[c] = c + (c ? v[c - 1] : 1); }", 12, 64
    ),
    "a ticket, in the order of the blocks reversed": (
        "if (t == 0) { while (v[0] != gridDim.x - 1 - b); y[1 + v[0]] = b; __threadfence(); atomicAdd(y, 1); }", 12, 128
    ),
    "all threads spin through a barrier": (
        "if (b == 0) { while (v[1] == 0) __syncthreads(); v[2 + t] = t; } else if (t == 0) v[1] = 1;", 2, 64
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "blocks", "threads"), WAITING.values(), ids=WAITING.keys())
def test_blocks_may_wait_for_later_ones(body, blocks, threads):
    expected = outcome(body, blocks, threads, lanes=1, functions=GRID_SYNC)
    assert expected.any()
    for lanes in (3 * threads, None):
        np.testing.assert_array_equal(outcome(body, blocks, threads, lanes, GRID_SYNC), expected)


def test_a_barrier_of_the_grid_in_numba():
    @cuda.jit
    def phases(y, count):
        i = cuda.grid(1)
        y[i] = i
        cuda.threadfence()
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            cuda.atomic.add(count, 0, 1)
            while cuda.atomic.add(count, 0, 0) < cuda.gridDim.x:
                pass
        cuda.syncthreads()
        total = y[(i + 32) % y.size]
        cuda.syncthreads()
        y[i] += 1000 * total

    y, count = np.zeros(128, np.int64), np.zeros(1, np.int32)
    phases[4, 32](y, count)
    np.testing.assert_array_equal(y % 1000, np.arange(128))
    assert count[0] == 4


def test_three_groups_of_a_block_of_which_the_middle_one_acts():
    body = """
    if (t < 32) while (v[1] == 0);
    else if (t < 64) { for (int i = 0; i < 3000; i++) v[3] = i; v[1] = 1; }
    else while (v[1] == 0);
    """
    assert outcome(body, 1, 96)[[1, 3]].tolist() == [1, 2999]


ENDLESS = {
    "a flag that nobody sets": ("while (v[1] == 0);  // here", 2, 64, r"reads there, global memory, 4 bytes into "),
    "a compare-and-swap on a NaN": (
        """
    float* f = (float*)y;
    if (t == 0) f[0] = __int_as_float(0x7fffffff);
    __syncthreads();
    float value = f[0], assumed;
    do {
        assumed = value;
        value = __int_as_float(atomicCAS(y, __float_as_int(assumed), __float_as_int(assumed + 1)));  // here
    } while (assumed != value);
    """,
        1,
        64,
        "global memory, 0 bytes into",
    ),
    "a flag in shared memory": (
        "__shared__ volatile int s; if (t == 0) s = 0; __syncthreads();\nwhile (s != 2) if (t == 1) s = 1;  // here",
        1,
        32,
        "shared memory, 0 bytes into",
    ),
    "a loop of barriers": ("while (v[1] == 0)  // here\n__syncthreads();", 1, 64, "global memory"),
    "one thread of a block, the others wait": (
        "if (t == 37) while (v[1] == 0);  // here\n__syncthreads();", 1, 64, "63 threads of the block wait at kernel"
    ),
    "a lock that its owner never gives back": (
        "if (t == 0) while (atomicCAS(y, 0, 1) != 0);  // here", 3, 32, "global memory, 0 bytes into"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("body", "blocks", "threads", "says"), ENDLESS.values(), ids=ENDLESS.keys())
def test_a_loop_in_which_nothing_changes_is_a_hang(body, blocks, threads, says):
    line = next(i for i, text in enumerate(body.splitlines(), 4) if "// here" in text)
    with pytest.raises(HangError, match=rf"kernel kernel, kernel.cu:{line}, block \(\d, 0, 0\), thread .*{says}"):
        outcome(body, blocks, threads)


def test_more_blocks_than_the_chip_holds_never_meet():
    compiled = kernel("grid_sync((unsigned*)y);", GRID_SYNC).kernel
    threads = 1024
    held = architectures()["sm_75"].resident_blocks(threads, 0)
    assert held == 40
    for blocks in (held, held + 1):
        y = cp.zeros(8, np.int32)
        arguments = (compiled, (blocks, 1, 1), (threads, 1, 1), [y.data.ptr.to_bytes(8, "little")], 0, "sm_75")
        if blocks == held:
            launch(*arguments)
        else:
            with pytest.raises(HangError, match="1 of 41 blocks have not started, as sm_75 holds 40 of them at once"):
                launch(*arguments)
        assert y.get()[0] == held


def test_shared_memory_limits_how_many_blocks_there_are_at_once():
    chip = architectures()["sm_90"]
    assert chip.resident_blocks(64, 0) == 32 * 132
    assert chip.resident_blocks(64, 100 * 1024) == 2 * 132
    assert chip.resident_blocks(64, 200 * 1024) == 132


COUNTING = "int n = 0; while (v[1] == 0) n++; y[2] = n;"
CHANGING = "while (v[1] == 0) v[2] = v[2] + 1;"


def test_the_limits_end_what_changes_for_ever():
    with cp.limits(idle=30_000), pytest.raises(HangError, match=r"kernel.cu:4, block \(0, 0, 0\), thread \(0, 0, 0\)"):
        outcome(COUNTING, 1, 32)
    with cp.limits(total=5_000), pytest.raises(HangError, match=r"kernel.cu:4, .*has not ended: emulator.limits"):
        outcome(CHANGING, 1, 32)
    for wrong in ({"idle": 0}, {"total": -1}):
        with pytest.raises(ValueError, match="it must be at least 1"):
            cp.limits(**wrong)


def test_a_long_loop_in_registers_is_no_hang():
    body = "unsigned n = t; for (int i = 0; i < 60000; i++) n = n * 1664525u + 1013904223u; y[t] = n;"
    expected = np.arange(32, dtype=np.uint64)
    for _ in range(60000):
        expected = (expected * 1664525 + 1013904223) % 2**32
    np.testing.assert_array_equal(outcome(body, 1, 32)[:32].astype(np.uint32), expected)


def test_an_interruption_names_the_place_and_leaves_the_device_usable():
    with cp.limits(total=5_000), pytest.raises(HangError):  # compiled now, and not when the interruption comes
        outcome(CHANGING, 1, 32)
    timer = threading.Timer(0.2, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt, match=r"kernel kernel, kernel.cu:4, block \(0, 0, 0\), thread \(0, 0, 0\)"):
        outcome(CHANGING, 1, 32)
    timer.join()
    assert outcome("if (t == 0) y[0] = 3;", 1, 32)[0] == 3


def test_lanes_whose_loops_differ_by_thousands_of_rounds_meet_again():
    """The ones that are ahead must not run on to the shuffle alone."""
    body = """
    unsigned n = t;
    for (int i = 0; i < 150 * t; i++) n = n * 1664525u + 1013904223u;
    y[t] = __shfl_sync(0xffffffffu, n, 31 - t);
    """
    expected = []
    for t in range(32):
        n = t
        for _ in range(150 * t):
            n = (n * 1664525 + 1013904223) % 2**32
        expected.append(n)
    np.testing.assert_array_equal(outcome(body, 1, 32)[:32].astype(np.uint32), expected[::-1])
