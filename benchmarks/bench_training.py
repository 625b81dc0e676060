"""Training: one step of each network of `gpubp.bench.works`, and an epoch of Fashion-MNIST's shape, on every backend.

python -m pytest benchmarks/bench_training.py --benchmark-enable

On a GPU the time is the host's from the first launch until the device is done: what a training run takes.
"""

from __future__ import annotations

import numpy as np
import pytest

from gpubp import backends
from gpubp.backends import detection
from gpubp.bench.works import STEPS
from gpubp.nn.network import Network
from gpubp.nn.optimizers import SGD
from gpubp.nn.trainer import Trainer

PLACES = {"numpy": "cpu", "cpu": "cpu", "cupy": "gpu", "numba": "gpu"}


@pytest.fixture(params=PLACES)
def backend(request):
    """Each backend on the device that it is for; skipped, with the reason, where it cannot run."""
    found = detection.probe(request.param, PLACES[request.param])
    if not found.works:
        pytest.skip(f"{request.param} on {PLACES[request.param]}: {found}")
    return backends.get(request.param, PLACES[request.param])


@pytest.mark.parametrize("name", STEPS)
def test_step(benchmark, backend, name):
    case = STEPS[name]
    benchmark.extra_info["flops"] = case.flops
    net = Network(case.sizes, loss=case.loss, backend=backend)
    trainer = Trainer(net, SGD(learning_rate=case.learning_rate))
    x, y = case.batch()
    feed = trainer.feed(x, y)

    def step():
        trainer.step_rows(feed, 0, case.rows)
        backend.synchronize()

    step()
    before = trainer.last_loss()
    benchmark(step)
    step()
    assert trainer.last_loss() < before


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_epoch_of_fashion_mnists_shape(benchmark, backend, optimizer):
    rows, batch = 60_000, 128
    net = Network([784, 256, 128, 10], backend=backend)
    trainer = Trainer(net, optimizer)
    rng = np.random.default_rng(0)
    feed = trainer.feed(rng.random((rows, 784), dtype=np.float32), rng.integers(0, 10, rows))

    def epoch():
        feed.visit(rng.permutation(rows))
        for start in range(0, rows, batch):
            trainer.step_rows(feed, start, min(batch, rows - start))
        backend.synchronize()

    benchmark.pedantic(epoch, rounds=3, warmup_rounds=1)
    assert np.isfinite(trainer.take_total_loss())
