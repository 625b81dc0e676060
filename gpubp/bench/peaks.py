"""What a machine can do at most, measured: the vendor's product of two square matrices, and a copy."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gpubp.backends import blas
from gpubp.bench.timing import Call, Runner
from gpubp.bench.works import Limit, Work

SIDES = {"cpu": {"product": 2048, "copy": 4096}, "gpu": {"product": 4096, "copy": 8192}}
"""Sizes of what is measured on each device: large enough that only the limit counts."""


def on_cpu(work: Work, threads: int = 1) -> Runner:
    """Return a runner of the fastest BLAS that is installed, or of NumPy's copy, in this many threads."""
    assert isinstance(work, Limit)
    return _warm(_cpu_product(work) if work.name == "product" else _cpu_copy(work, threads))


def on_gpu(work: Work, threads: int = 1) -> Runner:
    """Return a runner of cuBLAS through CuPy, or of a copy from device memory to device memory."""
    from gpubp.bench.peers import cuda_peer

    assert isinstance(work, Limit)
    cupy = cuda_peer.array_module()
    a, b, c = (cupy.asarray(_normal(work)) for _ in range(3))
    call: Call = (lambda: cupy.matmul(a, b, out=c)) if work.name == "product" else (lambda: cupy.copyto(c, a))
    return _warm(Runner([call], elapsed=cuda_peer.elapsed))


def _cpu_product(work: Limit) -> Runner:
    fastest = blas.chosen().blas
    a, c = _normal(work), np.zeros((work.side, work.side), work.dtype)
    return Runner([lambda: blas.multiply(fastest, False, False, 1.0, a, a, 0.0, c)])


def _cpu_copy(work: Limit, threads: int) -> Runner:
    pool = ThreadPoolExecutor(threads)
    source, out = _normal(work), np.zeros((work.side, work.side), work.dtype)
    parts = [slice(work.side * part // threads, work.side * (part + 1) // threads) for part in range(threads)]

    def copy(part: slice) -> None:
        np.copyto(out[part], source[part])  # without Python's lock, so that parts are copied at once

    return Runner([lambda: list(pool.map(copy, parts))])


def _normal(work: Limit) -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((work.side, work.side), dtype=np.float32)
    return drawn.astype(work.dtype, copy=False)


def _warm(runner: Runner) -> Runner:
    runner.calls[0]()
    return runner
