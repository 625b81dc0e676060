"""What `gpubp report` does: run the parts one after the other, keep what each found, and write the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gpubp import terminal
from gpubp.errors import BackendError, DataError
from gpubp.files import check_path, is_missing, write_bytes
from gpubp.machine import MachineInfo
from gpubp.report import process
from gpubp.report.identity import differences, identity_of
from gpubp.report.machine_page import page, summary
from gpubp.report.parts import BACKENDS, PARTS, Choice, Part, Task
from gpubp.report.results import PartResult, Report

if TYPE_CHECKING:
    from rich.console import Console

USUAL = Path("report.html")
"""The page if none is named."""

EMULATED_NAME = "emulated "
"""What the name of a virtual device begins with."""

Places = dict[str, tuple[str, str]]
"""Of each backend the device that its kernels run on, "" for none, and why not on the one that was asked for."""


def report(
    console: Console, choice: Choice, out: Path | None, command: str, *, force: bool = False
) -> tuple[Report, Path]:
    """Run what is chosen, and write the page and beside it the results; return the report and the page's path.

    What a page's results lack, or broke, is run; what they have, stays, if it is of this machine, this software and
    this choice. The results are written after each part, so that a run that was stopped goes on.

    Args:
        out: the page; None for report.html.
        force: start over; the page may replace a file that is no report.

    Raises:
        ArgumentError: a path cannot be written.
        BackendError: a named backend can run nowhere. Raised before any but the machine is looked at.
        DataError: the results beside the page are damaged.
    """
    path = out or USUAL
    results = path.with_suffix(".json")
    begun = not force and not is_missing(results)
    check_path("out", path, ".html", ".htm", replace=force or out is None or begun)
    check_path("out", results, ".json", replace=True)
    before = _read(results) if begun else None
    with terminal.progress(console, "looking at the machine") as progress:
        info = _run(PARTS["info"], choice, {}, "", "", progress)
        machine = Report("", "", {}, {"info": info}).machine
        _require_own_process(machine)
        places = _places(choice, machine)
        _require_places(choice, places)
        device = _main_device(choice, places)
        found = Report(info.made, command, identity_of(machine, choice, device))
        if before is not None:
            found = _continued(console, before, found)
        found = found.with_part("info", info, info.made)
        gpu = machine.gpus[0] if machine is not None and machine.gpus else ""
        for part in choice.parts[1:]:
            if _stays(found.parts.get(part.name)):
                continue
            where = places if part.name != "profile" else _places(replace(choice, device="emulator"), machine)
            done = _without_running(part, choice, where) or _run(part, choice, where, device, gpu, progress)
            found = found.with_part(part.name, done, done.made)
            found.save(results)
    found.save(results)
    write_bytes(path, page(found).encode())
    for line in summary(found):
        console.print(line, soft_wrap=True)
    console.print(f"{found.verdict}. The page: {path}; its figures: {results}", soft_wrap=True)
    return found, path


def _read(results: Path) -> Report:
    try:
        return Report.read(results)
    except DataError as error:
        raise DataError(f"{error}; --force starts over") from None


def _continued(console: Console, before: Report, now: Report) -> Report:
    """Return a report with the parts of an earlier one if they can stand in it, and say what becomes of them."""
    if changed := differences(before.identity, now.identity):
        console.print(f"Starting over: {'; '.join(changed)}.", soft_wrap=True)
        return now
    stay = [PARTS[name].title for name, part in before.parts.items() if name != "info" and _stays(part)]
    if stay:
        console.print(f"Going on, --force starts over. Already there: {', '.join(stay)}.", soft_wrap=True)
    return Report(now.made, now.command, now.identity, before.parts)


def _stays(part: PartResult | None) -> bool:
    return part is not None and part.status == "done"


def _require_own_process(machine: MachineInfo | None) -> None:
    """Raise BackendError if the GPU is none: no emulated device's figures may stand in a report as a GPU's."""
    if machine is not None and any(name.startswith(EMULATED_NAME) for name in machine.gpus):
        raise BackendError(
            f"the GPU {machine.gpus[0]!r} is the virtual device, which this process was given: run gpubp report by "
            "itself, with --device virtual"
        )


def _places(choice: Choice, machine: MachineInfo | None) -> Places:
    """Return where each backend's kernels run: on the device that is asked for; else on the GPU, or emulated.

    If the machine could not be looked at, each is tried there.
    """
    places: Places = {}
    for backend in choice.backends or BACKENDS:
        devices = (choice.device,) if choice.device else ("gpu", "emulator")
        if machine is None:
            places[backend] = devices[-1], ""
            continue
        able = {each.device: each for each in machine.backends if each.backend == backend}
        device = next((device for device in devices if able[device].works), "")
        lacks = "; ".join(f"{each}: {able[each]}" for each in devices if not able[each].works)
        places[backend] = device, lacks
    return places


def _require_places(choice: Choice, places: Places) -> None:
    for backend, (device, lacks) in places.items():
        if backend in choice.backends and not device:
            raise BackendError(f"backend {backend!r} can run nowhere here; {lacks}")


def _main_device(choice: Choice, places: Places) -> str:
    """Return the device of the parts that are of no one backend."""
    devices = [device for device, _ in places.values() if device]
    return choice.device or ("gpu" if "gpu" in devices else "emulator")


def _without_running(part: Part, choice: Choice, places: Places) -> PartResult | None:
    """Return what becomes of a part that does not run; None if it runs."""
    if (reason := choice.left_out().get(part.name)) is not None:
        return PartResult("left out", made=_now(), message=reason)
    if part.backend and not places[part.backend][0]:
        return PartResult("absent", made=_now(), message=places[part.backend][1])
    if part.name == "profile" and not any(device for device, _ in places.values()):
        lacks = "; ".join(f"{backend}: {lacks}" for backend, (_, lacks) in places.items())
        return PartResult("absent", made=_now(), message=lacks)
    return None


def _run(
    part: Part, choice: Choice, places: Places, device: str, gpu: str, progress: Callable[[str], None]
) -> PartResult:
    devices = {backend: place for backend, (place, _) in places.items() if place}
    own = devices[part.backend] if part.backend else device
    progress(part.title)
    task = Task(part.name, own, devices, choice, gpu)
    limit = choice.seconds(part, own or choice.device or "gpu")
    done = process.run(task, limit, lambda line: progress(f"{part.title}: {line}"))
    lacking = [
        f"{backend}: {lacks}" for backend, (_, lacks) in places.items() if lacks and part.backend in ("", backend)
    ]
    return replace(done, lacking=tuple(lacking))


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
