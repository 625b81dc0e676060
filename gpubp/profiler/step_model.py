"""How long a training step takes on several GPUs that share the batch: a model, from published figures.

step = what one chip computes on its share of the batch + the all-reduce of the gradient, one after the other: gpubp
adds gradients up once a step, when the backward pass is done.

- On the chip: a product takes the clocks by which its plan is chosen (`gpubp.backends.plan_model`), or the time in
  which memory moves its operands if that is longer; every other primitive the time of its flops or of its bytes
  (`gpubp.costs`). One GPU alone folds plain SGD into the weight gradients; several do not.
- The all-reduce of S bytes by N GPUs is a ring: 2 (N − 1) steps, in each of which every GPU sends S / N bytes to the
  next one (Patarasuk & Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009):
  2 (N − 1) / N · S / bandwidth + 2 (N − 1) · latency + NCCL's base. All N use one kind of link; NCCL's corrections for
  some chips and networks are left out (README.md of this folder names them).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpubp.backends import plan_model
from gpubp.backends.gpu_backend import variants_for
from gpubp.bench.works import SCALINGS, SharedStep, TrainingStep
from gpubp.chips import Gpu, Link
from gpubp.costs import PRODUCTS, Cost
from gpubp.errors import StateError
from gpubp.nn.layout import Layout
from gpubp.profiler.profiles import require_units
from gpubp.profiler.workloads import Workload

MODEL = (
    "A model, not a measurement, from published figures of the chip and its links: products by the formulas that "
    "choose their plans, all else by the roofline, the all-reduce as a ring over one kind of link. The host, launches "
    "and waiting for another GPU are not in it, and nothing overlaps."
)

NCCL_BASE = 8.4e-6
"""Seconds that an all-reduce takes besides its ring's steps, by NCCL's own model of a ring with its Simple protocol
(table baseLat of its src/graph/tuning.cc, commit 01afd20a). For little data NCCL has quicker protocols."""


@dataclass(frozen=True)
class ModelledStep:
    """A step as some GPUs share it. A model.

    Attributes:
        kind: of `works.SCALINGS`.
        link: that joins them; None for one GPU.
        compute: seconds of the GPU with the largest share.
        all_reduce: seconds.
        base: seconds of the step of one GPU, on the batch that it has in this kind of scaling.
    """

    work: SharedStep
    kind: str
    link: Link | None
    compute: float
    all_reduce: float
    base: float

    @property
    def seconds(self) -> float:
        """Return the seconds of the step."""
        return self.compute + self.all_reduce

    @property
    def share(self) -> float:
        """Return the share of the all-reduce in them."""
        return self.all_reduce / self.seconds

    @property
    def speed_up(self) -> float:
        """Return the rows a second over those of one GPU."""
        return SCALINGS[self.kind](self.work.ranks) * self.base / self.seconds

    @property
    def efficiency(self) -> float:
        """Return the speed-up over the number of GPUs."""
        return self.speed_up / self.work.ranks

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        named = ("compute", "all_reduce", "seconds", "share", "speed_up", "efficiency")
        return {
            "scaling": self.kind,
            "gpus": self.work.ranks,
            "rows": self.work.step.rows,
            "rows_a_gpu": self.work.share.rows,
            "link": self.link and {"name": self.link.name, "source": self.link.source},
            **{name: getattr(self, name) for name in named},
        }


def modelled(step: TrainingStep, ranks: Sequence[int], gpu: Gpu) -> list[ModelledStep]:
    """Return the step of one GPU and of these numbers of them, by each link that joins as many; strong scaling first.

    Raises:
        ArgumentError: a number of ranks is wrong or above the step's rows, the GPU cannot compute in the step's dtype,
            or its links are not known.
    """
    require_units(step.dtype, gpu)
    if not gpu.links:
        raise StateError("chip", f"{gpu.key} names no links to other chips", 'name some, such as links = ["PCIe5"]')
    base = compute_seconds(step, gpu, alone=True)
    found = []
    for kind, times in SCALINGS.items():
        found.append(ModelledStep(SharedStep(step, 1), kind, None, base, 0.0, base))
        for count in sorted({*ranks} - {1}):
            work = SharedStep(replace(step, rows=step.rows * times(count)), count)
            compute = compute_seconds(work.share, gpu, alone=False)
            for link in gpu.links:
                if link.chips is None or count <= link.chips:
                    all_reduce = all_reduce_seconds(gradient_bytes(step), count, link)
                    found.append(ModelledStep(work, kind, link, compute, all_reduce, base))
    return found


def all_reduce_seconds(nbytes: int, ranks: int, link: Link) -> float:
    """Return the seconds in which a ring of `ranks` GPUs adds up arrays of `nbytes` bytes each; 0 for one GPU."""
    if ranks == 1:
        return 0.0
    steps = 2 * (ranks - 1)
    return steps / ranks * nbytes / link.bandwidth + steps * link.latency + NCCL_BASE


def gradient_bytes(step: TrainingStep) -> int:
    """Return the bytes of the flat gradient that is added up, of the master dtype, with the gaps between its parts."""
    return Layout.of(step.sizes, True, str(step.master)).size * step.master.itemsize


def compute_seconds(step: TrainingStep, gpu: Gpu, alone: bool) -> float:
    """Return the seconds that a GPU computes for a step.

    Args:
        alone: False for one of several GPUs, which add up their gradients before the update.
    """
    primitives = step.primitives(alone)
    each = zip(primitives, step.costs_of(primitives), strict=True)
    return sum(_seconds(Workload(name, shape, step.dtype), cost, gpu) for (name, shape), cost in each)


def _seconds(work: Workload, cost: Cost, gpu: Gpu) -> float:
    """Return the seconds of a primitive on a GPU."""
    if work.primitive not in PRODUCTS:
        return cost.least_seconds(gpu.roofline(cost.rate))
    chip = gpu.for_plans()
    variants = variants_for(work.dtype, None, chip, work.row_alignment, work.form, max(work.shape))
    found = [
        candidate
        for variant in variants
        for candidate in plan_model.candidates(work.dtype, chip, variant, work.row_alignment, work.form)
    ]
    m, n, k = work.shape
    _, estimate = plan_model.best(found, m, n, k, chip.multiprocessors)
    return max(estimate.clocks / gpu.boost_hz, cost.bytes / gpu.bandwidth)
