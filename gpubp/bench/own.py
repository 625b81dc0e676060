"""This project's backends as contenders."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from gpubp import backends
from gpubp.backends.base import Array, Backend
from gpubp.bench import runners
from gpubp.bench.runners import Arrays
from gpubp.bench.timing import Call, Runner
from gpubp.bench.works import Primitive, SharedStep, TrainingStep, Work
from gpubp.distributed.ranks import ALONE, Ranks
from gpubp.dtypes import MIXED
from gpubp.nn.network import Network
from gpubp.nn.optimizers import SGD
from gpubp.nn.trainer import Trainer


def make(
    work: Work,
    threads: int = 1,
    backend: str = "numpy",
    device: str | None = None,
    variant: str | None = None,
    captured: bool = False,
) -> Runner:
    """Return a runner of the named backend.

    Args:
        variant: the rung that products take.
        captured: True: the step is a CUDA graph.
    """
    made = _backend(backend, device).for_precision(work.dtype)
    made.variant = variant
    elapsed = None if made.device == "cpu" else made.elapsed
    if isinstance(work, TrainingStep):
        return runners.of_step(partial(_stepper, work, made, captured), elapsed)
    assert isinstance(work, Primitive)
    return _primitive(work, made, elapsed)


@cache
def _backend(name: str, device: str | None) -> Any:
    """Return the backend that serves all works of a process.

    CuPy keeps freed memory for the stream that it was made on, and each backend has its own stream.
    """
    return backends.get(name, device)


def _primitive(work: Primitive, backend: Backend, elapsed: Callable[[Call], float] | None) -> Runner:
    problem = runners.problem_of(work)

    def place(host: np.ndarray) -> Array:
        placed = backend.empty(host.shape, host.dtype)
        backend.upload(host, placed)
        return placed

    def bind(arrays: Arrays) -> Callable[[], Arrays]:
        outputs = {name: arrays[name] for name in problem.outputs}

        def call() -> Arrays:
            problem.run(backend, arrays)
            return outputs

        return call

    flush = _flush(backend) if backend.device == "gpu" else None
    return runners.of_primitive(problem, place, bind, backend.asnumpy, elapsed=elapsed, flush=flush, bounds=1.0)


def _flush(backend: Backend) -> Call:
    size = runners.FLUSHED_BYTES // 2 // 4
    source, out = backend.zeros((size,), "float32"), backend.zeros((size,), "float32")
    return runners.flush_of(lambda: backend.copy(source, out))


def shared(
    work: SharedStep,
    ranks: Ranks,
    backend: str = "numpy",
    device: str | None = None,
    variant: str | None = None,
    captured: bool = False,
) -> SharedStepper:
    """Return what makes the step together with the other ranks, which all call this. Arguments: as of `make`."""
    made = _backend(backend, device).for_precision(work.dtype)
    made.variant = variant
    elapsed = on_host if made.device == "cpu" else made.elapsed
    trainer = _trainer(work.step, made, ranks)
    x, y = work.step.batch()

    def all_reduce() -> list[float]:
        with _timed_sums(made, elapsed) as found:
            # not by a feed, whose steps are recorded: what is recorded is not asked for again
            trainer.step(x, y)
        return found

    return SharedStepper(_stepper_of(trainer, work.step, captured), elapsed, made.synchronize, all_reduce)


@dataclass(frozen=True)
class SharedStepper:
    """A network that several ranks train; all of them call the same at the same time.

    Attributes:
        stepper: makes the steps.
        elapsed: the seconds that calls take, on the device's clock or on the host's.
        synchronize: waits for the device.
        all_reduce: makes another step; returns the seconds of the all-reduce in it, from this rank's call on until all
            have the sum. Empty for one rank, which has none.
    """

    stepper: runners.Stepper
    elapsed: Callable[[Call], float]
    synchronize: Call
    all_reduce: Callable[[], list[float]]


def on_host(call: Call) -> float:
    """Return the seconds that a call takes, on the host's clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextmanager
def _timed_sums(backend: Any, elapsed: Callable[[Call], float]) -> Iterator[list[float]]:
    """Yield a list that gets the seconds of each all-reduce of the backend."""
    found: list[float] = []
    usual = backend.all_reduce
    backend.all_reduce = lambda x, ranks: found.append(elapsed(lambda: usual(x, ranks)))
    try:
        yield found
    finally:
        del backend.all_reduce


def _trainer(work: TrainingStep, backend: Backend, ranks: Ranks) -> Trainer:
    """Return a trainer of the network with its first weights."""
    precision = work.dtype if work.dtype in MIXED else None
    net = Network(work.sizes, loss=work.loss, backend=backend, dtype=work.master, precision=precision)
    named: dict[str, np.ndarray] = {}
    for layer, (w, b) in enumerate(work.weights(), start=1):
        named |= {f"layer{layer}.weight": w, f"layer{layer}.bias": b}
    net.set_weights(named)
    return Trainer(net, SGD(learning_rate=work.learning_rate), ranks=ranks)


def _stepper(work: TrainingStep, backend: Backend, captured: bool) -> runners.Stepper:
    return _stepper_of(_trainer(work, backend, ALONE), work, captured)


def _stepper_of(trainer: Trainer, work: TrainingStep, captured: bool) -> runners.Stepper:
    x, y = work.batch()
    if trainer.network.backend.device == "cpu":
        return runners.Stepper(lambda: trainer.step(x, y), trainer.last_loss)
    feed = trainer.feed(x, y)
    if captured:
        step = trainer.capture(feed, work.rows)
        return runners.Stepper(lambda: step(0), trainer.last_loss)
    return runners.Stepper(lambda: trainer.step_rows(feed, 0, work.rows), trainer.last_loss)


@cache
def reference_losses(work: TrainingStep, steps: int) -> list[float]:
    """Return the losses of the first steps in float64, which those of every contender must come close to."""
    stepper = _stepper(replace(work, dtype="float64"), backends.get("numpy"), captured=False)
    found = []
    for _ in range(steps):
        stepper.step()
        found.append(stepper.loss())
    return found
