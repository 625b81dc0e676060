"""`gpubp profile`: from the words of the command line to profiles, tables and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp import chips, costs
from gpubp.backends import detection, plans
from gpubp.chips import Gpu
from gpubp.errors import ArgumentError, BackendError, ConflictError, unknown_name
from gpubp.files import check_path, write_bytes
from gpubp.profiler.launches import BACKENDS
from gpubp.profiler.profiles import Profile, profile, separate_halves, target
from gpubp.profiler.workloads import Workload

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_SHAPES = {3: (1024, 1024, 1024), 2: (1024, 1024), 1: (2**20,)}
"""The shape of a primitive if none is given, by its number of sides."""


def run(
    console: Console,
    *,
    primitive: str,
    shape: str | None,
    backend: str | None,
    variant: str | None,
    dtype: str,
    activation: str,
    optimizer: str,
    mode: str | None,
    arch: str | None,
    chip: str | None,
    compare: bool,
    as_json: bool,
    out: Path | None,
    html: Path | None,
    force: bool,
    page: Callable[[Profile], str],
) -> None:
    """Profile a primitive, or its variants side by side; show the profiles and write the files.

    Args:
        console: where they are shown.
        primitive, shape, backend, variant, dtype, activation, optimizer, mode, arch, chip, compare, as_json, out, html:
            as on the command line.
        force: the files may replace others.
        page: returns the text of the html file for a profile.

    Raises:
        ArgumentError: an argument is wrong, or does not go with another.
        BackendError: a compiler is missing.
    """
    if backend is not None and backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if compare and variant is not None:
        raise ConflictError("variant", "compare", "a comparison takes every variant")
    if html is not None and compare:
        raise ConflictError("html", "compare", "a page shows one profile")
    if out is not None:
        check_path("out", out, ".png", replace=force)
    if html is not None:
        check_path("html", html, ".html", ".htm", replace=force)
    gpu = chip_of(chip)
    work = Workload(primitive, shape_of(primitive, shape), dtype, variant, activation, optimizer, mode)
    found = compared(work, backend, gpu, arch) if compare else [_profiled(work, backend or "cupy", gpu, arch)]
    if out is not None:
        from gpubp.profiler import profile_tables as report

        write_bytes(out, report.picture(found))
    if html is not None:
        write_bytes(html, page(found[0]).encode())
    if as_json:
        print(json.dumps({"profiles": [each.to_dict() for each in found]}, indent=2))
    else:
        _show(console, found, compare)


def compared(work: Workload, backend: str | None, gpu: Gpu | None, arch: str | None) -> list[Profile]:
    """Profile every variant of a primitive, on the given backend or on all that have kernels for it."""
    found = []
    for name in [backend] if backend else BACKENDS:
        if name == "numba" and work.tensor_cores and backend is None:
            continue  # it has no kernels for tensor cores
        for variant in _variants(work, target(gpu, arch)[0]):
            if name == "numba" and variant in plans.TENSOR_VARIANTS:
                continue  # likewise
            found.append(_profiled(replace(work, variant=variant), name, gpu, arch))
        if work.primitive == "hidden_delta" and work.mode is None:
            found.append(separate_halves(work, name, gpu, arch))
    return found


def _variants(work: Workload, gpu: Gpu) -> tuple[str | None, ...]:
    if not work.is_product:
        return (None,)
    return plans.variants_of(work.dtype, gpu.for_plans(), work.form) or (None,)  # which is refused, in words


def _profiled(work: Workload, backend: str, gpu: Gpu | None, arch: str | None) -> Profile:
    found = detection.probe(backend, "emulator")
    if not found.works:
        raise BackendError(f"profile needs the emulated device and its compilers: {found}")
    return profile(work, backend, gpu, arch)


def chip_of(chip: str | None) -> Gpu | None:
    """Return the GPU with this name, or in this file; None if `chip` is None."""
    if chip is None:
        return None
    return chips.read(chip) if chip.lower().endswith(".toml") else chips.get(chip)


def shape_of(primitive: str, shape: str | None) -> tuple[int, ...]:
    """Return the sides in a text such as "128x64x32"; None stands for `DEFAULT_SHAPES`.

    Raises:
        ArgumentError: the primitive is unknown, or the shape does not fit it.
    """
    if primitive not in costs.PRIMITIVES:
        raise unknown_name("primitive", primitive, costs.PRIMITIVES)
    if shape is None:
        return DEFAULT_SHAPES[costs.sides_of(primitive)]
    try:
        sides = tuple(int(side) for side in shape.lower().replace("×", "x").split("x"))
    except ValueError:
        raise ArgumentError("shape", shape, "numbers with x between, such as 128x64x32") from None
    return costs.checked_shape(primitive, sides)


def _show(console: Console, found: list[Profile], compare: bool) -> None:
    from gpubp.profiler import profile_tables as report

    parts: list[Any] = report.comparison(found, console.width) if compare else report.tables(found[0], console.width)
    for part in parts:
        console.print(part)
