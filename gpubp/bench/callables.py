"""Timing a function of one's own as `gpubp bench` times a primitive, in this process: `measure(function)`."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.bench import runners
from gpubp.bench.tables import duration
from gpubp.bench.timing import Call, Runner, quartiles, seconds_of_a_call, settle
from gpubp.errors import BackendError, StateError, unknown_name
from gpubp.registry import require_count, require_number

DEVICES = ("cpu", "gpu")


@dataclass(frozen=True)
class Measurement:
    """What a function takes.

    Attributes:
        seconds: of a call, one sample for each turn.
        device: whose clock: "cpu", the host's, or "gpu", by events.
        cold: True if caches were emptied before each call.
    """

    seconds: tuple[float, ...]
    device: str
    cold: bool

    @property
    def median(self) -> float:
        """Return the median time of a call in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Return the first and third quartile in seconds; of a single sample, the sample twice."""
        return quartiles(self.seconds)

    def __str__(self) -> str:
        first, third = self.quartiles
        turns = "1 turn" if len(self.seconds) == 1 else f"{len(self.seconds)} turns"
        where = f"on the {self.device.upper()}, {'with empty caches' if self.cold else 'again and again'}"
        return f"{duration(self.median)} ({duration(first)} to {duration(third)} in {turns}, {where})"


def measure(
    function: Call, *, device: str = "cpu", repeats: int = 5, seconds: float = 0.1, cold: bool = True
) -> Measurement:
    """Measure a function of no arguments: `print(measure(lambda: np.matmul(a, b, out=c)))`.

    It is called a few times first, which compiles and allocates. Then it takes `repeats` turns, each the median of as
    many calls as fit into `seconds` seconds.

    Args:
        function: what is measured. It works on the same arrays in every call.
        device: "cpu": on the host's clock, which waits for a GPU that the function has given work to; "gpu": by events
            on CuPy's current stream, which is Numba's too unless another one is chosen.
        repeats: number of turns.
        seconds: of a turn, about.
        cold: True: caches are emptied before each call, as between the steps of a large training. False: calls follow
            each other, and a turn is their mean.

    Raises:
        ArgumentError: an argument is wrong, or the function launches kernels on the emulated device, which has no
            clock.
        BackendError: there is no GPU, or no CuPy to measure it with.
    """
    (found,) = measure_in_turns(
        {"function": function}, device=device, repeats=repeats, seconds=seconds, cold=cold
    ).values()
    return found


def measure_in_turns(
    functions: Mapping[str, Call], *, device: str = "cpu", repeats: int = 5, seconds: float = 0.1, cold: bool = True
) -> dict[str, Measurement]:
    """Measure several functions as `measure` does one. They take turns, so that what slows the machine slows them all.

    Returns:
        A Measurement for each, by name.
    """
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    require_count("repeats", repeats)
    require_number("seconds", seconds, above=0)
    for name, function in functions.items():
        _warm_up(name, function)
    elapsed, flush = _on_gpu() if device == "gpu" else (_on_host(_waiting()), _flush_of_host)
    calls = {
        name: Runner([function], elapsed=elapsed, flush=flush if cold else None) for name, function in functions.items()
    }
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, runner in calls.items():
            settle()
            samples[name].append(seconds_of_a_call(runner, seconds))
    return {name: Measurement(tuple(each), device, cold) for name, each in samples.items()}


def _warm_up(name: str, function: Call) -> None:
    """Call a function a few times.

    Raises:
        StateError: it launches kernels on the emulated device.
    """
    for _ in range(runners.WARM_UP):
        emulator: Any = sys.modules.get("gpubp.emulator")  # the first call may be what imports it
        with nullcontext() if emulator is None else emulator.observe() as report:
            function()
        if report is not None and report.launches:
            state = "launches kernels on the emulated device, which has no clock"
            raise StateError(name, state, "run on a CPU or on a GPU")


# -- the host ---------------------------------------------------------------------------------------------------------


def _on_host(wait: Call) -> Callable[[Call], float]:
    """Return a function that measures a call on the host's clock."""

    def elapsed(call: Call) -> float:
        start = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - start

    return elapsed


def _waiting() -> Call:
    """Return what waits for a GPU that this process uses, so that a function that only gives it work is no faster."""
    cupy: Any = sys.modules.get("cupy")
    if cupy is not None and _has_gpu(cupy.cuda.runtime.getDeviceCount):
        return cupy.cuda.Device().synchronize
    cuda: Any = sys.modules.get("numba.cuda")
    if cuda is not None and _has_gpu(cuda.is_available):
        return cuda.synchronize
    return lambda: None


def _has_gpu(count: Callable[[], Any]) -> bool:
    try:
        return bool(count())
    except Exception:  # no driver: each library has its own error for it
        return False


def _flush_of_host() -> None:
    """Put other data into the processor's caches."""
    if not _FLUSHED:
        _FLUSHED.extend(np.zeros(runners.last_cache() // 8 + 1) for _ in range(2))
    np.copyto(_FLUSHED[0], _FLUSHED[1])


_FLUSHED: list[np.ndarray] = []
"""Two arrays, each as large as the last cache."""


# -- a GPU ------------------------------------------------------------------------------------------------------------


def _on_gpu() -> tuple[Callable[[Call], float], Call]:
    """Return what measures a call by events, and what empties the device's caches."""
    from gpubp.bench.peers import cuda_peer

    try:
        cupy = cuda_peer.array_module()
    except ImportError:
        raise BackendError("device gpu is measured by CuPy, which is not installed: pip install cupy-cuda13x") from None
    if not _has_gpu(cupy.cuda.runtime.getDeviceCount):
        raise BackendError("device gpu cannot be measured: CuPy finds no GPU here")
    return cuda_peer.elapsed, cuda_peer.flush()
