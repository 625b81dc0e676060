"""What `gpubp report` does: run the parts one after the other, show how it goes, and write the page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gpubp import machine, terminal
from gpubp.backends import detection
from gpubp.costs import PRIMITIVES, sides_of
from gpubp.crosscheck.cases import DTYPES, MIXED_DTYPES, OPTIONS, TENSOR_CORE, Selection
from gpubp.crosscheck.summary import CrossCheck
from gpubp.errors import BackendError, ConflictError, unknown_name
from gpubp.files import check_path, write_bytes
from gpubp.report.machine_page import PARTS, MachineReport, summary

if TYPE_CHECKING:
    from rich.console import Console

    from gpubp.bench.results import BenchResult
    from gpubp.profiler.profiles import Profile

BACKENDS = ("cupy", "numba")
"""Those with kernels."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """What goes into a report.

    Attributes:
        backends: whose kernels; empty: of all that run here.
        primitives: only these.
        skip: parts that are left out.
        jobs: worker processes of the check.

    Raises:
        ArgumentError: a name is unknown.
    """

    backends: tuple[str, ...] = ()
    primitives: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    quick: bool = False
    full: bool = False
    jobs: int | None = None

    def __post_init__(self) -> None:
        for argument, names, known in (
            ("backend", self.backends, BACKENDS),
            ("primitive", self.primitives, OPTIONS),
            ("skip", self.skip, PARTS),
        ):
            for name in names:
                if name not in known:
                    raise unknown_name(argument, name, known)
        if self.quick and self.full:
            raise ConflictError("--full", "--quick")

    @property
    def measured(self) -> tuple[str, ...]:
        """Return the primitives that bench and profile take, of those that were named."""
        return tuple(name for name in self.primitives if name in PRIMITIVES)

    def left_out(self) -> dict[str, str]:
        """Return the parts that do not run, and why."""
        found = dict.fromkeys(self.skip, "as the command asks")
        if self.primitives and not self.measured:
            why = f"they do not take {', '.join(self.primitives)}"
            found |= {part: why for part in ("bench", "profile") if part not in found}
        return found

    def selection(self, device: str) -> Selection:
        """Return the cases of the check. On the emulated device, only float32 if not all are asked for."""
        few = self.quick or (device == "emulator" and not self.full)
        return Selection(self.primitives, dtypes=("float32",) if few else (), full=self.full)


def report(console: Console, choice: Choice, out: Path, command: str, *, force: bool = False) -> MachineReport:
    """Run what is chosen and write the page, which is there as a whole or not at all; `force`: also over a file.

    A part that breaks is a fault in the page, and costs the others nothing.

    Raises:
        ArgumentError: the path cannot be written.
        BackendError: a named backend can run nowhere. Both are raised before anything runs.
    """
    check_path("out", out, ".html", ".htm", replace=force)
    places, unchecked = _places(choice)
    emulated, unprofiled = _emulated(choice)
    left_out = choice.left_out()
    checks = [CrossCheck(backend, device) for backend, device in places] if "check" not in left_out else []
    profiles: list[Profile] = []
    bench: BenchResult | None = None
    faults: dict[str, str] = {}
    started = time.perf_counter()
    with terminal.progress(console, "looking at the machine") as progress:
        for check in checks:
            with _noted(faults, f"check of {check.backend} on {check.device}"):
                _check(check, choice, progress)
        if "profile" not in left_out and emulated:
            with _noted(faults, "profile"):
                _profile(profiles, emulated, choice, progress)
        if "bench" not in left_out:
            with _noted(faults, "bench"):
                bench = _bench(choice, progress)
    found = MachineReport(
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command,
        seconds=time.perf_counter() - started,
        machine=machine.look(),
        checks=tuple(checks),
        unchecked=unchecked if "check" not in left_out else {},
        bench=bench,
        profiles=tuple(profiles),
        unprofiled=unprofiled if "profile" not in left_out else {},
        left_out=left_out,
        faults=faults,
    )
    write_bytes(out, found.html().encode())
    _conclude(console, found, out)
    return found


@contextmanager
def _noted(faults: dict[str, str], part: str) -> Iterator[None]:
    """Turn whatever breaks a part into a fault."""
    try:
        yield
    except Exception as error:
        faults[part] = f"{type(error).__name__}: {error}".strip()


def _places(choice: Choice) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return where each backend's kernels are checked, its GPU first of all; and what cannot be, with the reason."""
    places, unchecked = [], {}
    for backend in choice.backends or BACKENDS:
        on_gpu, emulated = (detection.probe(backend, device) for device in ("gpu", "emulator"))
        if not on_gpu.works:
            unchecked[f"{backend} on the GPU"] = str(on_gpu)
        if on_gpu.works or emulated.works:
            places.append((backend, "gpu" if on_gpu.works else "emulator"))
        elif choice.backends:
            raise BackendError(f"backend {backend!r} can run nowhere here; gpu: {on_gpu}; emulator: {emulated}")
        else:
            unchecked[f"{backend} on the emulated device"] = str(emulated)
    return places, unchecked


def _emulated(choice: Choice) -> tuple[list[str], dict[str, str]]:
    """Return the backends whose kernels can be profiled; and whose cannot, with the reason."""
    found = {name: detection.probe(name, "emulator") for name in choice.backends or BACKENDS}
    able = [name for name, each in found.items() if each.works]
    return able, {name: str(each) for name, each in found.items() if not each.works}


# --- the parts --------------------------------------------------------------------------------------------------------
def _check(result: CrossCheck, choice: Choice, progress: Progress) -> None:
    """Run the cases into the result, which keeps those that ran if this breaks."""
    from gpubp import backends
    from gpubp.crosscheck.runner import run_cases

    made = backends.get(result.backend, result.device)
    cases = choice.selection(result.device).cases(made.variants, made.stores_halves)
    for number, outcome in enumerate(run_cases(cases, result.backend, result.device, jobs=choice.jobs), start=1):
        result.add(outcome)
        progress(
            f"check: {result.backend} on {result.device}: {number} of {len(cases)} cases, {len(result.failures)} failed"
        )


def _profile(found: list[Profile], backends: Sequence[str], choice: Choice, progress: Progress) -> None:
    """Profile the primitives with each backend's kernels, as on the machine's GPU if its figures are known."""
    from gpubp import chips
    from gpubp.bench import works
    from gpubp.profiler.profile_command import DEFAULT_SHAPES
    from gpubp.profiler.profiles import profile
    from gpubp.profiler.workloads import Workload

    devices = detection.driver().devices
    gpu = chips.of_device(devices[0]) if devices else None
    for primitive in choice.measured or (PRIMITIVES if choice.full else works.QUICK.primitives):
        for backend in backends:
            progress(f"profile: {primitive} of {backend}")
            found.append(profile(Workload(primitive, DEFAULT_SHAPES[sides_of(primitive)]), backend, gpu))


def _bench(choice: Choice, progress: Progress) -> BenchResult:
    from gpubp.bench import bench_command

    effort = bench_command.FULL if choice.full else bench_command.QUICK if choice.quick else bench_command.DEFAULT
    chosen = bench_command.Choice(primitives=choice.measured, dtypes=_measured_dtypes(choice))
    return bench_command.run(chosen, effort, progress=lambda text: progress(f"bench: {text}"))


def _measured_dtypes(choice: Choice) -> tuple[str, ...]:
    """Return float32, the dtypes of tensor cores if the GPU has them, and float64 for a full report."""
    from gpubp import backends

    found = DTYPES if choice.full else ("float32",)
    if choice.quick or not detection.probe("cupy", "gpu").works:
        return found
    return (*found, *MIXED_DTYPES) if TENSOR_CORE in backends.get("cupy", "gpu").variants else found


def _conclude(console: Console, found: MachineReport, out: Path) -> None:
    for line in (*summary(found), f"{found.verdict}. The page: {out}"):
        console.print(line, soft_wrap=True)
