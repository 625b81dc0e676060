"""What `gpubp explain kernel` and `gpubp check --explain` do: run a kernel under a trace, tell it, write its page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gpubp import backends
from gpubp.backends import detection
from gpubp.backends.plans import TENSOR_VARIANTS
from gpubp.costs import PRODUCTS
from gpubp.crosscheck.cases import Case, measured, require_arch
from gpubp.crosscheck.check_command import shape_of
from gpubp.crosscheck.summary import CrossCheck
from gpubp.dtypes import PLAIN
from gpubp.errors import ArgumentError, BackendError, StateError, unknown_name
from gpubp.explain.catalogue import Catalogue, catalogue
from gpubp.explain.kernel_page import kernel_page
from gpubp.explain.kernel_run import Explanation, Index, explain_case, require_followed
from gpubp.explain.kernel_steps import Shown, shown_steps
from gpubp.explain.ladder import rungs
from gpubp.files import check_path, write_bytes
from gpubp.profiler.launches import BACKENDS
from gpubp.profiler.workloads import Workload
from gpubp.registry import require_count

if TYPE_CHECKING:
    from rich.console import Console

USUAL_SHAPES = {3: (8, 6, 10), 2: (8, 6), 1: (48,)}
"""By the number of sides; small enough to be drawn whole."""

MOST_ELEMENTS = 2**20
"""Multiply-adds of a product, or elements, up to which a kernel is traced: more could not be drawn anyway."""


def run(
    console: Console,
    *,
    primitive: str,
    variant: str | None,
    shape: str | None,
    backend: str,
    dtype: str,
    activation: str,
    mode: str | None,
    arch: str | None,
    block: str | None,
    warp: int | None,
    language: str,
    out: Path | None,
    force: bool,
    command: str,
) -> bool:
    """Show a primitive's kernel at work, as on the command line, and write its page.

    Returns:
        False if something is wrong.

    Raises:
        ArgumentError: an argument is wrong.
        BackendError: a compiler is missing.
    """
    texts = catalogue(language)
    if out is not None:
        check_path("out", out, ".html", ".htm", replace=force)
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if warp is not None:
        require_count("warp", warp, least=0, most=31)
    index = _index(block)
    case = _case(primitive, variant, shape, backend, dtype, activation, mode, arch)
    require_emulator(backend)
    found = explain_case(case, backend, index, warp)
    require_followed(found, "block", index, None if found.troubles else warp)
    if out is None:
        for line in lines(found, texts):
            console.print(line, soft_wrap=True)
    else:
        by_threads = case.dtype in PLAIN and variant not in TENSOR_VARIANTS
        ladder = rungs(case, backend) if primitive in PRODUCTS and by_threads and not found.troubles else ()
        write_bytes(out, kernel_page(found, texts, command, ladder).encode())
    _conclude(console, found, texts, out)
    return not found.troubles


def _case(
    primitive: str,
    variant: str | None,
    shape: str | None,
    backend: str,
    dtype: str,
    activation: str,
    mode: str | None,
    arch: str | None,
) -> Case:
    """Return the case of the cross-check that is shown."""
    sides = shape_of(shape)
    if sides is None:
        sides = USUAL_SHAPES[3 if primitive in PRODUCTS else 1 if primitive == "update" else 2]
    size = 1
    for side in sides:
        size *= side
    if size > MOST_ELEMENTS:
        raise ArgumentError("shape", shape, f"of at most {MOST_ELEMENTS:,} in all, to be drawn: such as 8x6x10")
    work = Workload(primitive, sides, dtype, variant, activation, mode=mode)
    if backend == "numba" and work.tensor_cores:
        raise ArgumentError("dtype", dtype, "float32 or float64 on backend numba, which has no others")
    if arch is not None:
        require_arch("arch", arch)
    case = measured(primitive, sides, work.dtype, activation=activation, mode=mode)
    return replace(case, variant=variant or "-", arch=arch or "")


def _index(text: str | None) -> Index:
    """Return the index of a block in a text such as "1,0,0" or "1"."""
    words = (text or "0").split(",")
    if len(words) > 3 or not all(word.strip().isdecimal() and len(word) <= 9 for word in words):
        raise ArgumentError("block", text, "one to three whole numbers with commas between, such as 1,0")
    x, y, z = (*map(int, words), 0, 0)[:3]
    return x, y, z


def require_emulator(backend: str) -> None:
    """Raise BackendError if a backend's kernels cannot run on the emulated device here."""
    found = detection.probe(backend, "emulator")
    if not found.works:
        raise BackendError(f"explain needs the emulated device and its compilers: {found}")


# --- gpubp check --explain --------------------------------------------------------------------------------------------
def check_explained(path: Path, backend: str, device: str | None, force: bool) -> None:
    """Raise ArgumentError unless `explain_failure` could write its page of this backend's cases."""
    check_path("explain", path, ".html", ".htm", replace=force)
    name = backends.get(backend, device).name
    if name not in BACKENDS:
        raise StateError("--explain", "was given", f"be left out for backend {name!r}, which has no kernels")
    require_emulator(name)


def explain_failure(console: Console, result: CrossCheck, path: Path, command: str) -> None:
    """Write the page of the first failing case, and say so; of none if all have passed.

    The case is run on the emulated device, wherever it failed.
    """
    if not result.failures:
        console.print("nothing to explain: no case failed", soft_wrap=True)
        return
    outcome = result.failures[0]
    texts = catalogue("en")
    found = explain_case(outcome.case, result.backend, order=outcome.order)
    write_bytes(path, kernel_page(found, texts, command).encode())
    console.print(f"explained: {outcome.case.name}: {path}", soft_wrap=True)
    if not found.troubles:
        console.print("  on the emulated device, traced, nothing was wrong with it", soft_wrap=True)


# --- what the terminal shows ------------------------------------------------------------------------------------------
def lines(found: Explanation, texts: Catalogue) -> Iterator[str]:
    """Yield what the block did, step by step, as lines of text."""
    yield texts("kernel.title", kernel=found.title)
    for place, step in enumerate(shown_steps(found, texts), 1):
        where = ", ".join(f"{Path(file).name}:{line}" for file, line in step.lines) or texts("kernel.noline")
        yield ""
        yield f"{place}. {where}"
        yield f"   {sentence(step, texts)}"
        for one in step.touched:
            units = (
                ""
                if not one.units
                else f", {texts(f'kernel.{one.space}_units', units=one.units, least=one.least_units)}"
            )
            by = texts("kernel.by", threads=one.threads, times=one.instructions)
            yield f"   {texts(f'kernel.{one.kind}')} {one.name}{one.where}: {by}{units}"
    yield ""


def sentence(step: Shown, texts: Catalogue) -> str:
    """Return what the threads do in a step, in words."""
    said = texts(f"kernel.{step.kind}", count=step.count, threads=step.threads, instructions=step.instructions)
    return f"{said} {step.waits}".rstrip()


def _conclude(console: Console, found: Explanation, texts: Catalogue, out: Path | None) -> None:
    if found.troubles:
        console.print(texts("kernel.wrong_here"), soft_wrap=True)
        for each in found.troubles:
            console.print(f"  {each.message}", soft_wrap=True)
    else:
        console.print(texts("kernel.right" if found.compared else "kernel.unharmed"), soft_wrap=True)
    if out is not None:
        console.print(str(out), soft_wrap=True)
