"""What `gpubp tune` does: measure the plans of products on a GPU, keep the best, and show them beside the model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp import backends, chips, costs
from gpubp.backends import MEASURED, plan_model, plans, tuned
from gpubp.backends.gpu_backend import variants_for
from gpubp.backends.plans import FORMS, Plan
from gpubp.backends.tuned import TunedProduct
from gpubp.bench import works
from gpubp.bench.timing import Call, Runner, seconds_of_a_call
from gpubp.dtypes import ARITHMETIC, canonical, master_of
from gpubp.errors import ArgumentError, ConflictError
from gpubp.registry import require_count, require_number

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gpubp.backends.cupy_backend import CupyBackend

PRIMITIVES = {"NT": "dense_forward", "NN": "transpose_product", "TN": "weight_gradient"}
"""A primitive of each form, whose least bytes are those of the product."""
MOST_CANDIDATES = 100
MOST_SECONDS = 60.0

Clock = Callable[[Call], float]
"""Returns the seconds that a device takes for what a call launches."""


@dataclass(frozen=True)
class Measured:
    """One plan of a product.

    Attributes:
        predicted: seconds by the model; None where the GPU's figures are not in the table of chips.
        seconds: measured.
    """

    plan: Plan
    predicted: float | None
    seconds: float


@dataclass(frozen=True)
class Tuning:
    """The plans that were measured of a product, the best modelled one first."""

    product: TunedProduct
    measured: tuple[Measured, ...]

    @property
    def modelled(self) -> Measured:
        """Return what is taken without tuning."""
        return self.measured[0]

    @property
    def best(self) -> Measured:
        """Return the fastest; of equals the best modelled."""
        return min(self.measured, key=lambda each: each.seconds)


def run(
    console: Console,
    *,
    device: str | None = None,
    model: Path | None = None,
    shapes: Sequence[tuple[int, ...]] = (),
    dtypes: Sequence[str] = (),
    candidates: int = 8,
    seconds: float = 0.05,
    clock: Clock | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Tuning]:
    """Measure, keep the best plans, and show them.

    Args:
        console: where they are shown.
        device: "gpu", or "virtual"; None: "gpu".
        model: the folder of a run, whose network's products are measured.
        shapes: of products, (M, N, K), which are measured in all three forms. Without model and shapes it is the sweep
            of `gpubp bench` on a GPU.
        dtypes: what is multiplied; none: the run's, or float32.
        candidates: plans that are measured of each product.
        seconds: for which each plan is measured.
        clock: in place of the device's own.
        tell: is given a line before each product.

    Raises:
        ArgumentError: an argument is wrong, before anything is measured.
        BackendError: the backend cannot run.
        CheckpointError: the run cannot be read, or the plans cannot be written.
    """
    if model is not None and shapes:
        raise ConflictError("--shape", "--model", "the run has its own")
    require_count("candidates", candidates, most=MOST_CANDIDATES)
    require_number("seconds", seconds, above=0, most=MOST_SECONDS)
    device = device or MEASURED[0]
    if device not in MEASURED:
        raise ArgumentError("device", device, f"one of {', '.join(MEASURED)}: only a GPU's time is worth measuring")
    kinds = [canonical("dtype", each) for each in dtypes]
    wanted = list(dict.fromkeys(_wanted(model, shapes, kinds)))
    backend: Any = backends.get("cupy", device)
    for product in wanted:
        backend.for_precision(product.dtype)
    found = []
    for number, product in enumerate(wanted, start=1):
        tell(f"{product}: {number} of {len(wanted)}")
        found.append(measure(backend, product, candidates, seconds, clock or backend.elapsed))
    path = tuned.store(backend.conditions, {each.product: each.best.plan for each in found})
    console.print(table(found))
    gain = sum(each.modelled.seconds for each in found) / sum(each.best.seconds for each in found)
    console.print(f"all of them together: {gain:.2f} times as fast as by the plans of the model")
    if found[0].modelled.predicted is None:
        console.print(f"no times are predicted: {backend.conditions.gpu} is not in the table of chips")
    console.print(f"kept in {path}", soft_wrap=True)
    return found


# --- what is measured -------------------------------------------------------------------------------------------------
def _wanted(model: Path | None, shapes: Sequence[tuple[int, ...]], kinds: Sequence[str]) -> Iterator[TunedProduct]:
    if model is not None:
        sizes, rows, own = _network(model)
        for dtype in kinds or [own]:
            yield from products_of_network(sizes, rows, dtype)
        return
    for dtype in kinds or ["float32"]:
        if shapes:
            for shape in shapes:
                m, n, k = costs.checked_shape("dense_forward", shape)
                yield from (product_of(form, m, n, k, dtype) for form in FORMS)
            continue
        for work in works.choose(works.ON_GPU, dtypes=[dtype]):
            if isinstance(work, works.TrainingStep):
                yield from products_of_network(work.sizes, work.rows, dtype)


def product_of(form: str, m: int, n: int, k: int, dtype: str) -> TunedProduct:
    """Return a product of whole arrays, whose first row is aligned."""
    return TunedProduct(m, n, k, dtype, form, plans.row_alignment(form, m, n, k, ARITHMETIC[dtype].item_bytes))


def products_of_network(sizes: Sequence[int], rows: int, dtype: str) -> Iterator[TunedProduct]:
    """Yield the products of a training step: forward, deltas (none for the input) and weight gradients."""
    for layer, (m, n) in enumerate(itertools.pairwise(sizes)):
        yield product_of("NT", rows, n, m, dtype)
        if layer:
            yield product_of("NN", rows, m, n, dtype)
        yield product_of("TN", n, m, rows, dtype)


def _network(model: Path) -> tuple[list[int], int, str]:
    """Return the widths of a run's network, the examples of a batch, and what its products multiply."""
    from gpubp.training.folder import CONFIG_FILE
    from gpubp.training.model import Model
    from gpubp.training.settings import Settings

    network = Model.load(model, "numpy").network
    settings = Settings(**Settings.read(model / CONFIG_FILE))
    return (
        list(network.sizes),
        settings.batch_size,
        canonical("precision", network.precision_name or str(network.dtype)),
    )


# --- measuring --------------------------------------------------------------------------------------------------------
def measure(backend: CupyBackend, product: TunedProduct, most: int, seconds: float, clock: Clock) -> Tuning:
    """Return the times of a product's plans, of which the model puts `most` first."""
    kind, chip = ARITHMETIC[product.dtype], backend.chip
    rng = np.random.default_rng(0)
    m, n, k = product.m, product.n, product.k
    sides = {"NT": ((m, k), (n, k)), "NN": ((m, k), (k, n)), "TN": ((k, m), (k, n))}[product.form]
    a, b = (backend.asarray(rng.standard_normal(shape, np.float32), kind.storage) for shape in sides)
    c = backend.empty((m, n), master_of(kind.storage))
    variants = variants_for(product.dtype, None, chip, product.alignment, product.form, max(m, n, k))
    tiles = [
        each
        for variant in variants
        for each in plan_model.candidates(product.dtype, chip, variant, product.alignment, product.form)
    ]

    def call(plan: Plan) -> Call:
        return lambda: backend.product(product.form, a, b, c, tf32=product.dtype == "tf32", plan=plan)

    found = []
    for plan, estimate in plan_model.ranked(tiles, m, n, k, chip.multiprocessors)[:most]:
        one = call(plan)
        one()  # compiles
        measured = seconds_of_a_call(Runner([one], elapsed=clock), seconds)
        found.append(Measured(plan, predicted(product, estimate, backend.conditions.gpu), measured))
    return Tuning(product, tuple(found))


def predicted(product: TunedProduct, estimate: plan_model.Estimate, gpu: str) -> float | None:
    """Return the seconds of a product by the model: of the plan, but not less than its bytes take; None for a GPU that
    is not in the table of chips."""
    known = chips.of_device(gpu)
    if known is None:
        return None
    cost = costs.cost(PRIMITIVES[product.form], (product.m, product.n, product.k), product.dtype, bias=False)
    return max(estimate.clocks / known.boost_hz, cost.bytes / known.bandwidth)


# --- what is shown ----------------------------------------------------------------------------------------------------
def table(found: Sequence[Tuning]) -> Table:
    """Return the products, each with the plan of the model and the best one."""
    from rich.table import Table

    made = Table(title="Plans by the model, and the best measured", title_justify="left")
    for name in ("product", "by the model", "predicted", "measured", "best", "predicted", "measured", "times as fast"):
        made.add_column(name, justify="left" if name in ("product", "by the model", "best") else "right")
    for each in found:
        cells = [cell for one in (each.modelled, each.best) for cell in _cells(one)]
        made.add_row(str(each.product), *cells, f"{each.modelled.seconds / each.best.seconds:.2f}")
    return made


def _cells(measured: Measured) -> tuple[str, str, str]:
    plan = measured.plan
    piece = (plan.warp_m, plan.warp_n) if plan.variant == "tensorcore" else (plan.thread_m, plan.thread_n)
    by = f"wgmma, clusters of {plan.cluster}" if plan.variant == "wgmma" else f"{piece[0]}x{piece[1]}"
    name = f"{plan.tile_m}x{plan.tile_n} by {by}"
    return (
        name + (f", {plan.split_k} parts" if plan.split_k > 1 else ""),
        _us(measured.predicted),
        _us(measured.seconds),
    )


def _us(seconds: float | None) -> str:
    return "?" if seconds is None else f"{seconds * 1e6:,.1f} µs"
