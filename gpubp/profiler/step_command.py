"""`gpubp profile step`: the model of a training step on several GPUs, shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpubp import chips
from gpubp.bench.tables import Column, duration, table_of
from gpubp.bench.works import step_of
from gpubp.chips import Gpu
from gpubp.profiler.profile_command import chip_of
from gpubp.profiler.profiles import DEFAULT_CHIP, percent
from gpubp.profiler.step_model import MODEL, ModelledStep, gradient_bytes, modelled

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DEFAULT_NETWORK = "large"
DEFAULT_RANKS = (2, 4, 8)
KINDS = {"strong": "the GPUs share one batch", "weak": "each GPU has a batch of the same size"}


def run(
    console: Console, *, network: str | None, ranks: Sequence[int], dtype: str, chip: str | None, as_json: bool
) -> None:
    """Show the model of a network's step on several GPUs. Arguments: as on the command line.

    Raises:
        ArgumentError: an argument is wrong.
    """
    name = network or DEFAULT_NETWORK
    step = step_of(name, dtype)
    gpu = chip_of(chip) or chips.get(DEFAULT_CHIP)
    found = modelled(step, ranks or [count for count in DEFAULT_RANKS if count <= step.rows], gpu)
    if as_json:
        values = {
            "note": MODEL,
            "chip": gpu.name,
            "network": name,
            "dtype": step.dtype,
            "gradient_bytes": gradient_bytes(step),
            "steps": [each.to_dict() for each in found],
        }
        print(json.dumps(values, indent=2))
        return
    sizes = "-".join(map(str, step.sizes))
    for kind, meaning in KINDS.items():
        title = f"modelled step of {name}, {sizes}, {step.dtype}, on {gpu.name}: {kind} scaling, {meaning}"
        console.print(_table(title, [each for each in found if each.kind == kind], console.width), "")
    console.print(MODEL)
    console.print(f"gradient: {gradient_bytes(step) / 1e6:,.3g} MB; {_links(gpu)}")


def _table(title: str, rows: Sequence[ModelledStep], width: int) -> Table:
    columns = [
        Column("GPUs", [str(row.work.ranks) for row in rows]),
        Column("batch", [f"{row.work.step.rows:,}" for row in rows], rank=5),
        Column("a GPU", [f"{row.work.share.rows:,}" for row in rows], rank=6),
        Column("link", [row.link.name if row.link else "" for row in rows], numbers=False),
        Column("compute", [duration(row.compute) for row in rows], rank=2),
        Column("all-reduce", [duration(row.all_reduce) if row.link else "" for row in rows], rank=1),
        Column("step", [duration(row.seconds) for row in rows]),
        Column("share", [percent(row.share) if row.link else "" for row in rows], rank=4),
        Column("speed-up", [f"{row.speed_up:.2f}" for row in rows]),
        Column("efficiency", [percent(row.efficiency) for row in rows], rank=3),
    ]
    return table_of(title, columns, width, [None] * len(rows))


def _links(gpu: Gpu) -> str:
    """Return the figures of the links in words."""
    each = (
        f"{link.name}: {link.bandwidth / 1e9:g} GB/s in one direction"
        + (f", at most {link.chips} GPUs" if link.chips else "")
        for link in gpu.links
    )
    return "; ".join(each)
