"""Small kernels of unusual make: the right ones are reported for nothing, the wrong ones for what they do wrong.

Each is the body of a kernel over `int* y` of 256 elements, with `t` the thread's number in its block.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator.observe.observers import observe


@dataclass(frozen=True)
class Small:
    body: str
    threads: int = 64
    blocks: int = 1
    says: str = ""


RIGHT = {
    "neighbours of a warp, with __syncwarp": Small(
        """
        __shared__ int s[64];
        s[t] = t;
        __syncwarp();
        int v = s[t ^ 1];
        __syncwarp();
        s[t] = 2 * v;
        __syncwarp();
        y[64 * blockIdx.x + t] = s[t ^ 2];
    """,
        blocks=3,
    ),
    "two buffers and one barrier a step": Small("""
        __shared__ int s[2][64];
        int sum = 0;
        s[0][t] = y[t];
        __syncthreads();
        for (int i = 0; i < 6; i++) {
            s[(i + 1) & 1][t] = i * t;
            sum += s[i & 1][(t + 7) % 64];
            __syncthreads();
        }
        y[t] = sum;
    """),
    "a thread reads its own writes without a barrier": Small("""
        __shared__ volatile int s[64];
        s[t] = t;
        s[t] = s[t] + 1;
        volatile int* z = y;
        z[t] = s[t];
        z[t] = z[t] + 1;
    """),
    "atomics, a barrier, plain reads": Small(
        """
        __shared__ int count;
        if (t == 0) count = 0;
        __syncthreads();
        atomicAdd(&count, 1);
        __syncthreads();
        y[64 * blockIdx.x + t] = count;
    """,
        blocks=2,
    ),
    "neighbouring bytes of different threads and blocks": Small(
        """
        __shared__ __align__(4) unsigned char bytes[66];
        __shared__ __align__(4) short halves[66];
        bytes[t] = t;
        halves[t] = t;
        ((unsigned char*)y)[33 * blockIdx.x + t] = 1;
        __syncthreads();
        if (t < 16) y[64 + 16 * blockIdx.x + t] = ((int*)bytes)[t % 8] + ((int*)halves)[t];
    """,
        threads=33,
        blocks=5,
    ),
    "shuffles with the mask of those that take part": Small("""
        unsigned mask = __ballot_sync(0xffffffffu, t < 40);
        if (t < 40) {
            int v = t;
            for (int offset = 16; offset; offset /= 2) {
                int other = __shfl_xor_sync(mask, v, mask == 0xffffffffu ? offset : offset & 7);
                v += other;
            }
            y[t] = v;
        }
    """),
    "a barrier of two warps among four": Small(
        """
        __shared__ int s[64];
        if (t < 64) {
            s[t] = t;
            asm volatile("bar.sync 1, 64;" ::: "memory");
            y[t] = s[63 - t];
        } else
            y[t] = 0;
    """,
        threads=128,
    ),
    "producers arrive, consumers wait": Small(
        """
        __shared__ int s[64];
        if (t < 64) {
            s[t] = t;
            asm volatile("bar.arrive 1, 128;" ::: "memory");
        } else {
            asm volatile("bar.sync 1, 128;" ::: "memory");
            y[t] = s[127 - t];
        }
    """,
        threads=128,
    ),
    "atomics of many blocks on one word": Small(
        """
        atomicAdd(y, 1);
        atomicMax(y + 1, t);
        atomicCAS(y + 2, 0, t);
        atomicExch(y + 3, 7);
        atomicAdd((float*)y + 4, 1.0f);
    """,
        blocks=4,
    ),
    "threads that spin until another has come": Small("""
        __shared__ int flag;
        if (t == 0) flag = 0;
        __syncthreads();
        if (t == 32) atomicExch(&flag, 1);
        while (atomicAdd(&flag, 0) == 0);
        y[t] = 1;
    """),
    "an asynchronous copy that its own thread reads": Small("""
        __shared__ __align__(16) int s[256];
        unsigned target = __cvta_generic_to_shared(s + 4 * t);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(y + 4 * t) : "memory");
        asm volatile("cp.async.wait_all;" ::: "memory");
        int own = s[4 * t];
        __syncthreads();
        y[t] = own + s[(4 * t + 4) % 256];
    """),
    "threads past the end return before the barriers": Small(
        """
        __shared__ int s[64];
        const int n = 150, i = 64 * blockIdx.x + t;
        s[t] = t;
        if (i >= n) return;
        __syncthreads();
        y[i] = s[t / 2];
        __syncthreads();
        s[t] = y[i];
        if (t % 3 == 0) return;
        __syncthreads();
        y[i] = s[t - t % 3];
    """,
        blocks=3,
    ),
    "warps that are done return, the others go on": Small(
        """
        __shared__ int s[128];
        s[t] = t;
        for (int half = 64; half >= 32; half /= 2) {
            __syncthreads();
            if (t >= half) return;
            s[t] += s[t + half];
        }
        __syncthreads();
        y[t] = s[31 - t];
    """,
        threads=128,
    ),
    "local arrays with computed indices": Small("""
        int a[16];
        for (int i = 0; i < 16; i++) a[i] = i * y[i];
        __syncthreads();
        for (int i = 0; i < 5; i++) a[(t + i) % 16] += i;
        y[64 + t] = a[t % 16];
    """),
}

WRONG = {
    "__syncwarp between warps": Small(
        """
        __shared__ int s[64];
        s[t] = t;
        __syncwarp();
        y[t] = s[63 - t];  // wrong
    """,
        says="race",
    ),
    "no __syncwarp in a warp": Small(
        """
        __shared__ volatile int s[32];
        s[t] = t;
        y[t] = s[31 - t];  // wrong
    """,
        threads=32,
        says="race",
    ),
    "atomics and a plain read": Small(
        """
        __shared__ int count;
        if (t == 0) count = 0;
        __syncthreads();
        atomicAdd(&count, 1);
        y[t] = *(volatile int*)&count;  // wrong
    """,
        says="race",
    ),
    "a third warp beside a barrier of two": Small(
        """
        __shared__ volatile int s[64];
        if (t < 64) {
            s[t] = t;
            asm volatile("bar.sync 1, 64;" ::: "memory");
        } else
            y[t] = s[t - 64];  // wrong
    """,
        threads=128,
        says="race",
    ),
    "what another block wrote in this launch": Small(
        """
        y[64 * blockIdx.x + t] = t;
        __threadfence();
        int v = ((volatile int*)y)[64 * (1 - blockIdx.x) + t];  // wrong
        y[128 + 64 * blockIdx.x + t] = v;
    """,
        blocks=2,
        says="race",
    ),
    "a store under an asynchronous copy": Small(
        """
        __shared__ __align__(16) int s[256];
        unsigned target = __cvta_generic_to_shared(s + 4 * t);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(y + 4 * t) : "memory");  // wrong
        s[(4 * t + 4) % 256] = 1;  // wrong
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
        y[t] = s[t];
    """,
        says="race",
    ),
    "one shared array read as the next": Small(
        """
        __shared__ int a[8], b[8];
        if (t < 8) {
            a[t] = t;
            b[t] = -t;
        }
        __syncthreads();
        y[t] = a[t];  // wrong
        y[t] += b[t % 8];
    """,
        threads=16,
        says="out of bounds",
    ),
    "a local array's end": Small(
        """
        int a[16];
        for (int i = 0; i < 16; i++) a[i] = i;
        a[t] = 7;  // wrong
        int v = 0;
        for (int i = 0; i < 16; i++) v += a[(i * t) & 15];
        y[t] = v;
    """,
        threads=17,
        says="out of bounds",
    ),
    "a local array that is half written": Small(
        """
        int a[16];
        for (int i = 0; i < t % 16; i++) a[i] = i;
        y[t] = a[(7 * t) & 15];  // wrong
    """,
        says="nothing has written",
    ),
    "eight bytes at a multiple of four": Small(
        """
        __shared__ int s[66];
        *(volatile long long*)(s + t) = t;  // wrong
        y[t] = s[t];
    """,
        says="misaligned",
    ),
    "an index beyond 31 bits": Small(
        """
        int i = (t + 70000) * 70000;
        y[i] = 1;  // wrong
    """,
        says="out of bounds",
    ),
    "a mask that leaves out the lane itself": Small(
        """
        y[t] = __shfl_sync(0xffff, t, 0);  // wrong
    """,
        threads=32,
        says="divergent",
    ),
    "dynamic shared memory that was not asked for": Small(
        """
        extern __shared__ int d[];
        d[t] = t;  // wrong
        y[t] = d[t];
    """,
        says="out of bounds",
    ),
    "a barrier for which too few come": Small(
        """
        if (t < 32) asm volatile("bar.sync 1, 64;" ::: "memory");  // wrong
        y[t] = t;
    """,
        says="deadlock",
    ),
    "a barrier with a count, of which a warp has returned": Small(
        """
        if (t >= 32) return;
        asm volatile("bar.sync 2, 64;" ::: "memory");  // wrong
        y[t] = t;
    """,
        says="deadlock",
    ),
    "two barriers for which each half waits": Small(
        """
        if (t < 32) asm volatile("bar.sync 1;" ::: "memory");  // wrong
        else asm volatile("bar.sync 2;" ::: "memory");  // wrong
        y[t] = t;
    """,
        says="deadlock",
    ),
    "a trap": Small(
        """
        if (y[t] == 7) asm volatile("trap;");  // wrong
        y[t] = 1;
    """,
        says="trap",
    ),
}


def run(small: Small) -> list[tuple[str, int | None]]:
    """(message, line of the body) of everything that was reported; an error's line stands in its message."""
    body = textwrap.dedent(small.body).strip()
    source = f'extern "C" __global__ void kernel(int* y) {{ const int t = threadIdx.x;\n{body}\n}}'
    kernel = cp.RawKernel(source, "kernel")
    y = cp.asarray(np.arange(256, dtype=np.int32))
    with observe(races=True, uninitialised=True, traffic=True) as report:
        try:
            kernel((small.blocks,), (small.threads,), (y,))
        except cp.EmulatorError as error:
            return [(str(error), int(str(error).split("kernel.cu:")[1].split(",")[0]) - 1)]
    return [(f"{finding.kind}: {finding.message}", (finding.line or 0) - 1) for finding in report.findings]


@pytest.mark.parametrize("small", RIGHT.values(), ids=RIGHT.keys())
def test_right_kernels_raise_no_alarm(small: Small) -> None:
    assert run(small) == []


@pytest.mark.parametrize("small", WRONG.values(), ids=WRONG.keys())
def test_wrong_kernels_are_reported(small: Small) -> None:
    lines = textwrap.dedent(small.body).strip().splitlines()
    reports = run(small)
    assert reports, "nothing was reported"
    message, line = reports[0]
    assert small.says in message
    assert line in {i for i, text in enumerate(lines, 1) if text.endswith("// wrong")}, message
