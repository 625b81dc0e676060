"""Training on the CPU: one step of each case of `networks.py`, and an epoch of Fashion-MNIST's shape.

python -m pytest benchmarks/bench_training.py --benchmark-enable
"""

from __future__ import annotations

import numpy as np
import pytest
from networks import CASES

from gpubp.network import Network
from gpubp.optimizers import SGD


@pytest.mark.parametrize("name", CASES)
def test_step(benchmark, name):
    case = CASES[name]
    benchmark.extra_info["flops"] = case.flops
    net = Network(case.sizes, loss=case.loss, backend="numpy")
    net.optimizer = SGD(learning_rate=case.learning_rate)
    x, y = case.batch()
    net.train_step(x, y)
    before = net.last_loss()
    benchmark(net.train_step, x, y)
    net.train_step(x, y)
    assert net.last_loss() < before


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_epoch_of_fashion_mnists_shape(benchmark, optimizer):
    rows, batch = 60_000, 128
    net = Network([784, 256, 128, 10], backend="numpy")
    net.optimizer = optimizer
    rng = np.random.default_rng(0)
    feed = net.feed(rng.random((rows, 784), dtype=np.float32), rng.integers(0, 10, rows))

    def epoch():
        feed.visit(rng.permutation(rows))
        for start in range(0, rows, batch):
            net.train_rows(feed, start, min(batch, rows - start))

    benchmark.pedantic(epoch, rounds=3, warmup_rounds=1)
    assert np.isfinite(net.take_total_loss())
