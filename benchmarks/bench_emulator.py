"""How fast the emulated device runs kernels on this CPU. It says nothing of how fast a GPU runs them.

Run by `make bench ARGS=benchmarks/bench_emulator.py`. Compilation is done before a measurement starts. The bars are
those of two cores: SGEMM of 512^3 within 0.5 s and of 1024^3 within 4 s, a tiled product of 64^3 at least 500 times
faster than by Numba's simulator, uninitialised reads alone at most 8 times and all observers together at most 15 times
slower than none, and an epoch of the digits in gpubp's own kernels within 30 s.
"""

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


def test_uninitialised_reads_alone(benchmark, sgemm):
    run = sgemm(256)
    plain = seconds_of(run)

    def observed():
        with cp.observe(uninitialised=True) as report:
            run()
        assert not report.findings

    benchmark.pedantic(observed, rounds=3, iterations=1)
    ratio = benchmark.stats["min"] / plain
    benchmark.extra_info |= {"plain_s": plain, "observed_s": benchmark.stats["min"], "ratio": ratio}
    assert ratio <= 8


def test_all_observers_together(benchmark, sgemm):
    run = sgemm(256)
    plain = seconds_of(run)

    def observed():
        with cp.observe(races=True, uninitialised=True, traffic=True) as report:
            run()
        assert not report.races
        assert not report.uninitialised

    benchmark.pedantic(observed, rounds=3, iterations=1)
    ratio = benchmark.stats["min"] / plain
    benchmark.extra_info |= {"plain_s": plain, "observed_s": benchmark.stats["min"], "ratio": ratio}
    assert ratio <= 15


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
