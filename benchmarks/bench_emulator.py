"""How fast the emulated device runs kernels on this CPU. It says nothing of how fast a GPU runs them.

Run by `make bench ARGS=benchmarks/bench_emulator.py`. Compilation is done before a measurement starts. The bars are
those of two cores: SGEMM of 512^3 within 0.5 s and of 1024^3 within 4 s, a bfloat16 product of 1024^3 by `wgmma` within
4 s, a tiled product of 64^3 at least 500 times
faster than by Numba's simulator, elementwise kernels and reductions at least 1.5 times faster with fused blocks than
instruction by instruction, a tiny launch within 0.05 ms, and an epoch of the digits in gpubp's own kernels within 30 s.
Observers are held against a run instruction by instruction, as they watch it: races at most 6 times, uninitialised
reads at most 8 times, all together at most 15 times.
"""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="the emulator's compilers are missing: pip install 'gpubp[emulator]'")

import gpubp.emulator as cp
from gpubp import Network, Trainer
from gpubp.data import Scaler, load
from gpubp.emulator import launch
from gpubp.emulator.device import fused
from gpubp.emulator.tensor_maps import DataType, encode_tiled
from gpubp.toolchain.nvrtc import compile_file

KERNELS = Path(__file__).resolve().parents[1] / "tests" / "emulator" / "kernels"
SIMULATED_SIDE = 64


def seconds_of(work, rounds=3):
    """The shortest of a few runs, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


@contextlib.contextmanager
def instruction_by_instruction():
    """No block is fused, however often it runs, and a wave has the 4,096 lanes at which such blocks run best."""
    usual = fused.HOT, launch.LANES
    fused.HOT, launch.LANES = 1 << 60, 4096
    launch._WAVES.clear()  # they have bound their blocks already
    try:
        yield
    finally:
        fused.HOT, launch.LANES = usual
        launch._WAVES.clear()


@pytest.fixture(scope="module")
def sgemm():
    """side -> a function that multiplies two matrices of that side on the emulator."""
    kernel = cp.RawModule(path=str(compile_file(KERNELS / "sgemm.cu").cubin_path)).get_function("sgemm")
    rng = np.random.default_rng(0)

    def prepare(side):
        a, b = (cp.asarray(rng.standard_normal((side, side)).astype(np.float32)) for _ in range(2))
        c = cp.empty((side, side), np.float32)
        grid = (-(-side // 128), -(-side // 128))

        def run():
            kernel(grid, (256,), (side, side, side, a, b, c))

        run()
        assert np.abs(c.get() - a.get().astype(np.float64) @ b.get()).max() < 1e-5 * side
        return run

    return prepare


@pytest.mark.parametrize(("side", "bar"), [(512, 0.5), (1024, 4.0)])
def test_sgemm(benchmark, sgemm, side, bar):
    run = sgemm(side)
    benchmark.extra_info["bar_seconds"] = bar
    benchmark.pedantic(run, rounds=3, iterations=1)
    benchmark.extra_info["lane_fmas_per_second"] = side**3 / benchmark.stats["min"]
    assert benchmark.stats["min"] <= bar


def test_wgmma(benchmark):
    """A product in bfloat16 by TMA and wgmma."""
    side, bar = 1024, 4.0
    compiled = compile_file(KERNELS / "wgmma_product.cu", "sm_90a")
    kernel = cp.RawModule(path=str(compiled.cubin_path)).get_function("wgmma_product")
    shared = 4 * (128 + 256) * 128
    kernel.max_dynamic_shared_size_bytes = shared
    values = [(np.random.default_rng(seed).integers(-3, 4, (side, side))).astype(np.float32) for seed in (0, 1)]
    a, b = (cp.asarray((each.view(np.uint32) >> 16).astype(np.uint16)) for each in values)
    maps = [
        encode_tiled(DataType.BFLOAT16, 2, each.data.ptr, [side, side], [2 * side], [64, rows], [1, 1], swizzle=3)
        for each, rows in ((a, 128), (b, 256))
    ]
    c = cp.empty((side, side), np.float32)
    arguments = (*(each.view("V128")[0] for each in maps), c, np.int32(side), np.int32(side))

    def run():
        kernel((side // 256, side // 128), (384,), arguments, shared_mem=shared)

    run()
    np.testing.assert_array_equal(c.get(), values[0] @ values[1].T)
    benchmark.extra_info["bar_seconds"] = bar
    benchmark.pedantic(run, rounds=3, iterations=1)
    assert benchmark.stats["min"] <= bar


TILED = """
import sys
import time

import numpy as np

if sys.argv[1] == "simulator":
    from numba import cuda
else:
    from gpubp.emulator import cuda

TILE = 16


@cuda.jit
def tiled(a, b, c):
    tile_a = cuda.shared.array((TILE, TILE), np.float32)
    tile_b = cuda.shared.array((TILE, TILE), np.float32)
    col, row = cuda.grid(2)
    x, y = cuda.threadIdx.x, cuda.threadIdx.y
    total = np.float32(0)
    for k0 in range(0, a.shape[1], TILE):
        tile_a[y, x] = a[row, k0 + x]
        tile_b[y, x] = b[k0 + y, col]
        cuda.syncthreads()
        for k in range(TILE):
            total += tile_a[y, k] * tile_b[k, x]
        cuda.syncthreads()
    c[row, col] = total


side = int(sys.argv[2])
rng = np.random.default_rng(0)
a, b = (rng.standard_normal((side, side)).astype(np.float32) for _ in range(2))
c = np.zeros((side, side), np.float32)
rounds = 1
if sys.argv[1] == "emulator":
    tiled[(side // TILE, side // TILE), (TILE, TILE)](a, b, c)
    rounds = 20
times = []
for _ in range(rounds):
    start = time.perf_counter()
    tiled[(side // TILE, side // TILE), (TILE, TILE)](a, b, c)
    times.append(time.perf_counter() - start)
assert np.abs(c - a.astype(np.float64) @ b).max() < 1e-4
print(min(times))
"""


def tiled_seconds(where, tmp_path):
    """Seconds that a tiled product of 64^3 takes, copies included, in a process of its own."""
    (tmp_path / "tiled.py").write_text(TILED)
    finished = subprocess.run(
        [sys.executable, tmp_path / "tiled.py", where, str(SIMULATED_SIDE)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1" if where == "simulator" else "0"},
    )
    return float(finished.stdout)


def test_ratio_to_numbas_simulator(benchmark, tmp_path):
    emulator = tiled_seconds("emulator", tmp_path)
    simulator = benchmark.pedantic(tiled_seconds, ("simulator", tmp_path), rounds=1, iterations=1)
    benchmark.extra_info |= {"emulator_s": emulator, "simulator_s": simulator, "ratio": simulator / emulator}
    assert simulator / emulator >= 500


@pytest.mark.parametrize(
    ("watched", "bar"),
    [
        (("races",), 6),
        (("uninitialised",), 8),
        (("races", "uninitialised", "traffic"), 15),
    ],
    ids=["races", "uninitialised", "all"],
)
def test_observers(benchmark, sgemm, watched, bar):
    run = sgemm(256)
    with instruction_by_instruction():
        run()
        plain = seconds_of(run)

    def observed():
        with cp.observe(**dict.fromkeys(watched, True)) as report:
            run()
        assert not report.findings

    benchmark.pedantic(observed, rounds=3, iterations=1, warmup_rounds=1)
    ratio = benchmark.stats["min"] / plain
    benchmark.extra_info |= {
        "plain_s": plain,
        "ratio": ratio,
        "ratio_to_fused": benchmark.stats["min"] / seconds_of(run),
    }
    assert ratio <= bar


ITEMS = 1 << 19
STREAMING = {
    "relu": ("elementwise", "y[i] = x[i] > 0 ? x[i] : 0;"),
    "sigmoid": ("elementwise", "y[i] = 1 / (1 + expf(-x[i]));"),
    "gelu": (
        "elementwise",
        "float a = x[i]; y[i] = 0.5f * a * (1 + tanhf(0.79788456f * (a + 0.044715f * a * a * a)));",
    ),
    "tree_sum": ("reductions", ""),
    "shuffle_sum": ("reductions", ""),
}


@pytest.mark.parametrize("name", STREAMING)
def test_elementwise_and_reductions(benchmark, name):
    kind, body = STREAMING[name]
    if kind == "reductions":
        kernel = cp.RawModule(path=str(compile_file(KERNELS / "reductions.cu").cubin_path)).get_function(name)
    else:
        kernel = cp.RawKernel(
            f'extern "C" __global__ void {name}(int n, const float* x, float* y) '
            f"{{ int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) {{ {body} }} }}",
            name,
        )
    x = cp.asarray(np.random.default_rng(0).standard_normal(ITEMS).astype(np.float32))
    y = cp.zeros(ITEMS, np.float32)

    def run():
        kernel((ITEMS // 256,), (256,), (np.int32(ITEMS), x, y))

    with instruction_by_instruction():
        run()
        bound = seconds_of(run)
    run()
    benchmark.pedantic(run, rounds=5, iterations=1)
    ratio = bound / benchmark.stats["min"]
    benchmark.extra_info |= {"ns_an_item": benchmark.stats["min"] / ITEMS * 1e9, "ratio": ratio}
    assert ratio >= 1.5


def test_a_tiny_launch(benchmark):
    kernel = cp.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
    kernel((1,), (32,), ())
    benchmark.pedantic(lambda: kernel((1,), (32,), ()), rounds=50, iterations=20)
    assert benchmark.stats["min"] <= 5e-5


@pytest.mark.parametrize("backend", ["cupy", "numba"])
def test_epoch_of_the_digits(benchmark, backend):
    digits = load("digits")
    x, y = Scaler.fit(digits.x_train).apply(digits.x_train), digits.y_train
    net = Network([64, 32, 10], backend=backend, device="emulator")
    trainer = Trainer(net, {"name": "sgd", "learning_rate": 0.1})
    feed = trainer.feed(x, y)
    feed.visit(np.random.default_rng(0).permutation(len(x)))
    batch = 32

    def epoch():
        for start in range(0, len(x), batch):
            trainer.step_rows(feed, start, min(batch, len(x) - start))

    epoch()
    before = trainer.take_total_loss()
    benchmark.pedantic(epoch, rounds=1, iterations=1)
    assert trainer.take_total_loss() < before
    assert benchmark.stats["min"] <= 30
