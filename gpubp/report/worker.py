"""A part of a report in a process of its own: `python -m gpubp.report.worker`.

The process reads its task, one line of JSON, from its input. Its output is what goes on, a line each. What it finds is
in the file that the task names, also before its end: {"finished": ..., "complete": ..., "result": ..., "error": ...}.
What libraries print goes to the errors. When its input ends, nobody waits for it any more, and it ends with all its
children.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp.backends import EMULATED
from gpubp.errors import GpubpError
from gpubp.files import write_bytes
from gpubp.report.page import finite
from gpubp.report.parts import BACKENDS, PARTS, Choice, Task

if TYPE_CHECKING:
    from gpubp.backends.base import Backend
    from gpubp.bench.works import Work
    from gpubp.crosscheck.cases import Case
    from gpubp.profiler.profiles import Profile

KEEP_EVERY = 1.0
"""Seconds between two writes of what was found so far."""

MOST_JOBS = 4
"""Worker processes of a check on a GPU: what takes long there is compiling, on the host."""

TOLERANCE = 0.01
"""How far, relative, a loss after two epochs may be from that of backend numpy: rounding errors grow step by step."""

EPOCHS = 2
REHEARSED = 64
"""The side of products that are rehearsed, not measured, on a device that is emulated."""


class Ledger:
    """What a part found so far, in its file; and its clock.

    Attributes:
        complete: False once something was left out for lack of time.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._end = time.monotonic() + seconds
        self._kept = float("-inf")
        self.complete = True

    @property
    def time_is_up(self) -> bool:
        """True if nothing new is to be taken up."""
        return time.monotonic() > self._end

    def keep(self, make: Callable[[], dict[str, Any]]) -> None:
        """Write what was found so far, at most once a second."""
        if time.monotonic() - self._kept > KEEP_EVERY:
            self.write(finished=False, result=make())
            self._kept = time.monotonic()

    def write(self, *, finished: bool, result: dict[str, Any] | None, error: str = "") -> None:
        """Write it."""
        found = {"finished": finished, "complete": self.complete, "result": finite(result), "error": error}
        write_bytes(self._path, json.dumps(found, allow_nan=False).encode())


Progress = Callable[[str], None]


def perform(task: Task, ledger: Ledger, progress: Progress) -> dict[str, Any]:
    """Do what a task asks for, and return the result as `schema.RESULTS` describes it."""
    kind = task.part.split("-")[0]
    return _PERFORMERS[kind](task, ledger, progress)


def _info(task: Task, ledger: Ledger, progress: Progress) -> dict[str, Any]:
    from gpubp import machine

    return machine.look().to_dict()


# --- check ------------------------------------------------------------------------------------------------------------
def _check(task: Task, ledger: Ledger, progress: Progress) -> dict[str, Any]:
    from gpubp import backends
    from gpubp.crosscheck.runner import run_cases
    from gpubp.crosscheck.summary import CrossCheck

    name = PARTS[task.part].backend
    device = task.devices[name]
    cases = cases_of(task.choice, backends.get(name, device))
    found = CrossCheck(name, device)

    def result() -> dict[str, Any]:
        return _check_result(found, len(cases))

    jobs = task.choice.jobs or (min(MOST_JOBS, _cores()) if device == "gpu" else _cores())
    for number, outcome in enumerate(run_cases(cases, name, device, jobs=jobs), start=1):
        found.add(outcome)
        progress(f"{number} of {len(cases)} cases, {len(found.failures)} failed")
        ledger.keep(result)
        if ledger.time_is_up and number < len(cases):
            ledger.complete = False
            break
    return result()


def cases_of(choice: Choice, backend: Backend) -> list[Case]:
    """Return the cases of a check, first of all one of each kernel, so that a check that is cut short misses none.

    A full check has all, and one of named primitives all that cover every pair of options. Else there are two of each
    kernel, or one if it is to be quick; on a device that is emulated in float32 alone.
    """
    from gpubp.crosscheck.cases import Selection

    few = choice.quick or (backend.device in EMULATED and not choice.full)
    selection = Selection(choice.primitives, dtypes=("float32",) if few else (), full=choice.full)
    most = float("inf") if choice.full or (choice.primitives and not choice.quick) else 1 if choice.quick else 2
    counted: Counter[tuple[str, str, str]] = Counter()
    numbered = []
    for case in selection.cases(backend.variants, backend.stores_halves, backend.tensor_doubles):
        kernel = case.primitive, case.variant, case.dtype
        numbered.append((counted[kernel], case))
        counted[kernel] += 1
    return [case for number, case in sorted(numbered, key=lambda pair: pair[0]) if number < most]


def _check_result(found: Any, chosen: int) -> dict[str, Any]:
    values = json.loads(found.to_json())
    rows = ("primitive", "variant", "dtype", "cases", "failed", "share", "worst")
    return {
        "backend": found.backend,
        "device": found.device,
        "cases": found.cases,
        "chosen": chosen,
        "failed": len(found.failures),
        "rows": [{key: row[key] for key in rows} for row in values["rows"]],
        "failures": [
            {
                "case": each.case.name,
                "complaint": each.complaint(),
                "command": found.command(each),
                "share": float(each.share),
            }
            for each in found.failures
        ],
    }


# --- train ------------------------------------------------------------------------------------------------------------
def _train(task: Task, ledger: Ledger, progress: Progress) -> dict[str, Any]:
    """Train on the bundled digits, and beside it on backend numpy, from the same weights and in the same order."""
    from gpubp.training.settings import Settings

    name = PARTS[task.part].backend
    device = task.devices[name]
    small = device in EMULATED
    layers, batch, rate = ("16", 128, 0.02) if small else ("128,64", 32, None)
    settings = Settings(
        data="digits", layers=layers, epochs=EPOCHS, batch_size=batch, lr=rate, backend=name, device=device
    )
    row, speed = _trained(settings, progress)
    expected, _ = _trained(replace(settings, backend="numpy", device="cpu"), lambda line: None)
    return {
        "backend": name,
        "device": device,
        "data": settings.data,
        "layers": layers,
        "epochs": EPOCHS,
        "loss": row.test_loss,
        "reference_loss": expected.test_loss,
        "accuracy": row.test_accuracy,
        "matches": abs(row.test_loss - expected.test_loss) <= TOLERANCE * abs(expected.test_loss),
        "examples_per_second": None if small else speed,
    }


def _trained(settings: Any, progress: Progress) -> tuple[Any, float]:
    """Return the history's last row, and the examples a second of the last epoch, which compiles nothing."""
    from gpubp.training import folder
    from gpubp.training.loop import Listener, Run

    ends: list[float] = []

    class Watching(Listener):
        def started(self, run: Run) -> None:
            ends.append(time.perf_counter())

        def epoch(self, run: Run, row: Any) -> None:
            ends.append(time.perf_counter())
            rows.append(run.rows)
            progress(f"epoch {row.epoch} of {EPOCHS}, test loss {row.test_loss:.4g}")

    rows: list[int] = []
    with tempfile.TemporaryDirectory() as place:
        result, _ = folder.start(settings, Path(place) / "run", Watching())
    return result.history[-1], rows[-1] / (ends[-1] - ends[-2])


# --- bench ------------------------------------------------------------------------------------------------------------
def _bench(task: Task, ledger: Ledger, progress: Progress) -> dict[str, Any]:
    """Measure on the CPU, and on the GPU where kernels run on it. Where they run on a device that is emulated, do once
    what would be measured, and judge the results: its times are nobody's."""
    from gpubp.bench import bench_command

    choice, on_gpu = task.choice, task.device == "gpu"
    effort = bench_command.FULL if choice.full else bench_command.QUICK if choice.quick else bench_command.DEFAULT
    works, names = _measured_works(task), _contenders(task, on_gpu)
    result: dict[str, Any] = {"measured": None, "rehearsed": []}
    if names:
        measured = bench_command.run(
            bench_command.Choice(contenders=tuple(names), dtypes=tuple(dict.fromkeys(work.dtype for work in works))),
            effort,
            chosen_works=works,
            progress=progress,
            keep=lambda found: ledger.keep(lambda: {**result, "measured": json.loads(found.to_json())}),
            time_is_up=lambda: ledger.time_is_up,
        )
        result["measured"] = json.loads(measured.to_json())
        ledger.complete = set(works) <= set(measured.works)
    if not on_gpu:
        result["rehearsed"] = _rehearsed(task, ledger, progress)
    return result


def _measured_works(task: Task) -> list[Work]:
    from gpubp.bench import works
    from gpubp.costs import PRODUCTS
    from gpubp.crosscheck.cases import MIXED_DTYPES, mixed_dtypes
    from gpubp.dtypes import PLAIN

    choice, on_gpu = task.choice, task.device == "gpu"
    if task.part == "bench-rungs":
        return [works.Primitive("hidden_delta", (256 if choice.quick else 1024,) * 3)]
    sweep = works.FULL if choice.full else works.ON_GPU if on_gpu and not choice.quick else works.QUICK
    dtypes = PLAIN if choice.full else ("float32",)
    mixed = MIXED_DTYPES if on_gpu and not choice.quick and _has_tensor_cores() else ()
    if task.part == "bench-steps":
        return works.choose(sweep, steps=(), dtypes=(*dtypes, *mixed))
    names = choice.measured or sweep.primitives
    found = works.choose(sweep, primitives=names, dtypes=dtypes)
    largest = sweep if choice.full else replace(sweep, product_sides=sweep.product_sides[-1:])
    for dtype in mixed:
        able = [name for name in names if name in PRODUCTS and dtype in mixed_dtypes(name)]
        found += works.choose(largest, primitives=able, dtypes=(dtype,)) if able else []
    return found


def _has_tensor_cores() -> bool:
    from gpubp import backends
    from gpubp.backends import detection
    from gpubp.crosscheck.cases import TENSOR_CORE

    return detection.probe("cupy", "gpu").works and TENSOR_CORE in backends.get("cupy", "gpu").variants


def _contenders(task: Task, on_gpu: bool) -> list[str]:
    """Return the keys of who is measured. The rungs are measured beside cuBLAS, and on a GPU alone."""
    from gpubp.backends.plans import THREAD_VARIANTS
    from gpubp.bench.contenders import CONTENDERS

    chosen = task.choice.backends or BACKENDS
    if task.part == "bench-rungs":
        rungs = [f"{backend}-{rung}" for backend in chosen for rung in THREAD_VARIANTS]
        return [*rungs, "cublas"] if on_gpu else []
    return [
        key
        for key, each in CONTENDERS.items()
        if not each.settings.get("variant")
        and (task.choice.full or not each.compiles_long)
        and (each.device == "cpu" or on_gpu)
        and (not each.backend or each.device == "cpu" or each.backend in chosen)
    ]


def _rehearsed(task: Task, ledger: Ledger, progress: Progress) -> list[dict[str, Any]]:
    from gpubp.backends.plans import THREAD_VARIANTS
    from gpubp.bench import rehearsal, works

    if task.part == "bench-steps":
        chosen: Sequence[Work] = [works.STEPS["tiny"]]
    elif task.part == "bench-rungs":
        chosen = [works.Primitive("hidden_delta", (REHEARSED,) * 3)]
    else:
        small = replace(works.QUICK, product_sides=(REHEARSED,), matrix_sides=(REHEARSED,))
        chosen = works.choose(small, primitives=task.choice.measured or small.primitives)
    variants = THREAD_VARIANTS if task.part == "bench-rungs" else (None,)
    found = []
    for backend, device in task.devices.items():
        for contender in rehearsal.contenders(backend, device, variants):
            for each in rehearsal.rehearse(contender, chosen, progress, lambda: ledger.time_is_up):
                found.append(
                    {"work": each.work.title, "contender": each.contender, "device": device, "fault": each.fault}
                )
            ledger.complete = ledger.complete and not ledger.time_is_up
    return found


# --- profile ----------------------------------------------------------------------------------------------------------
def _profile(task: Task, ledger: Ledger, progress: Progress) -> dict[str, Any]:
    """Profile the primitives with each backend's kernels, as on the machine's GPU if its figures are known."""
    from gpubp import chips
    from gpubp.bench import works
    from gpubp.costs import PRIMITIVES, sides_of
    from gpubp.profiler.profile_command import DEFAULT_SHAPES
    from gpubp.profiler.profiles import profile
    from gpubp.profiler.workloads import Workload

    gpu = chips.of_device(task.gpu) if task.gpu else None
    primitives = task.choice.measured or (PRIMITIVES if task.choice.full else works.QUICK.primitives)
    found: list[Profile] = []
    for primitive in primitives:
        for backend in task.devices:
            if ledger.time_is_up:
                ledger.complete = False
                break
            progress(f"{primitive} of {backend}")
            found.append(profile(Workload(primitive, DEFAULT_SHAPES[sides_of(primitive)]), backend, gpu))
            ledger.keep(lambda: _profile_result(found))
    return _profile_result(found)


PROFILE_ROWS = (
    "grid",
    "registers a thread",
    "spills",
    "sectors a request",
    "sectors beyond the fewest",
    "bank conflicts",
)
"""What a report shows of a kernel, of `gpubp.profiler.profile_tables.rows`."""


def _profile_result(profiles: Sequence[Profile]) -> dict[str, Any]:
    from gpubp.profiler.profile_tables import counted_note, heading, rows
    from gpubp.profiler.profiles import MODEL, percent

    first = profiles[0]
    rates = dict.fromkeys(each.cost.rate for each in profiles)
    rooflines = {rate: first.gpu.roofline(rate) for rate in rates}

    def figures(each: Profile, kernel: Any) -> dict[str, str]:
        found = rows(each, [kernel])
        return {name: found[name] for name in PROFILE_ROWS} | {"resident warps": percent(kernel.occupancy.share)}

    return {
        "model": MODEL,
        "chip": first.gpu.name,
        "rooflines": {
            rate: {"flops_per_second": each.peak, "bytes_per_second": each.bandwidth}
            for rate, each in rooflines.items()
        },
        "profiles": [
            {
                "title": each.title,
                "shape": list(each.workload.shape),
                "kernels_of": heading(each),
                "rate": each.cost.rate,
                "intensity": each.cost.intensity,
                "flops_per_second": each.limits.rate,
                "peak_share": each.peak_share,
                "limiter": each.limiter,
                "counted": counted_note(each),
                "kernels": [
                    {"name": kernel.name.split("<")[0], "figures": figures(each, kernel)} for kernel in each.kernels
                ],
            }
            for each in profiles
        ],
    }


_PERFORMERS: dict[str, Callable[[Task, Ledger, Progress], dict[str, Any]]] = {
    "info": _info,
    "check": _check,
    "train": _train,
    "bench": _bench,
    "profile": _profile,
}


# --- the process ------------------------------------------------------------------------------------------------------
def main() -> int:
    """Do one task; return the exit code."""
    progress = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    request = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    ledger = Ledger(Path(request["file"]), request["task"]["seconds"])
    choice = Choice(**{name: _frozen(value) for name, value in request["task"].pop("choice").items()})
    task = Task(**request["task"], choice=choice)
    try:
        result = perform(task, ledger, lambda line: print(line, file=progress, flush=True))
    except Exception as error:  # whatever breaks a part is what became of it
        traceback.print_exc()
        words = str(error).strip()
        message = words if isinstance(error, GpubpError) else f"{type(error).__name__}: {words}"
        ledger.write(finished=True, result=None, error=message.strip(": "))
        return 1
    ledger.write(finished=True, result=result)
    return 0


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _end_with_the_parent() -> None:
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
