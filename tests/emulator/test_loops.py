"""Loops compiled for this CPU: kept whole, made once, and right whoever compiled them."""

import inspect
import os
import signal
import subprocess
import sys

import llvmlite.binding
import numpy as np
import pytest

from gpubp.emulator import loops
from gpubp.emulator.device import fused, native
from gpubp.emulator.isa import compiled
from gpubp.emulator.observe import shadow
from gpubp.toolchain import cache

# Runs every loop of the emulator, and fails where a result is wrong. Functions of the modules are called as kernels
# call them; the others by code in CUDA C++ that needs them.
EVERY_LOOP = r"""
import numpy as np
import gpubp.emulator as cp
from gpubp.emulator import cuda
from gpubp.emulator.isa.compiled import compiled, compiled_select
from gpubp.emulator.isa.matrix import matrix_multiply

for name, expected in {"add": 5, "subtract": -1, "multiply": 6, "minimum": 2, "maximum": 3}.items():
    for dtype in (np.float32, np.float64):
        assert compiled(name)(dtype(2), dtype(3)) == expected, name
assert compiled("fma")(np.float32(2), np.float32(3), np.float32(4)) == 10
for dtype in (np.uint16, np.uint32, np.uint64):
    chosen = compiled_select()(np.array([1, 2], dtype), np.array([3, 4], dtype), np.array([True, False]))
    assert chosen.tolist() == [1, 4]

ones = np.full((2, 32, 4), 0x3F803F80, np.uint32)  # bfloat16 1.0, twice
for kind, depth in (("bf16", 16), ("f16", 16)):
    product = matrix_multiply(("sync", "aligned", "m16n8k16", "row", "col", "f32", kind, kind, "f32"))
    one = ones if kind == "bf16" else np.full((2, 32, 4), 0x3C003C00, np.uint32)
    made = product.apply(one, one[:, :, :2], np.zeros((2, 32, 4), np.uint32)).view(np.float32)
    assert (made == depth).all(), made

source = r'''
#include <cuda_fp16.h>
extern "C" __global__ void all(const float4* v, const float2* w, float* out, double* sums, int* counts,
                               unsigned long long* cells, __half* halves, unsigned char* bytes) {
    __shared__ float tile[32];
    __shared__ volatile float nothing[64];
    nothing[32 + threadIdx.x] = nothing[threadIdx.x];  // a copy of what is undefined
    __shared__ __align__(16) float copied[32];
    int i = threadIdx.x;
    unsigned to = (unsigned)__cvta_generic_to_shared(&copied[i]);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" :: "r"(to), "l"(out + 32 + i));
    asm volatile("cp.async.wait_all;");
    float4 four = v[i];
    float2 two = w[i];
    tile[i] = four.x + four.y + four.z + four.w;
    __syncthreads();
    out[i] = tile[31 - i] + two.x + two.y + copied[i];
    atomicAdd(sums, (double)i);
    atomicAdd(counts, 1); atomicMax(counts + 1, i); atomicMin(counts + 2, -i);
    atomicCAS(counts + 3, 0, 7); atomicCAS(cells + 1, 0ULL, 9ULL);
    atomicAdd(cells, 1ULL);
    atomicAdd(out + 64, 1.0f);
    halves[i] = __float2half(out[i]);
    bytes[i] = (unsigned char)i;
    unsigned a, b;
    unsigned at = (unsigned)__cvta_generic_to_shared(copied) + 16 * (i % 8);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];" : "=r"(a), "=r"(b) : "r"(at));
    float* either = counts[3] == 7 ? out : tile;  // a generic address
    if (i == 0) cells[2] = a + (unsigned)either[i];
#if __CUDA_ARCH__ >= 900
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" :: "r"(at), "r"(a), "r"(b));
#endif
}'''
v, w = cp.ones((32, 4), np.float32), cp.ones((32, 2), np.float32)
for options in ({}, {"races": True, "uninitialised": True, "traffic": True}):
    out, sums, counts = cp.ones(65, np.float32), cp.zeros(1, np.float64), cp.zeros(4, np.int32)
    cells, halves, spare = cp.zeros(3, np.uint64), cp.zeros(32, np.float16), cp.zeros(32, np.uint8)
    with cp.observe(**options):
        cp.RawKernel(source, "all")((1,), (32,), (v, w, out, sums, counts, cells, halves, spare))
    assert (out.get()[:32] == 7).all() and out.get()[64] == 33, out.get()
    assert sums.get()[0] == 496 and counts.get().tolist() == [32, 31, -31, 7], (sums.get(), counts.get())
    assert cells.get()[:2].tolist() == [32, 9] and (halves.get() == 7).all(), cells.get()
    assert spare.get().tolist() == list(range(32))
cp.RawKernel('extern "C" __global__ void one(int* counts) { *counts = 5; }', "one")((1,), (1,), (counts,))
assert counts.get()[0] == 5
calls = r'''
__device__ int fibonacci(int n) {
    int all[4] = {n, n, n, n};
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2) + all[n & 3] - n;
}
extern "C" __global__ void fibonaccis(int* counts) { *counts = fibonacci(*counts + 1); }'''
cp.RawKernel(calls, "fibonaccis")((1,), (1,), (counts,))
assert counts.get()[0] == 8
pair = r'''
extern "C" __global__ void __cluster_dims__(2) pair(int* counts) {
    __shared__ int value;
    unsigned there, rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    value = rank + 40;
    asm volatile("barrier.cluster.arrive; barrier.cluster.wait;" ::: "memory");
    unsigned here = __cvta_generic_to_shared(&value);
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank ^ 1));
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(counts[rank]) : "r"(there) : "memory");
    asm volatile("barrier.cluster.arrive; barrier.cluster.wait;" ::: "memory");
}'''
cp.RawKernel(pair, "pair")((2,), (1,), (counts,))
assert counts.get()[:2].tolist() == [41, 40]
print("right")
"""


def run_every_loop(folder):
    """Start a process that runs each loop, with the cache in this folder."""
    environment = os.environ | {"GPUBP_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", EVERY_LOOP]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def check_race(folder, processes):
    """Processes that compile everything at once all get right results, and so does one that comes after them."""
    for started in ([run_every_loop(folder) for _ in range(processes)], [run_every_loop(folder)]):
        for process in started:
            out, err = process.communicate()
            assert (process.returncode, out, err) == (0, "right\n", "")


@pytest.mark.slow
def test_processes_on_an_empty_cache_get_right_code(tmp_path):
    check_race(tmp_path, 3)
    # The program above runs each loop that there is, also those that are added later.
    kept = {path.name.rpartition("-")[0] for path in (tmp_path / "loops").iterdir()}
    made = {
        name
        for module in (compiled, native, shadow)
        for name, value in vars(module).items()
        if hasattr(value, "py_func") and inspect.getmodule(value.py_func) is module
    }
    assert kept >= made | {*compiled._FUNCTIONS, "select"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("again", range(2))
def test_eight_processes_on_an_empty_cache_get_right_code(again, tmp_path):
    check_race(tmp_path, 8)


# --- one loop ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(cache.SPARE, "")
    return tmp_path / "loops"


FUSED = "define i64 @fused(i64 %a, i8* %b, i8* %c) { ret i64 %a }"


@loops.loop
def doubled(x):
    return helped(x) + x


@loops.loop
def helped(x):
    return x


def anew(function=doubled):
    """A dispatcher that has compiled nothing yet."""
    return loops.loop(function.py_func)


def test_an_interrupt_waits_until_what_is_compiled_is_there(folder, monkeypatch):
    """llvmlite, interrupted as it frees something, frees it again, which ends the process."""
    kept, keep = [], loops._KeptCode.save_overload

    def interrupted(self, *arguments):
        signal.raise_signal(signal.SIGINT)
        keep(self, *arguments)
        kept.append(self)

    monkeypatch.setattr(loops._KeptCode, "save_overload", interrupted)
    usual, function = signal.getsignal(signal.SIGINT), anew()
    with pytest.raises(KeyboardInterrupt):
        function(2)
    assert len(kept) == len(list(folder.glob("*.code"))) > 0
    assert signal.getsignal(signal.SIGINT) is usual
    before = len(kept)
    with pytest.raises(KeyboardInterrupt):
        loops.elementwise(lambda a: a + 3, ["float64(float64)", "float32(float32)"])
    assert len(kept) == before + 2


@pytest.mark.parametrize("name", ["get_host_cpu_name", "get_host_cpu_features"])
def test_an_interrupt_waits_while_llvmlite_is_asked_for_the_cpu(folder, monkeypatch, name):
    """Its strings too are freed twice."""
    ask, answers = getattr(llvmlite.binding, name), []

    def interrupted():
        signal.raise_signal(signal.SIGINT)
        answers.append(ask())
        return answers[-1]

    monkeypatch.setattr(llvmlite.binding, name, interrupted)
    for kept in (fused._compiled, fused._features):
        kept.cache_clear()
    with pytest.raises(KeyboardInterrupt):
        fused._compiled(FUSED)
    assert answers


def test_an_interrupt_waits_while_an_entry_is_named(folder, monkeypatch):
    """By the CPU, of which llvmlite is asked."""
    name, named = loops._KeptCode._entry, []

    def interrupted(self, signature):
        signal.raise_signal(signal.SIGINT)
        named.append(name(self, signature))
        return named[-1]

    monkeypatch.setattr(loops._KeptCode, "_entry", interrupted)
    function = anew(helped)
    with pytest.raises(KeyboardInterrupt):
        function(2)
    assert len(named) == 1


def test_code_is_kept_by_types(folder):
    function = anew()
    assert function(2) == 4
    assert function(2.5) == 5.0
    names = sorted(path.name.rpartition("-")[0] for path in folder.iterdir())
    assert names.count("doubled") == 2
    assert anew()(2) == 4
    assert len(list(folder.iterdir())) == len(names)


def test_kept_code_is_not_compiled_again(folder, monkeypatch):
    anew()(2)
    function = anew()
    monkeypatch.setattr(function._compiler, "compile", lambda *_: 1 / 0)
    assert function(3) == 6


@pytest.mark.parametrize("damage", [b"", b"garbage", lambda content: content[:-1], lambda content: content + b"x"])
def test_damaged_code_is_compiled_again(folder, damage):
    anew()(2)
    for file in folder.iterdir():
        file.write_bytes(damage(file.read_bytes()) if callable(damage) else damage)
    assert anew()(3) == 6
    (file,) = folder.glob("doubled-*")
    assert loops._read(file.with_suffix("")) is not None


def test_code_belongs_to_the_text_that_was_loaded(folder, tmp_path):
    """Also if the file changes between loading and the first call."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import mine; {}print(mine.f(1))"
    change = "text = open(mine.__file__).read(); open(mine.__file__, 'w').write(text.replace('+ 1', '+ 100')); "
    (tmp_path / "mine.py").write_text("from gpubp.emulator.loops import loop\n@loop\ndef f(x):\n    return x + 1\n")
    found = []
    for step in (change, "", ""):
        command = [sys.executable, "-B", "-c", program.format(step), str(tmp_path)]
        found.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found == ["2\n", "101\n", "101\n"]
    assert len(list(folder.glob("f-*"))) == 2


def test_modules_of_one_text_have_code_of_their_own(folder, tmp_path):
    """What is kept names its module: once that has moved, the code must not be found under the old name."""
    text = "from gpubp.emulator.loops import loop\n@loop\ndef f(x):\n    return x + 1\n"
    for name in ("before", "after"):
        (tmp_path / f"{name}.py").write_text(text)
        program = f"import sys; sys.path.insert(0, sys.argv[1]); import {name}; print({name}.f(1))"
        command = [sys.executable, "-B", "-c", program, str(tmp_path)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2\n"
        (tmp_path / f"{name}.py").unlink()


def test_without_a_folder_code_is_compiled_all_the_same(folder, monkeypatch):
    folder.parent.joinpath("file").write_text("")
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(folder.parent / "file"))
    with pytest.warns(cache.CacheWarning):
        assert anew()(2) == 4


def test_a_ufunc_takes_arrays(folder):
    ufunc = loops.elementwise(helped.py_func, ["float32(float32)", "float64(float64)"])
    assert isinstance(ufunc, np.ufunc)
    for dtype in (np.float32, np.float64):
        assert ufunc(np.arange(3, dtype=dtype)).dtype == dtype
    assert len(list(folder.iterdir())) == 2
