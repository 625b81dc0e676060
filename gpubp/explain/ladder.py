"""The rungs of the ladder side by side: what each loads and moves for the same product, as small multiples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from gpubp import backends
from gpubp.backends.plans import THREAD_VARIANTS
from gpubp.crosscheck import buffers, problems
from gpubp.crosscheck.cases import Case
from gpubp.crosscheck.runner import on_chip, plans_of
from gpubp.explain.catalogue import Catalogue
from gpubp.explain.equations import number

WHOLE_TILES = 64
"""A multiple of every rung's tiles."""

METRICS = ("global_loads", "shared_loads", "sectors", "passes")
"""What is compared, each a field of `Rung`."""


@dataclass(frozen=True)
class Rung:
    """What one rung did for a product, all blocks together.

    Attributes:
        variant: its name.
        shape: of the product, (M, N, K).
        global_loads, shared_loads: elements that threads loaded for each multiply-add of the product.
        sectors: of 32 bytes of global memory, loads and stores.
        passes: through the banks of shared memory.
    """

    variant: str
    shape: tuple[int, ...]
    global_loads: float
    shared_loads: float
    sectors: int
    passes: int


def rungs(case: Case, backend: str) -> list[Rung]:
    """Return what each rung of the ladder does for a case's product, on the emulated device.

    Its sides are made multiples of `WHOLE_TILES`: of a smaller product most of a tile would be padding.
    """
    shape = tuple(-(-side // WHOLE_TILES) * WHOLE_TILES for side in case.shape)
    return [_rung(replace(case, shape=shape, variant=variant), backend) for variant in THREAD_VARIANTS]


def _rung(case: Case, name: str) -> Rung:
    from gpubp import emulator

    with on_chip(case.arch):
        device: Any = backends.get(name, "emulator")
        problem = problems.make(case)
        device.release_workspace()
        arrays = buffers.placed(device, problem, case)
        with plans_of(device, case), emulator.observe(traffic=True) as report:
            problem.run(device, {each: buffer.array for each, buffer in arrays.items()})
            device.synchronize()
    rows, columns, depth = case.shape
    itemsize = next(iter(problem.inputs.values())).dtype.itemsize
    loads = {
        space: sum(each.nbytes for each in report.accesses if each.space == space and each.kind in ("load", "async"))
        for space in ("global", "shared")
    }
    multiplied = rows * columns * depth * itemsize
    return Rung(
        case.rung or "",
        case.shape,
        loads["global"] / multiplied,
        loads["shared"] / multiplied,
        sum(each.units for each in report.global_accesses),
        sum(each.units for each in report.shared_accesses),
    )


WIDTH, BAR, LABEL = 300, 22, 84
"""Of a picture, the height of a bar with its gap, and the room for its name."""


def bars(ladder: Sequence[Rung], texts: Catalogue) -> Iterator[tuple[str, str]]:
    """Yield the name of each metric, and its bars as SVG."""
    for name in METRICS if ladder else ():
        values = [(rung.variant, float(getattr(rung, name))) for rung in ladder]
        most = max(value for _, value in values) or 1
        title = texts(f"ladder.{name}")
        parts = [
            f'<svg class="bars" viewBox="0 0 {WIDTH} {BAR * len(values)}" role="img" aria-label="{escape(title)}">'
        ]
        for place, (variant, value) in enumerate(values):
            y, length = place * BAR, (WIDTH - LABEL - 56) * value / most
            parts.append(f'<text class="name" x="{LABEL - 6}" y="{y + 15}">{escape(variant)}</text>')
            parts.append(f'<rect x="{LABEL}" y="{y + 3}" width="{length:.1f}" height="{BAR - 6}"/>')
            parts.append(f'<text x="{LABEL + length + 5:.1f}" y="{y + 15}">{_written(value)}</text>')
        yield name, "".join(parts) + "</svg>"


def _written(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else number(value)
