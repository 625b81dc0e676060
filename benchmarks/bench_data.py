"""Reading and host memory: CSV in at most 1.5 times pyarrow's own time; training in 1.3 times the arrays' float32 size.

python -m pytest benchmarks/bench_data.py --benchmark-enable

Memory is the peak of RssAnon (Linux) above what the imported modules take, of one epoch in a process of its own, on
data that a file holds uncompressed (.npz, or .npy files).
"""

from __future__ import annotations

import os
import time

import anonymous_memory
import numpy as np
import pytest

SHAPE = (1_000_000, 30)
"""Rows and columns of the CSV file, the label's among them."""
EXAMPLES, FEATURES = 1_500_000, 28
"""Of the training whose memory is measured."""
MOST_TIME, MOST_MEMORY = 1.5, 1.3

TRAINING = """
import sys
from anonymous_memory import Watched
from gpubp.data.loading import load
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import fit
import gpubp.data.arrow, gpubp.data.npz

network = Network([int(sys.argv[2]), 16, 1], loss="mean_squared_error", backend="numpy")
with Watched() as memory:
    fit(network, load(sys.argv[1]), TrainingConfig(epochs=1, batch_size=1024))
print(memory.peak - memory.first)
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    csv, arrow = pytest.importorskip("pyarrow.csv"), pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.standard_normal(SHAPE[0], np.float32) for i in range(SHAPE[1])}
    path = tmp_path_factory.mktemp("table") / "t.csv"
    csv.write_csv(arrow.table(columns), path)
    return path


def test_a_csv_file(benchmark, table):
    from pyarrow import csv

    from gpubp.data.loading import load_whole

    load_whole(table)  # imports, and the file into the system's cache
    ratios = []

    def once():
        start = time.perf_counter()
        csv.read_csv(table)
        between = time.perf_counter()
        load_whole(table)
        ratios.append((time.perf_counter() - between) / (between - start))

    benchmark.pedantic(once, rounds=3)
    benchmark.extra_info["times pyarrow's"] = round(float(np.median(ratios)), 2)
    assert np.median(ratios) <= MOST_TIME


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="RssAnon is Linux's")
@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_the_memory_of_a_training(benchmark, tmp_path, kind):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((EXAMPLES, FEATURES), np.float32), rng.random((EXAMPLES, 1), np.float32)
    path = tmp_path / "t.npz"
    if kind == "npz":
        np.savez(path, x=x, y=y)
    else:
        path = tmp_path
        np.save(path / "x.npy", x)
        np.save(path / "y.npy", y)
    peak = benchmark.pedantic(anonymous_memory.told_by, (TRAINING, path, str(FEATURES)), rounds=1)
    benchmark.extra_info["times the arrays"] = round(peak / (x.nbytes + y.nbytes), 2)
    assert peak <= MOST_MEMORY * (x.nbytes + y.nbytes)
