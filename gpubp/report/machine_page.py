"""The page of a report: what the machine has, whether the kernels are right there, how fast they are, what they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from gpubp.backends import EMULATED
from gpubp.report.page import Picture, Table, picture, render
from gpubp.report.parts import PARTS
from gpubp.report.results import DEVICE_NAMES, PartResult, Report

if TYPE_CHECKING:
    from gpubp.bench.results import BenchResult

SHOWN_FAILURES = 20
"""Failed cases whose complaint is shown, the worst ones; all are in the JSON."""

BUSY = 0.05
"""The share of the cores' time from which on other programs spoil what is measured."""

WIDEST = 10_000
"""Characters: room for every column of a table."""

UNSEEN = (
    "It does not see what comes after the PTX: ptxas, which makes machine code of it, and the machine code itself. "
    "Only a GPU runs those."
)
"""What a result of a device that is emulated cannot say; it stands beside each such claim."""

WHAT_EMULATED_MEANS = (
    "The emulated device executes, on the CPU, the PTX that NVIDIA's compilers make of the kernels. It proves what "
    f"they compute, not how fast: none of its times is shown. {UNSEEN}"
)
WHAT_VIRTUAL_MEANS = (
    "The virtual device is a CUDA driver library of gpubp's own, which the real CuPy and the real numba-cuda call; the "
    "emulator executes the kernels' PTX on the CPU. So the host code is that which a GPU will meet. This proves what "
    f"the kernels compute, not how fast: none of its times is shown. {UNSEEN}"
)


def page(report: Report) -> str:
    """Return the page as HTML."""
    machine = report.machine
    return render(
        "report.html",
        title=f"gpubp report: {report.verdict}",
        version=metadata.version("gpubp"),
        made=_readable(report.made),
        command=report.command,
        data=report.to_dict(),
        report=report,
        summary=summary(report),
        identity=Table((), tuple(report.identity.items()), (False, False), ""),
        parts=_parts(report.parts),
        broken=[
            {"title": PARTS[name].title, "message": part.message, "last_output": part.last_output}
            for name, part in report.parts.items()
            if part.broke
        ],
        machine=Table.of(machine.table()) if machine is not None else None,
        emulated=_emulated_notes(report),
        unseen=UNSEEN,
        missing={group: _missing(report, group) for group in ("info", "check", "train", "bench", "profile")},
        checks=[_check(check) for check in report.results("check")],
        training=_training(report.results("train")),
        benches=[_bench(PARTS[name].title, found) for name, found in report.measured.items()],
        rehearsal=_rehearsal(report.results("bench")),
        profile=_profile(found) if (found := report.result("profile")) is not None else None,
    )


def summary(report: Report) -> list[str]:
    """Return what was run, where, what came of it, and what is missing, a sentence each."""
    lines = []
    if (machine := report.machine) is not None:
        gpus = ", ".join(machine.gpus) or f"no GPU ({machine.gpu_fault})"
        lines.append(f"The machine has {machine.processor}, {machine.cores} cores, and {gpus}.")
    lines += [f"Broken: {PARTS[name].title}: {part.message}." for name, part in report.parts.items() if part.broke]
    lines += [f"Checked: {_place(check)}: {outcome(check)}." for check in report.results("check")]
    lines += [f"Trained: {_place(train)}: {trained(train)}." for train in report.results("train")]
    for bench in report.measured.values():
        lines += _measured(bench)
    if rehearsed := [each for bench in report.results("bench") for each in bench["rehearsed"]]:
        wrong = sum(bool(each["fault"]) for each in rehearsed)
        what = "all were right" if not wrong else f"{wrong} were wrong or failed"
        where = " and ".join(dict.fromkeys(DEVICE_NAMES[each["device"]] for each in rehearsed))
        lines.append(f"Rehearsed, not measured, on {where}: {len(rehearsed)} works of the bench; {what}.")
    if (found := report.result("profile")) is not None:
        titles = ", ".join(dict.fromkeys(each["title"] for each in found["profiles"]))
        lines.append(f"Modelled, not measured: {titles}, as on {found['chip']}.")
    lines += [f"Wrong: {mistake}." for mistake in report.mistakes[:SHOWN_FAILURES]]
    for label, status in (("Unfinished", "partial"), ("Not run", "absent"), ("Left out", "left out")):
        named = {PARTS[name].title: part.message for name, part in report.parts.items() if part.status == status}
        lines += [f"{label}: {line}." for line in _by_reason(named)]
    lines += [f"Not on the GPU: {line}." for line in _lacking(report.parts.values())]
    if any(device in EMULATED for device in report.checked_on):
        lines.append(f"What no emulated device can show: {UNSEEN}")
    return lines


def _by_reason(missing: Mapping[str, str]) -> list[str]:
    """Return a line for each reason, with all that is missing for it."""
    found: dict[str, list[str]] = {}
    for what, reason in missing.items():
        found.setdefault(reason, []).append(what)
    return [f"{', '.join(whats)}: {reason}" for reason, whats in found.items()]


def _lacking(parts: Any) -> list[str]:
    """Return why kernels ran elsewhere than on the GPU that nobody forbade, once for each reason."""
    return list(dict.fromkeys(line for part in parts if part.status != "absent" for line in part.lacking))


def _readable(made: str) -> str:
    return datetime.fromisoformat(made).strftime("%Y-%m-%d %H:%M %Z")


# --- the parts --------------------------------------------------------------------------------------------------------
def _parts(parts: Mapping[str, PartResult]) -> Table:
    rows = tuple(
        (
            PARTS[name].title,
            part.status,
            DEVICE_NAMES.get(part.device, ""),
            f"{part.seconds:.0f} s of {part.limit_seconds:.0f} s" if part.limit_seconds else "",
        )
        for name, part in parts.items()
    )
    marked = frozenset(number for number, part in enumerate(parts.values()) if part.broke)
    return Table(("part", "status", "kernels on", "its process took"), rows, (False, False, False, True), "", marked)


def _missing(report: Report, group: str) -> list[str]:
    """Return why parts of a group have nothing, or not all, to show."""
    named = {
        PARTS[name].title: part.message or part.status
        for name, part in report.parts.items()
        if name.split("-")[0] == group and part.status != "done"
    }
    return _by_reason(named)


def _emulated_notes(report: Report) -> list[str]:
    devices = {result["device"] for kind in ("check", "train") for result in report.results(kind)}
    devices |= {each["device"] for bench in report.results("bench") for each in bench["rehearsed"]}
    notes = {"emulator": WHAT_EMULATED_MEANS, "virtual": WHAT_VIRTUAL_MEANS}
    return [note for device, note in notes.items() if device in devices]


def _place(result: Mapping[str, Any]) -> str:
    return f"{result['backend']} on {DEVICE_NAMES[result['device']]}"


# --- check and training -----------------------------------------------------------------------------------------------
def outcome(check: Mapping[str, Any]) -> str:
    """Return what came of a check, as the end of a sentence."""
    if not check["cases"]:
        return "no case ran"
    dtypes = ", ".join(dict.fromkeys(row["dtype"] for row in check["rows"]))
    left = check["chosen"] - check["cases"]
    rest = f"; {left:,} more did not fit into the time" if left else ""
    if check["failed"]:
        return f"{check['failed']:,} of {check['cases']:,} cases in {dtypes} failed{rest}"
    worst = max(_share(row) for row in check["rows"])
    return f"all {check['cases']:,} cases in {dtypes} passed; the largest error is {worst:.0%} of its bound{rest}"


def _share(row: Mapping[str, Any]) -> float:
    return float("inf") if row["share"] is None else row["share"]


def _check(check: Mapping[str, Any]) -> dict[str, Any]:
    worst = sorted(check["failures"], key=lambda failure: -_share(failure))
    headers = ("primitive", "variant", "dtype", "cases", "failed", "error / bound")
    rows = tuple(
        (
            row["primitive"],
            row["variant"],
            row["dtype"],
            str(row["cases"]),
            str(row["failed"]),
            "exact" if row["share"] == 0 else f"{_share(row):.3g}",
        )
        for row in check["rows"]
    )
    marked = frozenset(number for number, row in enumerate(check["rows"]) if row["failed"])
    return {
        "place": _place(check),
        "outcome": outcome(check),
        "emulated": check["device"] in EMULATED,
        "table": Table(headers, rows, (False,) * 3 + (True,) * 3, "", marked) if rows else None,
        "failures": worst[:SHOWN_FAILURES],
        "more": max(0, len(worst) - SHOWN_FAILURES),
    }


def trained(train: Mapping[str, Any]) -> str:
    """Return what came of a training, as the end of a sentence."""
    rate = train["examples_per_second"]
    speed = "" if rate is None else f", {rate:,.0f} examples/s in the last epoch"
    return (
        f"{train['data']}, {train['epochs']} epochs: {train['accuracy']:.1%} right on the test part, loss "
        f"{train['loss']:.6g}, and {train['reference_loss']:.6g} on numpy{speed}"
    )


def _training(trains: Sequence[Mapping[str, Any]]) -> Table | None:
    if not trains:
        return None
    headers = ("where", "data", "hidden layers", "epochs", "accuracy", "loss", "loss on numpy", "examples/s")
    rows = tuple(
        (
            _place(train),
            train["data"],
            train["layers"],
            str(train["epochs"]),
            f"{train['accuracy']:.1%}",
            f"{train['loss']:.6g}",
            f"{train['reference_loss']:.6g}",
            "not measured" if train["examples_per_second"] is None else f"{train['examples_per_second']:,.0f}",
        )
        for train in trains
    )
    marked = frozenset(number for number, train in enumerate(trains) if not train["matches"])
    return Table(headers, rows, (False,) * 3 + (True,) * 5, "", marked)


# --- the bench --------------------------------------------------------------------------------------------------------
def _measured(result: BenchResult) -> list[str]:
    """Return what was measured, the times of the largest network's step, and what makes figures wrong or doubtful."""
    from gpubp.bench.tables import duration
    from gpubp.bench.works import Limit, TrainingStep

    records = [record for record in result.records if not isinstance(record.work, Limit)]
    keys = dict.fromkeys(record.contender for record in records if record.seconds)
    works = len({record.work for record in records})
    lines = [f"Measured: {works} works, by {', '.join(map(_contender, keys)) or 'nobody'}."]
    steps = [record for record in records if isinstance(record.work, TrainingStep) and record.seconds]
    if steps:
        largest = max(steps, key=lambda record: record.work.flops).work
        times = (f"{_contender(each.contender)} {duration(each.median)}" for each in steps if each.work == largest)
        lines.append(f"A training step of network {largest.label} in {largest.dtype} took {', '.join(times)}.")
    if result.busy is not None and result.busy > BUSY:
        lines.append(f"Other programs took {result.busy:.0%} of the cores' time: the measured times may be too long.")
    return lines


def _contender(key: str) -> str:
    from gpubp.bench.contenders import EVERYONE

    return f"{EVERYONE[key].title} on {DEVICE_NAMES[EVERYONE[key].device]}"


def _bench(title: str, result: BenchResult) -> dict[str, Any]:
    from gpubp.bench import pictures, tables
    from gpubp.bench.contenders import EVERYONE
    from gpubp.bench.works import Primitive

    peers = {key: reason for key, reason in result.absent.items() if not EVERYONE[key].backend}
    own = {_contender(key): reason for key, reason in result.absent.items() if EVERYONE[key].backend}
    drawn = []
    if any(isinstance(work, Primitive) for work in result.works):
        drawn.append(Picture(pictures.throughput(result), f"Throughput over size in the {title}"))
        if any(result.limits.values()):
            drawn.append(Picture(pictures.roofline(result), f"The machine's roofline and the rates of the {title}"))
    return {
        "title": title,
        "tables": [Table.of(table) for table in tables.tables(result, WIDEST)],
        "unmeasured": _by_reason(own),
        "notes": tables.notes(replace(result, absent=peers)),
        "pictures": drawn,
    }


def _rehearsal(benches: Sequence[Mapping[str, Any]]) -> Table | None:
    found = [each for bench in benches for each in bench["rehearsed"]]
    if not found:
        return None
    rows = tuple((each["work"], each["contender"], each["fault"] or "right") for each in found)
    marked = frozenset(number for number, each in enumerate(found) if each["fault"])
    return Table(("work", "contender", "result"), rows, (False,) * 3, "", marked)


# --- the profiles -----------------------------------------------------------------------------------------------------
def _profile(found: Mapping[str, Any]) -> dict[str, Any]:
    profiles = found["profiles"]
    names = list(dict.fromkeys(name for each in profiles for kernel in each["kernels"] for name in kernel["figures"]))
    cells = tuple(
        (
            f"{each['title']}\n{'x'.join(map(str, each['shape']))}",
            each["kernels_of"],
            kernel["name"],
            *(kernel["figures"].get(name, "") for name in names),
        )
        for each in profiles
        for kernel in each["kernels"]
    )
    headers = ("primitive", "backend", "kernel", *names)
    return {
        "model": found["model"],
        "table": Table(headers, cells, (False,) * len(headers)) if cells else None,
        "limiters": [f"{each['title']}, {each['kernels_of']}: {each['limiter']}" for each in profiles],
        "notes": list(dict.fromkeys(each["counted"] for each in profiles)),
        "pictures": [_roofline(found)] if profiles else [],
    }


def _roofline(found: Mapping[str, Any]) -> Picture:
    """Return all profiles under the chip's roofline, a colour for each primitive, a marker for each kernel."""
    from gpubp.chips import Roofline
    from gpubp.profiler.profile_tables import COLOURS, MARKERS
    from gpubp.training import plots

    profiles, chip = found["profiles"], found["chip"]
    primitives = list(dict.fromkeys(each["title"] for each in profiles))
    kernels = list(dict.fromkeys(each["kernels_of"] for each in profiles))
    points = [
        plots.Point(
            f"{each['title']}, {each['kernels_of']}",
            each["intensity"],
            each["flops_per_second"],
            COLOURS[primitives.index(each["title"]) % len(COLOURS)],
            MARKERS[kernels.index(each["kernels_of"]) % len(MARKERS)],
        )
        for each in profiles
    ]
    rooflines = {
        rate: Roofline(each["flops_per_second"], each["bytes_per_second"]) for rate, each in found["rooflines"].items()
    }
    return picture(
        lambda file: plots.roofline(
            rooflines,
            points,
            title=f"Roofline of {chip}",
            note=found["model"],
            out=file,
            y_label="TFLOP/s, at most",
        ),
        f"Roofline of {chip} with each profile as a point",
    )
