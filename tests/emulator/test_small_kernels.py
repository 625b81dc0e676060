"""Small kernels of unusual make: the right ones are reported for nothing, the wrong ones for what they do wrong.

Each is the body of a kernel over `int* y` of 256 elements, with `t` the thread's number in its block. More wrong ones,
each with a right twin, are in tests/tools/planted_bugs.py.
"""

from __future__ import annotations

import dataclasses
import textwrap
from dataclasses import dataclass
from pathlib import Path

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
    "pairs of warps at barriers of their own": Small(
        """
        __shared__ int s[128];
        const int pair = t / 64;
        for (int i = 0; i < 3; i++) {
            s[t] = t + i;
            asm volatile("bar.sync %0, 64;" ::"r"(pair + 1) : "memory");
            y[t] += s[t ^ 32];
            asm volatile("bar.sync %0, 64;" ::"r"(pair + 1) : "memory");
        }
    """,
        threads=128,
    ),
    "halves of a warp at barriers of their own": Small(
        """
        __shared__ int s[32];
        s[t] = t;
        if (t < 16) __syncwarp(0x0000ffffu); else __syncwarp(0xffff0000u);
        y[t] = s[t ^ 8];
    """,
        threads=32,
    ),
    "thousands of __syncwarp": Small(
        """
        __shared__ int s[64];
        for (int i = 0; i < 1500; i++) {
            s[t] = i;
            __syncwarp();
            y[t] = s[t ^ 1];
            __syncwarp();
        }
    """,
    ),
    "knowledge that goes from hand to hand": Small(
        """
        __shared__ int s[96];
        if (t < 32) s[t] = t;
        if (t < 64) asm volatile("bar.sync 1, 64;" ::: "memory");
        if (t >= 32) asm volatile("bar.sync 2, 64;" ::: "memory");
        if (t >= 64) y[t] = s[t - 64];
    """,
        threads=96,
    ),
    "a lock": Small(
        """
        if (t % 32 == 0) {
            while (atomicCAS(y, 0, 1) != 0);
            __threadfence();
            y[1] += t;
            __threadfence();
            atomicExch(y, 0);
        }
    """,
        blocks=3,
    ),
    "a lock of which release and acquire are part of the atomics": Small(
        """
        if (t % 32 == 0) {
            int old = 1;
            while (old) asm volatile("atom.acquire.gpu.global.cas.b32 %0, [%1], 0, 1;" : "=r"(old) : "l"(y) : "memory");
            y[1] += t;
            asm volatile("st.release.gpu.global.b32 [%0], 0;" ::"l"(y) : "memory");
        }
    """,
        blocks=3,
    ),
    "the last block adds up": Small(
        """
        __shared__ bool last;
        if (t % 32 == 0) y[1 + 2 * blockIdx.x + t / 32] = t;
        __threadfence();
        __syncthreads();
        if (t == 0) last = atomicAdd(y, 1) == gridDim.x - 1;
        __syncthreads();
        if (last) {
            int sum = 0;
            for (int i = 0; i < 6; i++) sum += y[1 + i];
            y[100 + t] = sum;
        }
    """,
        threads=64,
        blocks=3,
    ),
    "a flag hands data over from block to block": Small(
        """
        volatile int* flag = y;
        if (blockIdx.x == 0) {
            y[1 + t] = t;
            __syncthreads();
            if (t == 0) {
                __threadfence();
                *flag = 1;
            }
        } else {
            if (t == 0) {
                while (*flag != 1);
                __threadfence();
            }
            __syncthreads();
            y[128 + t] = y[1 + t];
        }
    """,
        blocks=2,
    ),
    "a barrier of the grid": Small(
        """
        for (int i = 1; i <= 2; i++) {
            y[1 + 64 * blockIdx.x % 192 + t] = i;
            __syncthreads();
            if (t == 0) {
                __threadfence();
                atomicAdd(y, 1);
                while (atomicAdd(y, 0) < 3 * i);
                __threadfence();
            }
            __syncthreads();
            int other = y[1 + 64 * ((blockIdx.x + i) % 3) + t];
            __syncthreads();
            if (t == 0) {
                __threadfence();
                atomicAdd(y + 200, 1);
                while (atomicAdd(y + 200, 0) < 200 + 3 * i);
                __threadfence();
            }
            __syncthreads();
            y[1 + 64 * blockIdx.x % 192 + t] = other;
        }
    """,
        blocks=3,
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
    "halves of a warp that meet apart": Small(
        """
        __shared__ volatile int s[32];
        s[t] = t;
        if (t < 16) __syncwarp(0x0000ffffu); else __syncwarp(0xffff0000u);
        y[t] = s[t ^ 16];  // wrong
    """,
        threads=32,
        says="race",
    ),
    "hand to hand, in the wrong order": Small(
        """
        __shared__ volatile int s[96];
        if (t >= 32) asm volatile("bar.sync 2, 64;" ::: "memory");
        if (t < 32) s[t] = t;
        if (t < 64) asm volatile("bar.sync 1, 64;" ::: "memory");
        if (t >= 64) y[t] = s[t - 64];  // wrong
        if (t < 32) s[t] = t;  // wrong
    """,
        threads=96,
        says="race",
    ),
    "a producer that writes after it has arrived": Small(
        """
        __shared__ volatile int s[64];
        if (t < 32) {
            s[t] = t;
            asm volatile("bar.arrive 1, 64;" ::: "memory");
            s[t] = 2 * t;  // wrong
        } else {
            asm volatile("bar.sync 1, 64;" ::: "memory");
            y[t] = s[t - 32];  // wrong
        }
    """,
        says="race",
    ),
    "a barrier of the grid, and threads that have not read yet": Small(
        """
        y[1 + 64 * blockIdx.x + t] = t;
        __syncthreads();
        if (t == 0) {
            __threadfence();
            atomicAdd(y, 1);
            while (atomicAdd(y, 0) < 2);
            __threadfence();
        }
        __syncthreads();
        int other = y[1 + 64 * (1 - blockIdx.x) + t];
        if (t == 0) {
            __threadfence();
            atomicAdd(y + 200, 1);
            while (atomicAdd(y + 200, 0) < 202);
            __threadfence();
        }
        __syncthreads();
        y[1 + 64 * blockIdx.x + t] = other;  // wrong
    """,
        blocks=2,
        says="race",
    ),
    "a lock without fences": Small(
        """
        if (t % 32 == 0) {
            while (atomicCAS(y, 0, 1) != 0);
            y[1] += t;  // wrong
            atomicExch(y, 0);
        }
    """,
        blocks=3,
        says="race",
    ),
    "a lock that lacks the fence before it is given back": Small(
        """
        if (t % 32 == 0) {
            while (atomicCAS(y, 0, 1) != 0);
            __threadfence();
            y[1] += t;  // wrong
            atomicExch(y, 0);
        }
    """,
        blocks=3,
        says="race",
    ),
    "a flag, and a thread that does not wait for it": Small(
        """
        volatile int* flag = y;
        if (blockIdx.x == 0) {
            y[1 + t] = t;
            __syncthreads();
            if (t == 0) {
                __threadfence();
                *flag = 1;
            }
        } else {
            if (t == 0) {
                while (*flag != 1);
                __threadfence();
            }
            y[128 + t] = ((volatile int*)y)[1 + t];  // wrong
        }
    """,
        blocks=2,
        says="race",
    ),
    "__syncwarp between warps": Small(
        """
        __shared__ int s[64];
        s[t] = t;
        __syncwarp();
        y[t] = s[63 - t];  // wrong
    """,
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


SAME_VALUE = Small(
    """
    __shared__ int found;
    if (t == 0) found = 0;
    __syncthreads();
    if (t % 3 == 1) found = 1;
    y[2] = 7;
    __syncthreads();
    y[64 + t] = found;
""",
    threads=96,
)


@pytest.mark.parametrize("edit", [("found = 1", "found = t"), ("y[2] = 7", "y[2] = t"), ("y[2] = 7", "y[2] = found")])
def test_stores_of_one_value_are_told_apart(edit: tuple[str, str]) -> None:
    """A flag that many set is one kind; that it is set in the same way does not hide that other values race."""
    assert {message.split(":")[0] for message, _ in run(SAME_VALUE)} == {"same-value race"}
    old, new = edit
    wrong = dataclasses.replace(SAME_VALUE, body=SAME_VALUE.body.replace(old, new))
    kinds = {message.split(":")[0]: line for message, line in run(wrong)}
    line = next(i for i, text in enumerate(textwrap.dedent(wrong.body).strip().splitlines(), 1) if new in text)
    assert kinds["race"] == line
    assert "same-value race" in kinds


def test_a_harmless_race_hides_no_real_one_of_the_same_instruction() -> None:
    """Most threads write 5 as thread 0 did before, and two write 6."""
    body = """
    __shared__ volatile int s[2];
    if (t == 0) s[0] = 5;
    if (t > 0) s[0] = t < 30 ? 5 : 6;
    """
    assert {message.split(":")[0] for message, line in run(Small(body, threads=32)) if line == 3} == {
        "race",
        "same-value race",
    }


def test_each_pair_of_racing_instructions_is_told() -> None:
    body = """
    __shared__ volatile int s[64];
    if (t < 32) s[t] = t;
    else s[t] = 2 * t;
    y[t] = s[(t + 1) % 64];
    """
    found = run(Small(body))
    others = {message.split("writes at ")[1].split(",")[0] for message, line in found if line == 4}
    assert others == {"kernel.cu:3", "kernel.cu:4"}


NESTED = """
#include <cub/helper.cuh>
__device__ float inner(const float* p, int i) { return p[i] * 2; }
__device__ float middle(const float* p, int i) { return inner(p, i + 1) + 1; }
__device__ __noinline__ float called(const float* p, int i) { return middle(p, i) - 3; }
extern "C" __global__ void kernel(const float* x, float* y, int which) {
    const int t = threadIdx.x;
    if (which == 0) y[t] = middle(x, t + 1);
    if (which == 1) y[t] = called(x, t + 1);
    if (which == 2) y[t] = twice_read(x, 2 * t);
}
"""


@pytest.mark.parametrize(
    ("which", "place"),
    [
        (0, r"kernel.cu:3 \(inlined at kernel.cu:4, inlined at kernel.cu:8\)"),
        (1, r"kernel.cu:3 \(inlined at kernel.cu:4, inlined at kernel.cu:5, inlined at kernel.cu:9\)"),
        (2, r"kernel.cu:10 \(in helper.cuh:1\)"),
    ],
)
def test_lines_of_helpers_lead_back_to_the_users_kernel(which: int, place: str, tmp_path: Path) -> None:
    (tmp_path / "cub").mkdir()
    (tmp_path / "cub" / "helper.cuh").write_text(
        "__device__ float read(const float* p, int i) { return p[i]; }\n"
        "__device__ float twice_read(const float* p, int i) { return 2 * read(p, i); }\n"
    )
    kernel = cp.RawKernel(NESTED, "kernel", options=(f"-I{tmp_path}",))
    x, y = cp.zeros(32, np.float32), cp.zeros(32, np.float32)
    with pytest.raises(cp.MemoryAccessError, match=rf"kernel kernel, {place}, block"):
        kernel((1,), (32,), (x, y, which))


def test_findings_have_grades() -> None:
    body = textwrap.dedent(SAME_VALUE.body).strip()
    kernel = cp.RawKernel(
        f'extern "C" __global__ void kernel(int* y) {{ const int t = threadIdx.x;\n{body}\n}}', "kernel"
    )
    with observe(races=True) as report:
        kernel((1,), (96,), (cp.zeros(256, np.int32),))
    assert {finding.grade for finding in report.findings} == {"warning"}
    assert report.races == report.at_least("error") == []
    assert report.at_least("warning") == report.at_least("note") == report.findings
    with pytest.raises(ValueError, match="grade is 'bad'"):
        report.at_least("bad")


@pytest.mark.parametrize("small", WRONG.values(), ids=WRONG.keys())
def test_wrong_kernels_are_reported(small: Small) -> None:
    lines = textwrap.dedent(small.body).strip().splitlines()
    reports = run(small)
    assert reports, "nothing was reported"
    message, line = reports[0]
    assert small.says in message
    assert line in {i for i, text in enumerate(lines, 1) if text.endswith("// wrong")}, message
