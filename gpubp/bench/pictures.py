"""A run's pictures: throughput over size, and every point under the roofline."""

from __future__ import annotations

import io
from pathlib import Path

from gpubp import plots
from gpubp.bench.contenders import EVERYONE
from gpubp.bench.results import Record, Result
from gpubp.bench.tables import absent_by_reason
from gpubp.bench.works import Limit, Step
from gpubp.costs import PRODUCTS
from gpubp.plots import Curve, Panel

COLOURS = {
    "numpy": plots.BLUE,
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

DASHES = {"naive": ":", "tiled": "--", "pipelined": "-."}


def draw(result: Result, folder: Path) -> list[Path]:
    """Write the pictures of a run into the folder, each whole or not at all; the paths."""
    from gpubp.model_file import write_bytes

    drawn = {"throughput.png": throughput(result)}
    for name, picture in drawn.items():
        write_bytes(folder / name, picture)
    return [folder / name for name in drawn]


def throughput(result: Result) -> bytes:
    """A PNG with a panel for each primitive and dtype, and for the steps; a curve for each contender."""
    file = io.BytesIO()
    plots.throughput(panels(result), title=_title(result), note=_note(result), out=file)
    return file.getvalue()


def panels(result: Result) -> list[Panel]:
    """What `throughput` draws."""
    timed = [record for record in result.records if record.seconds and not isinstance(record.work, Limit)]
    keys = dict.fromkeys((record.work.group, record.work.dtype) for record in timed)
    return [_panel(result, [r for r in timed if (r.work.group, r.work.dtype) == key]) for key in keys]


def _panel(result: Result, records: list[Record]) -> Panel:
    work = records[0].work
    counts_flops = isinstance(work, Step) or work.group in PRODUCTS
    curves = []
    for key in (key for key in EVERYONE if any(record.contender == key for record in records)):
        own = sorted((r for r in records if r.contender == key), key=lambda r: r.work.size)
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
    size = "side of a cube of as many multiplications" if isinstance(work, Step) else "side of the square"
    return Panel(title=f"{work.group}, {work.dtype}", x_label=size, y_label=unit, curves=curves, limits=limits)


def _title(result: Result) -> str:
    machine = result.machine
    names = [str(machine.get("processor", "")), *machine.get("gpus", ())]
    return f"{', '.join(name for name in names if name)}, {result.threads} threads"


def _note(result: Result) -> str:
    """Why there are no curves of a GPU."""
    own = {key: reason for key, reason in result.absent.items() if EVERYONE[key].backend}
    return "; ".join(f"{', '.join(titles)}: {reason}" for reason, titles in absent_by_reason(own).items())
