"""The host's share of a training step: the time until every kernel is launched, on a device that does nothing.

python -m pytest benchmarks/bench_launches.py --benchmark-enable

Nothing is captured, so every launch counts. On "emulator" the launch call itself returns at once: what remains is this
program's share, with the upload of what the step is told (`control`), whose views and copies of emulated arrays take
longer than those of CuPy and Numba. On "virtual" the calls go through the real CuPy and numba-cuda into the virtual
driver, which runs no kernel here: what is added is theirs, and that of a driver in Python, which a GPU's is not.

`recorded` is a step as a training makes it: recorded at its first time (`Backend.record`). `anew` is one whose
arguments are checked and whose launches are decided each time, as at the first.
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


def launch_nothing(monkeypatch, device):
    if device == "virtual":
        from gpubp.emulator.driver import modules

        monkeypatch.setattr(modules, "run", lambda *arguments, **options: None)
    else:
        for kind in (RawKernel, Launcher):
            monkeypatch.setattr(kind, "__call__", lambda *arguments, **options: None)


@pytest.mark.parametrize("how", ["recorded", "anew"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("device", ["emulator", "virtual"])
@pytest.mark.parametrize("backend", ["cupy", "numba"])
def test_step(benchmark, monkeypatch, backend, device, optimizer, how):
    trainer = Trainer(Network(SIZES, backend=backend, device=device), optimizer)
    rng = np.random.default_rng(0)
    feed = trainer.feed(rng.random((ROWS, SIZES[0]), np.float32), rng.integers(0, SIZES[-1], ROWS))
    trainer.step_rows(feed, 0, ROWS)  # compiles
    launch_nothing(monkeypatch, device)
    if how == "recorded":
        benchmark(lambda: trainer.step_rows(feed, 0, ROWS))
    else:
        benchmark(lambda: (feed._recorded.clear(), trainer.step_rows(feed, 0, ROWS)))
    assert trainer.steps > 1
