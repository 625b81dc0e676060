"""One small kernel for each kind of bug, wrong and right, in CUDA C++ and in Python.

«right → wrong» in a text stands for two kernels, which differ in nothing else. Lines that a report may name end in
"wrong". Every kernel takes `const int* x` of 64 elements, `int* y` of 256 and `int far`, the distance from x to y; `t`
is the thread's number in its block. The CUDA C++ is OpenCL C as well, by a few macros, where OpenCL C has the means.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

CHOICE = re.compile(r"«(.*?) ?→ ?(.*?)»", re.S)


@dataclass(frozen=True)
class Planted:
    """A bug: its kernels, what tools say of it, and what the manual of compute-sanitizer says.

    `says` is part of the emulator's message, `opencl` of Oclgrind's ("" if OpenCL C cannot express the bug). `manual`
    is the tool of compute-sanitizer that reports the bug, "✗" if the manual says that it is not reported, or "?" if the
    manual says neither; `section` is where.
    """

    cuda: str
    says: str
    manual: str
    section: str
    opencl: str = ""
    python: str = ""
    threads: int = 64
    blocks: int = 1
    endless: bool = False


def variant(text: str, wrong: bool) -> str:
    """Return the wrong kernel's text, or the right one's."""
    return textwrap.dedent(CHOICE.sub(r"\2" if wrong else r"\1", text)).strip("\n")


def marked_lines(text: str) -> set[int]:
    """Return the numbers of the lines that a report may name."""
    return {number for number, line in enumerate(text.splitlines(), 1) if line.endswith("wrong")}


RACE = "race: kernel"
OUTSIDE = "out of bounds"
UNWRITTEN = "uninitialised read: "
OPENCL_RACE = "data race"
OPENCL_OUTSIDE = "Invalid"
OPENCL_UNWRITTEN = "Uninitialized"
MEMCHECK = "Supported Error Detection"
RACECHECK = "What is Racecheck?"
SYNCCHECK = "Understanding Synccheck Reports"
INITCHECK = "Initcheck Address Space Selection"
DEADLOCK = "Racecheck Deadlock Detection"

PLANTED = {
    # bounds and addresses
    "one element past the end of an array": Planted(
        cuda="""
            if (t «< → <=» 64) y[t] = x[t];  // wrong
        """,
        python="""
            if t «< → <=» 64:
                y[t] = x[t]  # wrong
        """,
        threads=96,
        says=OUTSIDE,
        opencl=OPENCL_OUTSIDE,
        manual="memcheck",
        section=MEMCHECK,
    ),
    "one element before the start": Planted(
        cuda="""
            y[t] = x[«max(t - 1, 0) → t - 1»];  // wrong
        """,
        python="""
            # Indices from -64 to -1 count from the end: no bug.
            y[t] = x[«max(t - 1, 0) → t - 65»]  # wrong
        """,
        says=OUTSIDE,
        opencl=OPENCL_OUTSIDE,
        manual="memcheck",
        section=MEMCHECK,
    ),
    "an index so large that it hits another array": Planted(
        cuda="""
            y[t] = x[«t → t + far»];  // wrong
        """,
        python="""
            y[t] = x[«t → t + far»]  # wrong
        """,
        says=OUTSIDE,
        opencl=OPENCL_OUTSIDE,
        manual="✗",
        section="Padding",
    ),
    "past the end of a shared array, into the next": Planted(
        cuda="""
            __shared__ int a[8];
            __shared__ int b[8];
            if (t < 8) {
                a[t] = t;
                b[t] = -t;
            }
            __syncthreads();
            y[t] = a[«t % 8 → t»] + b[t % 8];  // wrong
        """,
        python="""
            a = cuda.shared.array(8, "int32")
            b = cuda.shared.array(8, "int32")
            if t < 8:
                a[t] = t
                b[t] = -t
            cuda.syncthreads()
            y[t] = a[«t % 8 → t»] + b[t % 8]  # wrong
        """,
        threads=16,
        says=OUTSIDE,
        opencl=OPENCL_OUTSIDE,
        manual="?",
        section="Release Notes, Known Limitations",
    ),
    "past the end of a local array": Planted(
        cuda="""
            int a[16];
            for (int i = 0; i < 16; i++) a[i] = i;
            a[«t % 16 → t»] = 7;  // wrong
            int v = 0;
            for (int i = 0; i < 16; i++) v += a[(i * t) & 15];
            y[t] = v;
        """,
        python="""
            a = cuda.local.array(16, "int32")
            for i in range(16):
                a[i] = i
            a[«t % 16 → t»] = 7  # wrong
            v = 0
            for i in range(16):
                v += a[(i * t) & 15]
            y[t] = v
        """,
        threads=17,
        says=OUTSIDE,
        opencl=OPENCL_OUTSIDE,
        manual="memcheck",
        section=MEMCHECK,
    ),
    "eight bytes at a multiple of four": Planted(
        cuda="""
            *(GLOBAL long*)(y + «2 * t → t + 1») = x[t];  // wrong
        """,
        says="misaligned",
        opencl="aligned",
        manual="memcheck",
        section=MEMCHECK,
        threads=1,
    ),
    # races
    "no barrier between writing and reading": Planted(
        cuda="""
            __shared__ int s[64];
            s[t] = 0;
            __syncthreads();
            s[t] = x[t];  // wrong
            «__syncthreads(); →»
            y[t] = s[63 - t];  // wrong
        """,
        python="""
            s = cuda.shared.array(64, "int32")
            s[t] = 0
            cuda.syncthreads()
            s[t] = x[t]  # wrong
            «cuda.syncthreads() →»
            y[t] = s[63 - t]  # wrong
        """,
        says=RACE,
        opencl=OPENCL_RACE,
        manual="racecheck",
        section=RACECHECK,
    ),
    "no barrier between reading and writing again": Planted(
        cuda="""
            __shared__ int s[64];
            s[t] = x[t];
            __syncthreads();
            int v = s[63 - t];  // wrong
            «__syncthreads(); →»
            s[t] = 2 * v;  // wrong
            y[t] = s[t];
        """,
        python="""
            s = cuda.shared.array(64, "int32")
            s[t] = x[t]
            cuda.syncthreads()
            v = s[63 - t]  # wrong
            «cuda.syncthreads() →»
            s[t] = 2 * v  # wrong
            y[t] = s[t]
        """,
        says=RACE,
        opencl=OPENCL_RACE,
        manual="racecheck",
        section=RACECHECK,
    ),
    "no `__syncwarp()` between lanes of a warp": Planted(
        cuda="""
            __shared__ VOLATILE int s[32];
            s[t] = x[t];
            «__syncwarp(); →»
            y[t] = s[31 - t];  // wrong
        """,
        threads=32,
        says=RACE,
        manual="racecheck",
        section="Racecheck Severity Levels",
    ),
    "a race beside a harmless one, by the same instruction": Planted(
        cuda="""
            __shared__ VOLATILE int s[64];
            s[«t → 0»] = x[t] < 50 ? 5 : 6;  // wrong
            __syncthreads();
            y[t] = s[t % «64 → 1»];
        """,
        python="""
            s = cuda.shared.array(64, "int32")
            s[«t → 0»] = 5 if x[t] < 50 else 6  # wrong
            cuda.syncthreads()
            y[t] = s[t % «64 → 1»]
        """,
        says=RACE,
        opencl=OPENCL_RACE,
        manual="racecheck",
        section="Understanding Racecheck Hazard Reports",
    ),
    "many threads store the same value": Planted(
        cuda="""
            __shared__ int found;
            if (t == 0) found = 0;
            __syncthreads();
            if («t == 1 → t % 3 == 1») found = 1;  // wrong
            __syncthreads();
            y[t] = found;
        """,
        python="""
            found = cuda.shared.array(1, "int32")
            if t == 0:
                found[0] = 0
            cuda.syncthreads()
            if «t == 1 → t % 3 == 1»:
                found[0] = 1  # wrong
            cuda.syncthreads()
            y[t] = found[0]
        """,
        says="same-value race: ",
        opencl=OPENCL_RACE,
        manual="?",
        section="Racecheck Severity Levels",
    ),
    "counting without atomics": Planted(
        cuda="""
            __shared__ int count[2];
            if (t < 2) count[t] = 0;
            __syncthreads();
            «atomicAdd(&count[t % 2], 1); → count[t % 2] += 1;»  // wrong
            __syncthreads();
            y[t] = count[t % 2];
        """,
        python="""
            count = cuda.shared.array(2, "int32")
            if t < 2:
                count[t] = 0
            cuda.syncthreads()
            «cuda.atomic.add(count, t % 2, 1) → count[t % 2] += 1»  # wrong
            cuda.syncthreads()
            y[t] = count[t % 2]
        """,
        says=RACE,
        opencl=OPENCL_RACE,
        manual="racecheck",
        section=RACECHECK,
    ),
    "two blocks write one element": Planted(
        cuda="""
            y[«blockIdx.x → 0»] = blockIdx.x + 1;  // wrong
        """,
        python="""
            y[«cuda.blockIdx.x → 0»] = cuda.blockIdx.x + 1  # wrong
        """,
        threads=1,
        blocks=2,
        says=RACE,
        opencl=OPENCL_RACE,
        manual="✗",
        section=RACECHECK,
    ),
    "reads what another block writes in the same launch": Planted(
        cuda="""
            VOLATILE GLOBAL int* z = y;
            z[64 * blockIdx.x + t] = t;  // wrong
            z[128 + 64 * blockIdx.x + t] = z[64 * («blockIdx.x → 1 - blockIdx.x») + t];  // wrong
        """,
        python="""
            block = cuda.blockIdx.x
            y[64 * block + t] = t  # wrong
            y[128 + 64 * block + t] = y[64 * («block → 1 - block») + t]  # wrong
        """,
        blocks=2,
        says=RACE,
        opencl=OPENCL_RACE,
        manual="✗",
        section=RACECHECK,
    ),
    "the last block adds up, and a fence is missing": Planted(
        cuda="""
            __shared__ int last;
            if (t % 32 == 0) y[1 + 2 * blockIdx.x + t / 32] = t;  // wrong
            «__threadfence(); →»
            __syncthreads();
            if (t == 0) last = atomicAdd(y, 1) == 2;
            __syncthreads();
            if (last) y[100 + t] = y[1 + t % 6];  // wrong
        """,
        python="""
            last = cuda.shared.array(1, "int32")
            if t % 32 == 0:
                y[1 + 2 * cuda.blockIdx.x + t // 32] = t  # wrong
            «cuda.threadfence() →»
            cuda.syncthreads()
            if t == 0:
                last[0] = cuda.atomic.add(y, 0, 1) == 2
            cuda.syncthreads()
            if last[0]:
                y[100 + t] = y[1 + t % 6]  # wrong
        """,
        blocks=3,
        says=RACE,
        opencl=OPENCL_RACE,
        manual="✗",
        section=RACECHECK,
    ),
    "a fence between blocks that is one for a block only": Planted(
        cuda="""
            __shared__ int last;
            if (t % 32 == 0) y[1 + 2 * blockIdx.x + t / 32] = t;  // wrong
            «__threadfence → __threadfence_block»();
            __syncthreads();
            if (t == 0) last = atomicAdd(y, 1) == 2;
            __syncthreads();
            if (last) y[100 + t] = y[1 + t % 6];  // wrong
        """,
        python="""
            last = cuda.shared.array(1, "int32")
            if t % 32 == 0:
                y[1 + 2 * cuda.blockIdx.x + t // 32] = t  # wrong
            cuda.«threadfence → threadfence_block»()
            cuda.syncthreads()
            if t == 0:
                last[0] = cuda.atomic.add(y, 0, 1) == 2
            cuda.syncthreads()
            if last[0]:
                y[100 + t] = y[1 + t % 6]  # wrong
        """,
        blocks=3,
        says=RACE,
        opencl=OPENCL_RACE,
        manual="✗",
        section=RACECHECK,
    ),
    "a result that depends on the order of atomics": Planted(
        cuda="""
            int place = atomicAdd(y, 1);  // wrong
            y[1 + «t → place»] = t;
        """,
        python="""
            place = cuda.atomic.add(y, 0, 1)  # wrong
            y[1 + «t → place»] = t
        """,
        says="order",
        opencl="order",
        manual="?",
        section=RACECHECK,
    ),
    # barriers and warps
    "`__syncthreads()` in a branch that half a warp takes": Planted(
        cuda="""
            «__syncthreads(); → if (t % 2) __syncthreads();»  // wrong
            y[t] = x[t];
            __syncthreads();  // wrong
        """,
        python="""
            «cuda.syncthreads() → if t % 2: cuda.syncthreads()»  # wrong
            y[t] = x[t]
            cuda.syncthreads()  # wrong
        """,
        says="DivergenceError: ",
        opencl="divergence",
        manual="synccheck",
        section=SYNCCHECK,
    ),
    "a named barrier with a wrong count": Planted(
        cuda="""
            asm volatile("bar.sync 1, «64 → 96»;" ::: "memory");  // wrong
            y[t] = x[t];
        """,
        says="DeadlockError: ",
        manual="?",
        section=SYNCCHECK,
    ),
    "reads past a named barrier of other warps": Planted(
        cuda="""
            __shared__ VOLATILE int s[128];
            s[t] = t;
            asm volatile("bar.sync %0, 64;" ::"r"(t / 64 + 1) : "memory");
            y[t] = s[t ^ «32 → 64»];  // wrong
        """,
        threads=128,
        says=RACE,
        manual="?",
        section=RACECHECK,
    ),
    "`__syncwarp(mask)` by a lane that the mask leaves out": Planted(
        cuda="""
            __syncwarp(«0xffffffff → 0x0000ffff»);  // wrong
            y[t] = x[t];
        """,
        threads=32,
        says="DivergenceError: ",
        manual="synccheck",
        section=SYNCCHECK,
    ),
    "`__syncwarp(mask)` that a lane of the mask never reaches": Planted(
        cuda="""
            if (t < 16) __syncwarp(«0x0000ffff → 0xffffffff»);  // wrong
            __syncthreads();
            y[t] = x[t];
        """,
        threads=32,
        says="DivergenceError: ",
        manual="✗",
        section=SYNCCHECK,
    ),
    "a shuffle from a lane that is not there": Planted(
        cuda="""
            int v = x[t];
            if (t < 16) v = __shfl_sync(«0x0000ffff → 0xffffffff», v, «3 → 20»);  // wrong
            y[t] = v;
        """,
        threads=32,
        says="DivergenceError: ",
        manual="?",
        section=SYNCCHECK,
    ),
    "a loop that waits for ever": Planted(
        cuda="""
            VOLATILE GLOBAL int* flag = y;
            «flag[0] = 1; →»
            while (flag[0] == 0) {  // wrong
            }
            y[1] = 2;
        """,
        python="""
            «y[0] = 1 →»
            while cuda.atomic.add(y, 0, 0) == 0:  # wrong
                pass
            y[1] = 2
        """,
        threads=1,
        endless=True,
        says="HangError: ",
        opencl="endless",
        manual="✗",
        section=DEADLOCK,
    ),
    # memory that nothing wrote
    "shared memory that nothing wrote": Planted(
        cuda="""
            __shared__ int s[64];
            if (t < «64 → 63») s[t] = x[t];
            __syncthreads();
            y[t] = s[63 - t] + 1;  // wrong
        """,
        python="""
            s = cuda.shared.array(64, "int32")
            if t < «64 → 63»:
                s[t] = x[t]
            cuda.syncthreads()
            y[t] = s[63 - t] + 1  # wrong
        """,
        says=UNWRITTEN,
        opencl=OPENCL_UNWRITTEN,
        manual="initcheck",
        section=INITCHECK,
    ),
    "local memory that nothing wrote": Planted(
        cuda="""
            int a[16];
            for (int i = 0; i < «16 → t % 16»; i++) a[i] = i;
            y[t] = a[(7 * t) & 15] + 1;  // wrong
        """,
        # not in Python: Numba's local arrays begin as zeros
        says=UNWRITTEN,
        opencl=OPENCL_UNWRITTEN,
        manual="✗",
        section=INITCHECK,
    ),
    "an asynchronous copy is read before it is waited for": Planted(
        cuda="""
            __shared__ __align__(16) int s[64];
            unsigned target = __cvta_generic_to_shared(s + 4 * t);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(target), "l"(x + 4 * t) : "memory");
            «asm volatile("cp.async.wait_all;" ::: "memory"); →»
            y[t] = s[4 * t];  // wrong
        """,
        threads=16,
        says="missing wait: ",
        manual="racecheck",
        section="Racecheck support for asynchronous copy",
    ),
    "shared memory that is never used": Planted(
        cuda="""
            __shared__ int s[«64 → 6400»];  // wrong
            s[t] = x[t];
            __syncthreads();
            y[t] = s[63 - t];
        """,
        python="""
            s = cuda.shared.array(«64 → 6400», "int32")  # wrong
            s[t] = x[t]
            cuda.syncthreads()
            y[t] = s[63 - t]
        """,
        says="unused",
        opencl="unused",
        manual="initcheck",
        section="Unused memory detection",
    ),
}
