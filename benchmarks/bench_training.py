"""Training: one step of each network of `gpubp.bench.works`, and an epoch of Fashion-MNIST's shape, on every backend.

python -m pytest benchmarks/bench_training.py --benchmark-enable

On a GPU the time is the host's from the first launch until the device is done: what a training run takes.
"""

from __future__ import annotations

import itertools
import statistics
import time

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


def test_prediction_beside_the_blas(benchmark):
    """1,000,000 x 30 rows through [30, 256, 256, 2], and the share of the rate of a 2048³ product, both by turns."""
    sizes, rows, side = (30, 256, 256, 2), 1_000_000, 2048
    cpu = backends.get("cpu")
    net = Network(sizes, backend=cpu)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, sizes[0]), np.float32)
    a, b, c = rng.standard_normal((3, side, side), np.float32)
    flops = 2 * rows * sum(n * m for n, m in itertools.pairwise(sizes))
    shares = []

    def both():
        start = time.perf_counter()
        cpu.product("NT", a, b, c)
        between = time.perf_counter()
        net.predict(x)
        rate = flops / (time.perf_counter() - between)
        shares.append(rate / (2 * side**3 / (between - start)))

    benchmark.pedantic(both, rounds=7, warmup_rounds=1)
    benchmark.extra_info["share of the BLAS's rate"] = round(statistics.median(shares[1:]), 3)
