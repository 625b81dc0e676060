"""Profiles for a person: tables for a terminal, and the roofline."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpubp.backends.plans import forms_of, variants_of
from gpubp.dtypes import MIXED
from gpubp.profiler.counts import Counts
from gpubp.profiler.profiles import MODEL, KernelProfile, Profile, percent, rounded
from gpubp.profiler.workloads import KernelLaunch, Workload
from gpubp.training import plots

if TYPE_CHECKING:
    from rich.table import Table

COLOURS = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED, plots.PURPLE, plots.BROWN, plots.SKY, plots.GREY)
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
MOST_CLASSES = 5
MOST_LINES = 8
WIDE = 120
"""Columns of a terminal from which on a comparison is one table."""
NARROW = 80
"""And below which it is many."""


# --- numbers ----------------------------------------------------------------------------------------------------------
def amount(number: float, unit: str = "") -> str:
    """Return a large number as text with three digits and a prefix, such as 1.37 G, or 3.29 GB with the unit B.

    A small number is written whole.
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= factor:
            value = number / (1e3 if prefix == "k" else factor)
            return f"{value:.3g} {prefix}{unit}" if value < 999.5 else f"{value:.0f} {prefix}{unit}"
    return f"{number:,.0f} {unit}".rstrip()


def _kib(nbytes: int) -> str:
    return f"{nbytes / 1024:.4g} KiB" if nbytes >= 1024 else f"{nbytes} B"


def _ratio(found: float, least: float) -> str:
    return f"{rounded(found / least)} × the least" if least else "where none is needed"


def title(profile: Profile) -> str:
    """Return what was profiled, and for which chip."""
    work = profile.workload
    if isinstance(work, KernelLaunch):
        return f"{work}: {profile.arch} on {profile.gpu.name}"
    option = {"update": f", {work.optimizer}"}.get(work.primitive, "")
    if work.primitive in ("dense_forward", "hidden_delta", "hadamard_derivative"):
        option = f", {work.activation}"
    if work.mode is not None:
        option += f", {work.mode}"
    sides = "×".join(f"{side:,}" for side in work.shape)
    return f"{profile.title} {sides}, {work.dtype}{option}: {profile.arch} on {profile.gpu.name}"


def heading(profile: Profile) -> str:
    """Return what distinguishes a profile in a comparison."""
    if profile.title != profile.workload.primitive:
        return f"{profile.backend} in two kernels"
    if isinstance(profile.workload, KernelLaunch):
        return profile.title
    variant = profile.plan.variant if profile.plan is not None else ""
    return f"{profile.backend} {variant}".strip()


# --- rows -------------------------------------------------------------------------------------------------------------
def rows(profile: Profile, kernels: Sequence[KernelProfile]) -> dict[str, str]:
    """Return the figures of some of a profile's kernels by their names; " + " stands between the kernels."""

    def each(words: Any) -> str:
        return " + ".join(words(kernel) for kernel in kernels)

    return {
        "grid": each(lambda k: f"{k.counts.blocks:,} × {k.threads} threads"),
        "registers a thread": each(lambda k: str(k.resources.registers)),
        "shared memory a block": each(lambda k: _kib(k.shared_bytes)),
        "spills": each(_spills),
        "blocks a multiprocessor": each(_occupancy),
        "waves": each(_waves),
        "main loop": each(_main_loop),
        "instructions": each(lambda k: _instructions(k.counts)),
        "flops": each(lambda k: amount(k.counts.flops)),
        "global memory, read": each(lambda k: amount(k.counts.read.get("global", 0), "B")),
        "global memory, written": each(lambda k: amount(k.counts.written.get("global", 0), "B")),
        "sectors a request": each(lambda k: f"{k.counts.sectors_a_request:.3g}"),
        "sectors beyond the fewest": each(lambda k: _excess(k.counts, "global")),
        "shared memory, read": each(lambda k: amount(k.counts.read.get("shared", 0), "B")),
        "shared memory, written": each(lambda k: amount(k.counts.written.get("shared", 0), "B")),
        "bank conflicts": each(lambda k: _excess(k.counts, "shared")),
    }


def summary(profile: Profile) -> dict[str, str]:
    """Return the figures of all of a profile's kernels together, by their names."""
    cost, flops = profile.cost, sum(kernel.counts.flops for kernel in profile.kernels)
    intensity, ridge = rounded(cost.intensity), rounded(profile.roofline.ridge)
    if isinstance(profile.workload, KernelLaunch):
        requested = f"{rounded(profile.traffic / cost.bytes)} × as much"
        found = {
            "flops": amount(flops),
            "bytes touched": f"{amount(cost.bytes, 'B')}, each sector once; requested: {requested}, in sectors",
        }
    else:
        found = {
            "least flops": f"{amount(cost.flops)}; executed: {_ratio(flops, cost.flops)}",
            "least bytes": f"{amount(cost.bytes, 'B')}; requested: {_ratio(profile.traffic, cost.bytes)}, in sectors",
        }
    found |= {
        "arithmetic intensity": f"{intensity} flops a byte; the ridge is at {ridge}",
    }
    if profile.bytes_in_flight:
        found["bytes on their way"] = (
            f"{_kib(profile.stage_bytes)} a stage, {_kib(profile.bytes_in_flight)} a multiprocessor"
        )
    if cost.flops:
        found["rate, at most"] = profile.shares
    busy = sorted(profile.limits.busy.items(), key=lambda item: -item[1])
    found["busy, at most"] = ", ".join(f"{name} {percent(share)}" for name, share in busy)
    return found


def _spills(kernel: KernelProfile) -> str:
    used = kernel.resources
    if used.spills:
        return f"{used.spill_store_bytes} bytes stored, {used.spill_load_bytes} loaded"
    return f"none; {used.local_bytes} bytes of local memory" if used.local_bytes else "none"


def _occupancy(kernel: KernelProfile) -> str:
    found = kernel.occupancy
    return f"{found.blocks}: {percent(found.share)} of its warps; limited by {' and '.join(found.limited_by)}"


def _waves(kernel: KernelProfile) -> str:
    found = kernel.waves
    if found is None:
        return "none: it does not fit"
    if found.count == 1:
        return f"1, {percent(found.last_fill)} full"
    return f"{found.count:,} of {found.resident:,} blocks, the last {percent(found.last_fill)} full"


def _main_loop(kernel: KernelProfile) -> str:
    code = kernel.machine_code
    if code is None:
        return kernel.unread
    if not code.main_loop:
        return f"none that multiplies; {code.instructions:,} instructions in all"
    share, what = percent(code.arithmetic_share), "tensor" if "tensor" in code.main_loop else "multiply-adds"
    leading = [f"{name} {number:,}" for name, number in list(code.opcodes.items())[:MOST_CLASSES]]
    return f"{code.loop_instructions:,} instructions, {share} {what}: {', '.join(leading)}"


def _instructions(counts: Counts) -> str:
    leading = list(counts.instructions.items())[:MOST_CLASSES]
    shares = ", ".join(f"{name} {percent(number / counts.executed)}" for name, number in leading)
    return f"{amount(counts.executed)}: {shares}"


def _excess(counts: Counts, space: str) -> str:
    excess, units = counts.total(space, "excess"), counts.total(space, "units")
    if not excess:
        return "none" if units else "not used"
    return f"{amount(excess)} of {amount(units)}, most at {counts.worst(space)}"


# --- tables -----------------------------------------------------------------------------------------------------------
def tables(profile: Profile, width: int = WIDE) -> list[Any]:
    """Return a profile as tables and sentences, for a terminal of this width."""
    columns = {_short(kernel.name): rows(profile, [kernel]) for kernel in profile.kernels}
    return [
        _table(title(profile), {"the whole": summary(profile)}),
        _table("Its kernels" if len(columns) > 1 else "Its kernel", columns),
        lines_table(profile, width),
        *([findings_table(profile)] if profile.findings else []),
        profile.limiter,
        *rung_note(profile),
        counted_note(profile),
        MODEL,
    ]


def rung_note(profile: Profile) -> list[str]:
    """Return a sentence if the chip has wgmma, and the product's form or rows keep it from taking that."""
    work, plan = profile.workload, profile.plan
    if plan is None or plan.variant != "tensorcore" or not isinstance(work, Workload):
        return []
    if work.variant == "tensorcore" or "wgmma" not in variants_of(work.dtype, profile.gpu.for_plans()):
        return []
    if work.form not in forms_of("wgmma", work.dtype):
        only = " and ".join(forms_of("wgmma", work.dtype))
        return [f"Computed by tensorcore: the form is {work.form}, and wgmma multiplies {work.dtype} in {only} alone."]
    if work.row_alignment % 16 == 0:
        return []
    boundaries = f"{work.row_alignment}-byte boundaries"
    return [f"Computed by tensorcore: rows of the operands start on {boundaries}, and wgmma needs 16-byte ones."]


def comparison(profiles: Sequence[Profile], width: int) -> list[Any]:
    """Return profiles side by side, as tables and sentences for a terminal of this width."""
    names = [name for name in COMPARED if name != "of mma.sync" or profiles[0].cost.rate in MIXED]
    columns = len(names) if width >= WIDE else 5 if width >= NARROW else 3
    parts = [names[first : first + columns] for first in range(0, len(names), columns)]
    sentences = [f"{heading(each)}: {each.limiter}" for each in profiles]
    if any(each.title != each.workload.primitive for each in profiles):
        sentences.append("In two kernels: transpose_product, and then hadamard_derivative.")
    return [*(_compared(profiles, part) for part in parts), *sentences, _counted_together(profiles), MODEL]


def _compared(profiles: Sequence[Profile], names: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(title=title(profiles[0]), title_justify="left")
    table.add_column("", style="bold", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    for profile in profiles:
        table.add_row(heading(profile), *(COMPARED[name](profile) for name in names))
    return table


def _joined(words: Any) -> Any:
    return lambda profile: " + ".join(words(kernel) for kernel in profile.kernels)


def _multiply_adds(profile: Profile) -> str:
    code = profile.kernels[0].machine_code
    return "?" if code is None else percent(code.arithmetic_share) if code.main_loop else "-"


COMPARED = {
    "registers": _joined(lambda kernel: str(kernel.resources.registers)),
    "shared": _joined(lambda kernel: _kib(kernel.shared_bytes)),
    "spills": lambda profile: _most(profile, lambda k: k.resources.spill_store_bytes + k.resources.spill_load_bytes),
    "occupancy": _joined(lambda kernel: percent(kernel.occupancy.share)),
    "FMA share": _multiply_adds,
    "instructions": lambda profile: amount(sum(kernel.counts.executed for kernel in profile.kernels)),
    "least bytes": lambda profile: amount(profile.cost.bytes, "B"),
    "moved": lambda profile: amount(profile.traffic, "B"),
    "conflicts": lambda profile: _most(profile, lambda kernel: kernel.counts.conflicts),
    "of peak": lambda profile: f"≤ {percent(profile.peak_share)}",
    "of mma.sync": lambda profile: _of_mma_sync(profile),
}
"""The columns of a comparison; moved: by the sectors of accesses to global memory, whatever a cache serves of them."""


def _of_mma_sync(profile: Profile) -> str:
    return "?" if profile.gpu.mma_sync is None else f"≤ {percent(profile.ceiling_share)}"


def _most(profile: Profile, number: Any) -> str:
    return amount(sum(map(number, profile.kernels)))


def _counted_together(profiles: Sequence[Profile]) -> str:
    scaled = [each for each in profiles if each.scaled]
    if not scaled:
        return "Counted at the shape itself."
    worst = max(scaled, key=lambda each: each.error)
    met = f"off by up to {worst.error:.1g}, as {_inexact(worst)}" if worst.error else "met exactly"
    return f"Counted at smaller shapes by the same plans, and scaled; the checks were {met}."


def lines_table(profile: Profile, width: int) -> Table:
    """Return the lines of the source with the most instructions; a narrow terminal gets fewer columns."""
    from rich.table import Table

    table = Table(title="Lines with the most instructions", title_justify="left")
    names = ("instructions", "share", "sectors", "excess", "passes", "conflicts")
    shown = [name for name in names if width >= NARROW or name in ("instructions", "sectors", "passes")]
    table.add_column("line", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="right", overflow="fold")
    executed = sum(kernel.counts.executed for kernel in profile.kernels)
    found = [(sum(line.instructions.values()), line) for kernel in profile.kernels for line in kernel.counts.lines]
    for number, line in sorted(found, key=lambda item: -item[0])[:MOST_LINES]:
        cells = [amount(number), percent(number / executed)]
        for space in ("global", "shared"):
            own = [each for each in line.accesses if each.space == space]
            cells += [amount(sum(getattr(each, field) for each in own)) if own else "" for field in ("units", "excess")]
        table.add_row(str(line), *(cell for name, cell in zip(names, cells, strict=True) if name in shown))
    return table


def findings_table(profile: Profile) -> Table:
    """Return what the observers found, the worst first."""
    from rich.table import Table
    from rich.text import Text

    from gpubp.emulator.observe.findings import GRADES

    table = Table(title=f"Findings: {len(profile.findings)}", title_justify="left")
    for name in ("grade", "kind", "what"):
        table.add_column(name)
    for each in sorted(profile.findings, key=lambda each: (bool(each.reason), -GRADES.index(each.grade))):
        table.add_row(f"intended: {each.reason}" if each.reason else each.grade, each.kind, Text(each.message))
    return table


def counted_note(profile: Profile) -> str:
    """Return a sentence on the shapes that were counted, and whether the counts hold for the requested shape."""
    if isinstance(profile.workload, KernelLaunch):
        return "Counted in one launch, as it is."
    if not profile.scaled:
        return "Counted at the shape itself."
    first, last = ("×".join(map(str, shape)) for shape in (profile.shapes[0], profile.shapes[-1]))
    check = (
        "the last of them was a check, and was met exactly"
        if profile.exact
        else f"not exactly, as {_inexact(profile)}: off by up to {profile.error:.1g}"
    )
    return f"Counted at {len(profile.shapes)} smaller shapes, {first} to {last}, by the same plan, and scaled; {check}."


def _inexact(profile: Profile) -> str:
    streamed = profile.plan is not None and profile.plan.stream_k
    return "tiles of stream-K hang over the edges" if streamed else "paths depend on the data"


def _short(name: str) -> str:
    return name.split("<")[0]


def _table(name: str, columns: Mapping[str, Mapping[str, str]]) -> Table:
    from rich.table import Table

    table = Table(title=name, title_justify="left", show_header=len(columns) > 1 or "the whole" not in columns)
    table.add_column("", style="bold", no_wrap=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    for label in dict.fromkeys(label for column in columns.values() for label in column):
        cells = [column.get(label, "") for column in columns.values()]
        table.add_row(label, *cells)
    return table


# --- picture ----------------------------------------------------------------------------------------------------------
def picture(profiles: Sequence[Profile]) -> bytes:
    """Return a PNG of the chip's roofline, with each profile as the point that its limits allow."""
    first = profiles[0]
    limits = {}
    for rate in dict.fromkeys(each.cost.rate for each in profiles):
        found = first.gpu.roofline(rate)
        limits[f"{rate}: {found.peak / 1e12:.4g} TFLOP/s, {found.bandwidth / 1e9:,.0f} GB/s"] = found
        by_mma = first.gpu.ceiling(rate)
        if by_mma != found:
            limits[f"{rate} by mma.sync: {by_mma.peak / 1e12:.4g} TFLOP/s"] = by_mma
    points = [
        plots.Point(heading(each), each.cost.intensity, each.limits.rate, COLOURS[number % 8], MARKERS[number % 8])
        for number, each in enumerate(profiles)
        if each.cost.flops  # a kernel without any has no place on it
    ]
    file = io.BytesIO()
    plots.roofline(limits, points, title=title(first), note=MODEL, out=file, y_label="TFLOP/s, at most")
    return file.getvalue()
