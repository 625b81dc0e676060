"""The host's share of a training step: the time until every kernel is launched, on a device that does nothing.

python -m pytest benchmarks/bench_launches.py --benchmark-enable

Each backend with kernels runs on the emulated device, whose launches return at once here: what remains are the checks
of arguments, the plans and the calls themselves. Nothing is captured, so every launch counts. The views and copies of
the emulated arrays count too, and take longer than those of CuPy and Numba.
"""

from __future__ import annotations

import numpy as np
import pytest

from gpubp.emulator.cupy.modules import RawKernel
from gpubp.emulator.numba.frontend import Launcher
from gpubp.nn.network import Network
from gpubp.nn.trainer import Trainer

SIZES = (64, 128, 64, 10)
ROWS = 64


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("backend", ["cupy", "numba"])
def test_step(benchmark, monkeypatch, backend, optimizer):
    trainer = Trainer(Network(SIZES, backend=backend, device="emulator"), optimizer)
    rng = np.random.default_rng(0)
    feed = trainer.feed(rng.random((ROWS, SIZES[0]), np.float32), rng.integers(0, SIZES[-1], ROWS))
    trainer.step_rows(feed, 0, ROWS)  # compiles
    for kind in (RawKernel, Launcher):
        monkeypatch.setattr(kind, "__call__", lambda *arguments, **options: None)
    benchmark(lambda: trainer.step_rows(feed, 0, ROWS))
    assert trainer.steps > 1
