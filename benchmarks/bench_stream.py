"""Streaming: training from a mapped file of 4 GB below 600 MiB, and an epoch at most 10 % longer than from memory.

python -m pytest benchmarks/bench_stream.py --benchmark-enable

Memory is the peak of RssAnon (Linux) of a whole process: that of one epoch, with 5 % of the file held out for testing.
Time is that of the shortest of some epochs of [28, 256, 256, 1] in batches of 1,024 on the CPU, streamed and from
memory by turns, from a file that is in the system's cache.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import anonymous_memory
import numpy as np
import pytest

from gpubp.data import npz
from gpubp.data.loading import load
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import Run

LARGE = (4_000_000, 256)
"""Examples and features of the large file, float32."""
SMALL = (200_000, 28)
"""Of the one that fits into memory as well."""
MOST_MEMORY, MOST_TIME = 600 * 2**20, 1.1
ROUNDS = 9

TRAINING = """
import sys
from anonymous_memory import Watched
from gpubp.data.loading import load
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.loop import fit

with Watched() as memory:
    data = load(sys.argv[1], test_fraction=0.05)
    network = Network([data.features, 16, 1], loss="mean_squared_error", backend="cpu")
    fit(network, data, TrainingConfig(epochs=1, batch_size=1024), stream=True)
print(memory.peak)
"""


def write(folder: Path, shape: tuple[int, int]) -> Path:
    """Write random inputs, some rows at a time, and a target."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, shape)
    for first in range(0, shape[0], 10_000):
        x[first : first + 10_000] = rng.standard_normal((min(10_000, shape[0] - first), shape[1]), np.float32)
    np.save(folder / "y.npy", rng.random((shape[0], 1), np.float32))
    return folder


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="RssAnon is Linux's")
def test_the_memory_of_a_training_from_a_large_file(benchmark, tmp_path):
    size = 4 * LARGE[0] * LARGE[1]
    if shutil.disk_usage(tmp_path).free < 1.5 * size:
        pytest.skip(f"{tmp_path} has no room for a file of {size / 1e9:.1f} GB")
    folder = write(tmp_path, LARGE)
    try:
        peak = benchmark.pedantic(anonymous_memory.told_by, (TRAINING, folder), rounds=1)
    finally:
        (tmp_path / "x.npy").unlink()
    benchmark.extra_info["MiB"] = round(peak / 2**20)
    assert peak < MOST_MEMORY


def test_the_time_of_an_epoch(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    data = load(write(tmp_path, SMALL), test_fraction=0)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    runs = {
        stream: Run(
            Network([28, 256, 256, 1], loss="mean_squared_error", backend="cpu"),
            data,
            TrainingConfig(epochs=ROUNDS + 1, batch_size=1024),
            stream=stream,
        )
        for stream in seconds
    }

    def epochs():
        for stream, run in runs.items():
            start = time.perf_counter()
            run.train_epoch()
            seconds[stream].append(time.perf_counter() - start)

    benchmark.pedantic(epochs, rounds=ROUNDS, warmup_rounds=1)
    streamed, in_memory = (min(seconds[stream][1:]) for stream in (True, False))
    benchmark.extra_info["streamed, in memory, s"] = [round(streamed, 2), round(in_memory, 2)]
    benchmark.extra_info["ratio"] = round(streamed / in_memory, 3)
    assert runs[True].history == runs[False].history
    assert streamed <= MOST_TIME * in_memory
