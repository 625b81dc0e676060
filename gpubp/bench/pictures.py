"""A run's pictures: throughput over size, and every point under the roofline."""

from __future__ import annotations

import io
from pathlib import Path

from gpubp.bench.contenders import EVERYONE
from gpubp.bench.results import BenchResult, Record, Scaling
from gpubp.bench.tables import absent_by_reason, by_processes
from gpubp.bench.works import SharedStep, TrainingStep
from gpubp.costs import PRODUCTS
from gpubp.training import plots
from gpubp.training.plots import Curve, Dashes, Panel, Point

COLOURS = {
    "numpy": plots.BLUE,
    "cpu": plots.BLUE,
    "cupy": plots.ORANGE,
    "cupy-graph": plots.BROWN,
    "numba": plots.GREEN,
    "torch": plots.RED,
    "torch-compiled": plots.PURPLE,
    "torch-graph": plots.RED,
    "jax": plots.SKY,
    "sklearn": plots.GREY,
    "cublas": plots.GREY,
    "cublaslt": plots.SKY,
}
"""One colour for each, on either device; a rung has its backend's."""

DASHES: dict[str, Dashes] = {"naive": ":", "tiled": "--", "blocked": (0, (5, 1, 1, 1, 1, 1)), "pipelined": "-."}

PALETTE = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED, plots.PURPLE, plots.BROWN, plots.SKY, plots.GREY)
MARKERS = "os^Dv<>P"


NAMES = ("throughput.png", "roofline.png", "scaling.png")
"""The files that `draw` writes."""


def draw(result: BenchResult, folder: Path) -> list[Path]:
    """Write the pictures of a run into the folder, each whole or not at all; the paths."""
    from gpubp.files import write_bytes

    drawn = {}
    if panels(result):
        drawn[NAMES[0]] = throughput(result)
    if any(result.limits.values()):
        drawn[NAMES[1]] = roofline(result)
    if scaling_panels(result):
        drawn[NAMES[2]] = scaling(result)
    for name, picture in drawn.items():
        write_bytes(folder / name, picture)
    return [folder / name for name in drawn]


def throughput(result: BenchResult) -> bytes:
    """Return a PNG with a panel for each primitive and dtype, and for the steps; a curve for each contender."""
    file = io.BytesIO()
    plots.throughput(panels(result), title=_title(result), note=_note(result), out=file)
    return file.getvalue()


def scaling(result: BenchResult) -> bytes:
    """Return a PNG with the efficiency over the ranks: a panel for each network, dtype and kind of scaling."""
    file = io.BytesIO()
    plots.throughput(scaling_panels(result), title=f"{_title(result)} a rank", note=_note(result), out=file)
    return file.getvalue()


def scaling_panels(result: BenchResult) -> list[Panel]:
    """Return what `scaling` draws."""
    timed = [each for each in result.scalings if each.efficiency is not None]
    keys = dict.fromkeys((_network(each), each.record.work.dtype, each.kind) for each in timed if each.ranks > 1)
    contenders = dict.fromkeys(each.record.contender for each in timed)
    return [
        Panel(
            title=f"{network}, {dtype}, {kind} scaling",
            x_label="ranks",
            y_label="efficiency, %",
            curves=[
                _efficiency(own, PALETTE[number % len(PALETTE)])
                for number, contender in enumerate(contenders)
                if (own := [each for each in same if each.record.contender == contender])
            ],
            limits={"as one rank": 100},
        )
        for network, dtype, kind in keys
        for same in [[e for e in timed if (_network(e), e.record.work.dtype, e.kind) == (network, dtype, kind)]]
    ]


def _network(scaling: Scaling) -> str:
    assert isinstance(scaling.record.work, SharedStep)
    return scaling.record.work.step.name


def _efficiency(same: list[Scaling], colour: str) -> Curve:
    """Return the curve of one contender; its band is that of the quartiles of the shared steps."""
    key = same[0].record.contender
    percent = [100 * (each.efficiency or 0) for each in same]
    records = [each.record for each in same]
    return Curve(
        label=EVERYONE[key].title,
        x=[each.ranks for each in same],
        y=percent,
        low=[value * r.median / r.quartiles[1] for value, r in zip(percent, records, strict=True)],
        high=[value * r.median / r.quartiles[0] for value, r in zip(percent, records, strict=True)],
        colour=colour,
        dashes="-",
        marker="o" if EVERYONE[key].device == "cpu" else "s",
    )


def roofline(result: BenchResult) -> bytes:
    """Return a PNG with the limits and, under them, the largest work of each kind for each of our own backends."""
    limits = {
        f"{how} {device}, {dtype}": limit
        for how, device, by_dtype in [("measured,", device, found) for device, found in result.limits.items()]
        + [("published,", "gpu", result.published)]
        for dtype, limit in by_dtype.items()
    }
    file = io.BytesIO()
    title = f"{_title(result)}; each at its largest size"
    fast = any(limit.peak >= 1e12 for limit in limits.values())
    unit, scale = ("TFLOP/s", 1e12) if fast else ("GFLOP/s", 1e9)
    plots.roofline(limits, points(result), title=title, note=_note(result), out=file, y_label=unit, scale=scale)
    return file.getvalue()


def points(result: BenchResult) -> list[Point]:
    """Return what `roofline` draws under the limits: a colour for each primitive, a marker for each contender."""
    largest: dict[tuple[str, str, str], Record] = {}
    for record in _timed(result):
        key = record.work.group, record.work.dtype, record.contender
        if EVERYONE[record.contender].backend and (key not in largest or record.work.flops > largest[key].work.flops):
            largest[key] = record
    groups = list(dict.fromkeys(group for group, _, _ in largest))
    keys = list(dict.fromkeys(contender for _, _, contender in largest))
    several = len({dtype for _, dtype, _ in largest}) > 1
    return [
        Point(
            label=f"{group} {record.work.label}{f' {dtype}' if several else ''}, {EVERYONE[contender].title}",
            intensity=record.work.flops / record.work.bytes,
            rate=record.flops_per_second,
            colour=PALETTE[groups.index(group) % len(PALETTE)],
            marker=MARKERS[keys.index(contender) % len(MARKERS)],
        )
        for (group, dtype, contender), record in largest.items()
    ]


def panels(result: BenchResult) -> list[Panel]:
    """Return what `throughput` draws."""
    timed = _timed(result)
    keys = dict.fromkeys((record.work.group, record.work.dtype) for record in timed)
    return [_panel(result, [r for r in timed if (r.work.group, r.work.dtype) == key]) for key in keys]


def _panel(result: BenchResult, records: list[Record]) -> Panel:
    work = records[0].work
    counts_flops = isinstance(work, TrainingStep) or work.group in PRODUCTS
    curves = []
    for key in (key for key in EVERYONE if any(record.contender == key for record in records)):
        by_size = {r.work.size: r for r in reversed(records) if r.contender == key}  # of one size, the first
        own = [by_size[size] for size in sorted(by_size)]
        amounts = [r.work.flops if counts_flops else r.work.bytes for r in own]
        contender = EVERYONE[key]
        curves.append(
            Curve(
                label=contender.title,
                x=[r.work.size for r in own],
                y=[amount / r.median / 1e9 for amount, r in zip(amounts, own, strict=True)],
                low=[amount / r.quartiles[1] / 1e9 for amount, r in zip(amounts, own, strict=True)],
                high=[amount / r.quartiles[0] / 1e9 for amount, r in zip(amounts, own, strict=True)],
                colour=COLOURS[key if key in COLOURS else contender.backend],
                dashes=DASHES.get(contender.settings.get("variant") or "", "-"),
                marker="o" if contender.device == "cpu" else "s",
            )
        )
    limits = {}
    for device, by_dtype in result.limits.items():
        if work.dtype in by_dtype:
            roofline = by_dtype[work.dtype]
            limits[f"limit, {device}"] = (roofline.peak if counts_flops else roofline.bandwidth) / 1e9
    unit = "GFLOP/s" if counts_flops else "GB/s"
    size = "side of a cube of as many multiplications" if isinstance(work, TrainingStep) else "side of the square"
    return Panel(title=f"{work.group}, {work.dtype}", x_label=size, y_label=unit, curves=curves, limits=limits)


def _timed(result: BenchResult) -> list[Record]:
    return [record for record in by_processes(result) if record.seconds]


def _title(result: BenchResult) -> str:
    machine = result.machine
    names = [str(machine.get("processor", "")), *machine.get("gpus", ())]
    threads = "1 thread" if result.threads == 1 else f"{result.threads} threads"
    return f"{', '.join(name for name in names if name)}, {threads}"


def _note(result: BenchResult) -> str:
    """Return why no curve is of a GPU."""
    own = {key: reason for key, reason in result.absent.items() if EVERYONE[key].backend}
    return "; ".join(f"{', '.join(titles)}: {reason}" for reason, titles in absent_by_reason(own).items())
