"""What the backends with kernels have in common: everything about a primitive but the launch itself.

`GpuBackend` has the arguments of each primitive checked, decides on plans, grids and working memory, and hands each
kernel to `_launch` as a `Launch`. A backend binds a launch to a function with its arguments, and runs functions that
are bound; beside that it has its arrays and streams, and little else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from gpubp.backends import plan_model, plans
from gpubp.backends.arguments import MOST_GATHERED, ArgumentChecker, Product
from gpubp.backends.base import Array
from gpubp.backends.instances import MapOf, Word
from gpubp.backends.memory import Workspace
from gpubp.backends.plans import Plan
from gpubp.backends.tuned import TunedProduct, digest, plans_digest
from gpubp.chips import MAX_GRID, WARP, Chip
from gpubp.distributed.nccl import DeviceSum
from gpubp.distributed.ranks import Ranks
from gpubp.dtypes import FLOAT32, FLOAT64, PLAIN, master_of
from gpubp.errors import ArgumentError, StateError
from gpubp.nn.activations import Activation, Identity, Softmax
from gpubp.nn.dropout import Dropout
from gpubp.nn.losses import Loss, SoftmaxCrossEntropy, SoftmaxFocalCrossEntropy
from gpubp.nn.optimizers import Optimizer
from gpubp.nn.precision import LossScaling

BLOCK = 256
"""Threads of a block in elementwise kernels."""
ROWS_A_BLOCK = 4
"""Rows that a block takes in kernels where a warp takes a row."""
REDUCTION = "Reduction"
"""In place of a plan, the rung that adds up the parts of a product."""

_RESULTS = {
    "dense_forward": (4, 3),
    "hidden_delta": (3,),
    "transpose_product": (2,),
    "weight_gradient": (2,),
    "layer_gradient": (2,),
    "general_product": (2,),
    "weight_step": (3,),
    "layer_step": (3,),
}
"""Where the results are among the arrays of a product's kernel, in the order of its epilogue."""

Bound = Callable[[], Any]
"""A launch with all that it needs."""

Block = tuple[int, ...]
"""Sides of a grid, in blocks, or of a block, in threads."""


class Launch(NamedTuple):
    """One launch of a kernel; the same for kernels in CUDA C++ and in Python.

    Attributes:
        kernel: the kernel's name.
        template: what an instance of the kernel is made for: dtypes, functions (activation, loss, optimiser), numbers
            of threads, names, and last the plan of a product, or `REDUCTION`.
        arrays: what the kernel reads and then what it writes; None for an array that this launch does without.
        sizes: whole numbers that kernels in CUDA C++ take after the arrays. Kernels in Python have them from the
            arrays' shapes, or do without.
        numbers: what kernels in either language take after that. Kernels in CUDA C++ take the parameters of the
            template's functions last.
        grid: sides of the grid, in blocks.
        block: sides of a block, in threads.
        shared_bytes: shared memory of a block that is asked for at the launch.
        working: working memory of a plan that asks for it (stream-K), which the kernel takes after everything else.
        boxes: for each of the first arrays the box in which the copy engine moves it: the kernel takes a tensor map in
            its place.
        stored: results that the copy engine stores: the kernel takes a tensor map of each, last of all.
    """

    kernel: str
    template: tuple[Any, ...]
    arrays: tuple[Array | None, ...]
    sizes: tuple[int, ...] = ()
    numbers: tuple[float | np.generic, ...] = ()
    grid: Block = (1,)
    block: Block = (BLOCK,)
    shared_bytes: int = 0
    working: tuple[Array, ...] = ()
    boxes: tuple[plans.Box, ...] = ()
    stored: tuple[Array, ...] = ()


class Columns(NamedTuple):
    """Sums of the columns of δ: by the only kernel of a launch, or beside the product of one.

    Attributes:
        arrays: δ, what the sums go to, room for their parts, and counts of arrivals.
        sizes: the rows, and how many of them a part has.
        warps: each of which sums up 32 columns of a part.
    """

    arrays: tuple[Array, ...]
    sizes: tuple[int, int]
    warps: int

    def beside(self, launch: Launch) -> Launch:
        """Return the launch of a product with further layers of its grid for the sums: see kernels/cuda/beside.cuh.

        Raises ArgumentError for a plan whose blocks are no whole warps.
        """
        width, height = (*launch.grid, 1)[:2]
        threads = math.prod(launch.block)
        if threads % WARP:
            raise ArgumentError("plan.threads", threads, f"a multiple of {WARP} for a product with a bias beside it")
        needed = blocks(self.warps, threads // WARP)
        return launch._replace(
            arrays=(*launch.arrays, *self.arrays),
            sizes=(*launch.sizes, *self.sizes),
            grid=(width, height, 1 + blocks(needed, width * height)),
        )


class Execution(NamedTuple):
    """How a product of some shape is computed: its plan, the parts of its depth, grid, block and shared memory."""

    plan: Plan
    parts: int
    grid: Block
    block: Block
    shared_bytes: int


class GpuBackend:
    """See `gpubp.backends.base.Backend`.

    Attributes:
        chip: what plans are made for.
        variant: a rung of the ladder (`gpubp.backends.plans.VARIANTS`) that every product takes; None: `tensorcore`
            if it multiplies 16-bit numbers or TF32, else `pipelined`. Products whose rows do not start on 16-byte
            boundaries, those of TF32 in the forms NN and TN, and those with a side of 2³¹ or about as many take
            `tensorcore` in place of `wgmma`.
        stream_k: blocks of the grid of every product whose plan is left to the rule; 0: as the rule says.
        widest: the most bytes that a thread loads or stores at once; 0: one element.
        tuned: plans by product, which are taken where the caller names none, nor a variant.
        largest_tiles: True to take the largest tile that a shape allows where the caller names no plan: for checks.
    """

    variants: tuple[str, ...] = plans.VARIANTS
    rows_at_once = 4096
    widest = 16

    def __init__(self, device: str, chip: Chip, check: ArgumentChecker) -> None:
        self.device = device
        self.chip = chip
        self.variant: str | None = None
        self.tuned: Mapping[TunedProduct, Plan] = {}
        self.largest_tiles = False
        self.stream_k = 0
        self._check = check
        self._workspace, self._beside = (
            Workspace(lambda nbytes: self.empty((nbytes,), "uint8"), lambda count: self.zeros((count,), "uint32"))
            for _ in range(2)
        )
        # the second is that of sums of columns, which run beside a product with working memory of its own
        self._releases = 0
        self._noted: list[Bound] | None = None
        self._sums: dict[Ranks, DeviceSum] = {}

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        raise NotImplementedError

    def zeros(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        raise NotImplementedError

    def release_workspace(self) -> None:
        """Let go of the working memory: the next primitive makes what it needs, and no more. What was recorded is
        recorded anew: it would go on with memory that is no longer known, nor put right after a failed launch."""
        self._releases += 1
        self._workspace.release()
        self._beside.release()

    def counts_arrivals(self) -> bool:
        """True if a count of arrivals is not zero, as all must be between launches. Waits for the device."""
        counters = (space.held[1] for space in (self._workspace, self._beside))
        return any(each is not None and bool(self.asnumpy(each).any()) for each in counters)

    def asnumpy(self, x: Array) -> np.ndarray:
        raise NotImplementedError

    def upload(self, host: np.ndarray, out: Array) -> None:
        raise NotImplementedError

    def _launch(self, launch: Launch) -> None:
        """Launch a kernel on the backend's stream; its arguments are right."""
        self._do(self._bound(launch))

    def _do(self, bound: Bound) -> None:
        if self._noted is not None:
            self._noted.append(bound)
        self._run_whole((bound,))

    def _bound(self, launch: Launch) -> Bound:
        """Return what makes a launch, as often as it is called."""
        raise NotImplementedError

    def _run(self, launches: Iterable[Bound]) -> None:
        """Make launches on the backend's stream."""
        raise NotImplementedError

    def _run_whole(self, launches: Iterable[Bound]) -> None:
        """Make launches on the backend's stream, and count from 0 again after one that has failed."""
        try:
            self._run(launches)
        except BaseException:
            self._end_arrivals(self._workspace.all_counters, self._beside.all_counters)
            raise

    def _end_arrivals(self, *counters: Iterable[Array]) -> None:
        """Make all counts of arrivals 0. The emulated device ends a kernel in its middle: by a Ctrl-C, or by an error
        that is found."""
        with suppress(Exception):  # of a device that can do nothing more: what it failed of is told
            for each in chain(*counters):
                self.upload(np.zeros(each.shape, "uint32"), each)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Backend.record`."""
        launches, decided_by = self._run_noted(work), self.decided_by

        def again() -> None:
            nonlocal launches, decided_by
            if self.decided_by == decided_by:
                self._run_whole(launches)
            else:
                launches, decided_by = self._run_noted(work), self.decided_by

        return again

    def _run_noted(self, work: Callable[[], None]) -> list[Bound]:
        """Run `work`, and return the launches that it makes."""
        noted = self._noted = []
        try:
            work()
        finally:
            self._noted = None
        return noted

    @property
    def _stream_handle(self) -> int:
        """The handle of the backend's stream."""
        raise NotImplementedError

    @property
    def decided_by(self) -> tuple[Any, ...]:
        """See `Backend.decided_by`."""
        return self.variant, self.stream_k, self.widest, self.largest_tiles, self.tuned, self._releases

    def _refuse_mixed(self, argument: str, value: Any) -> None:
        """Raise ArgumentError if the backend has no mixed precision and `value` is something that only this needs."""

    @property
    def provenance(self) -> dict[str, str | int]:
        """See `Backend.provenance`: the chip, the table that plans are chosen from, the plans that were measured."""
        found = {**asdict(self.chip), "plan_table": plans_digest()}
        return found | {"tuned_products": len(self.tuned), "tuned_plans": digest(self.tuned)} if self.tuned else found

    # --- arrays -----------------------------------------------------------------------------------------------------
    def cast(self, source: Array, out: Array) -> None:
        size = self._check.cast(source, out)
        if size:
            self._each(size, "cast", (source.dtype, out.dtype), (source, out))

    def gather_rows(self, sources: Sequence[Array], order: Array, control: Array, out: Sequence[Array]) -> None:
        rows = self._check.gather_rows(order, control, len(sources), *sources, *out)
        if not rows:
            return
        row_bytes = [x.nbytes // rows for x in out]
        words = [self._word(nbytes, *pair) for nbytes, *pair in zip(row_bytes, sources, out, strict=True)]
        of_row = [nbytes // word.nbytes for nbytes, word in zip(row_bytes, words, strict=True)]
        absent = MOST_GATHERED - len(sources)
        arrays = (*sources, *[None] * absent, order, control, *out, *[None] * absent)
        sizes = (rows, *of_row, *[0] * absent)
        self._launch(Launch("gather_rows", tuple(words), arrays, sizes, grid=(blocks(rows * sum(of_row)),)))

    def scale(self, x: Array, factor: float) -> None:
        size = self._check.scale(x)
        if size:
            self._each(size, "scale", (x.dtype,), (x,), (master_of(x.dtype).type(factor),))

    def row_argmax(self, x: Array, out: Array) -> None:
        self._by_rows(self._check.row_argmax(x, out), "row_argmax", (x.dtype,), (x, out))

    # --- forward ----------------------------------------------------------------------------------------------------
    def dense_forward(
        self,
        a_prev: Array,
        w: Array,
        b: Array | None,
        activation: Activation,
        z: Array | None,
        a: Array,
        tf32: bool = False,
        alpha: float = 1.0,
        dropout: Dropout | None = None,
        control: Array | None = None,
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.dense_forward`. plan: overrides the one that is chosen."""
        if dropout is None:
            control = None
        found = self._check.dense_forward(a_prev, w, b, z, a, dropout is not None, control)
        _require_elementwise(activation)
        arrays = (a_prev, w, b, z, a)
        if dropout is None and alpha == 1:
            self._product("dense_forward", "NT", found, (activation,), arrays, tf32, plan)
        else:
            numbers = _dropout_numbers(alpha, dropout, a_prev.dtype)
            self._product("dense_forward_dropout", "NT", found, (activation,), (*arrays, control), tf32, plan, numbers)

    def softmax(self, z: Array, a: Array) -> None:
        self._by_rows(self._check.softmax(z, a), "softmax", (z.dtype, a.dtype), (z, a))

    # --- backward ---------------------------------------------------------------------------------------------------
    def output_delta(
        self,
        loss: Loss,
        activation: Activation,
        output: Array,
        saved: Array,
        y: Array,
        weights: Array | None,
        control: Array | None,
        losses: Array,
        delta: Array,
        divisor: float | None = None,
    ) -> None:
        labels = loss.takes_labels and len(y.shape) == 1
        shape = self._check.output_delta(output, saved, y, labels, weights, control, losses, delta)
        if weights is None:
            self._refuse_mixed("control", control)
        rows, width = shape
        dtype, master = output.dtype, master_of(output.dtype)
        # with weights, control[LOSS_FACTOR] stands in place of `scale`
        weighing, scale = "Unweighted" if weights is None else "Weighted", 1 / (divisor or loss.divisor(rows))
        by_rows = isinstance(activation, Softmax)
        count = rows if by_rows else plans.sum_blocks(rows * width)
        parts = self._workspace.take((count,), FLOAT64)
        # `parts`: the loss of each row, or of what each block takes
        others = (weights, control, delta, parts, self._workspace.counters(1), losses)
        if isinstance(loss, SoftmaxCrossEntropy | SoftmaxFocalCrossEntropy):
            smoothed = isinstance(loss, SoftmaxCrossEntropy) and loss.label_smoothing > 0
            target = ("Smoothed" if smoothed else "") + ("Labels" if labels else "Probabilities")
            numbers = (scale, master.type(loss.parameter))
            kernel, template = f"output_delta_{loss.name}", (dtype, target, y.dtype, weighing)
            self._by_rows(shape, kernel, template, (output, y, *others), numbers)
        elif by_rows:
            self._by_rows(shape, "output_delta_softmax", (dtype, loss, weighing), (output, y, *others), (scale,))
        else:
            # a loss from logits has σ' in its derivative
            functions = loss, Identity() if loss.from_logits else activation
            arrays, kernel, block = (output, saved, y, *others), "output_delta_elementwise", (plans.SUM_THREADS,)
            self._launch(Launch(kernel, (dtype, *functions, weighing), arrays, shape, (scale,), (count,), block))

    def hidden_delta(
        self,
        delta_next: Array,
        w_next: Array,
        activation: Activation,
        saved: Array,
        delta: Array,
        tf32: bool = False,
        dropout: Dropout | None = None,
        control: Array | None = None,
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.hidden_delta`. plan: overrides the one that is chosen."""
        if dropout is None:
            control = None
        found = self._check.hidden_delta(delta_next, w_next, saved, delta, dropout is not None, control)
        _require_elementwise(activation)
        arrays = (delta_next, w_next, saved, delta)
        if dropout is None:
            self._product("hidden_delta", "NN", found, (activation,), arrays, tf32, plan)
        else:
            numbers = _dropout_numbers(dropout.factor, dropout, delta_next.dtype)
            self._product("hidden_delta_dropout", "NN", found, (activation,), (*arrays, control), tf32, plan, numbers)

    def transpose_product(
        self, delta_next: Array, w_next: Array, product: Array, tf32: bool = False, plan: Plan | None = None
    ) -> None:
        """See `Backend.transpose_product`. plan: overrides the one that is chosen."""
        found = self._check.transpose_product(delta_next, w_next, product)
        self._product("transpose_product", "NN", found, (), (delta_next, w_next, product), tf32, plan)

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        size = self._check.hadamard_derivative(product, saved, delta)
        _require_elementwise(activation)
        arrays = (product, saved, delta)
        self._each(size, "hadamard_derivative", (product.dtype, activation), arrays, at_once=self._at_once(product))

    def weight_gradient(
        self,
        delta: Array,
        a_prev: Array,
        gradient: Array,
        tf32: bool = False,
        alpha: float = 1.0,
        accumulate: bool = False,
        bias_gradient: Array | None = None,
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.weight_gradient`. plan: overrides the one that is chosen."""
        found = self._check.weight_gradient(delta, a_prev, gradient, bias_gradient)
        arrays = (delta, a_prev, gradient)
        factors = (gradient.dtype.type(alpha), gradient.dtype.type(accumulate))
        if bias_gradient is not None:
            columns = self._columns(delta, bias_gradient)
            self._product("layer_gradient", "TN", found, (), arrays, tf32, plan, factors, columns)
        elif alpha == 1 and not accumulate:
            self._product("weight_gradient", "TN", found, (), arrays, tf32, plan)
        else:
            self._product("general_product", "TN", found, ("TN",), arrays, tf32, plan, factors)

    def bias_gradient(self, delta: Array, gradient: Array, accumulate: bool = False) -> None:
        self._check.bias_gradient(delta, gradient)
        columns = self._columns(delta, gradient)
        grid, beta = (blocks(columns.warps, BLOCK // WARP),), gradient.dtype.type(accumulate)
        rows, rows_a_part = columns.sizes
        sizes = rows, delta.shape[1], rows_a_part
        self._launch(Launch("bias_gradient", (delta.dtype,), columns.arrays, sizes, (beta,), grid))

    def _columns(self, delta: Array, out: Array) -> Columns:
        """Return how the sums of δ's columns are computed, which go to `out`."""
        rows, width = delta.shape
        rows_a_part = plans.column_sum_rows(rows)
        groups, count = blocks(width, WARP), blocks(rows, rows_a_part)
        parts = self._beside.take((count, width), out.dtype)
        return Columns((delta, out, parts, self._beside.counters(groups)), (rows, rows_a_part), groups * count)

    def all_reduce(self, x: Array, ranks: Ranks) -> None:
        """See `Backend.all_reduce`; all ranks make NCCL's communicator at its first call."""
        self._check.array("x", x, x.shape, master_of(x.dtype))
        if ranks not in self._sums:
            self._sums[ranks] = DeviceSum(ranks, self.device)
        address, dtype = self._check.address(x), np.dtype(x.dtype)
        self._do(partial(self._sums[ranks].add_up, address, x.size, dtype, self._stream_handle))

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(
        self,
        delta: Array,
        a_prev: Array,
        control: Array,
        w: Array,
        tf32: bool = False,
        b: Array | None = None,
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.weight_step`. plan: overrides the one that is chosen."""
        found = self._check.weight_step(delta, a_prev, control, w, b)
        arrays = (delta, a_prev, control, w)
        if b is None:
            self._product("weight_step", "TN", found, (), arrays, tf32, plan)
        else:
            columns = self._columns(delta, b)
            self._product("layer_step", "TN", found, (), arrays, tf32, plan, columns=columns)

    def prepare_update(
        self, gradients: Array, max_norm: float | None, control: Array, loss_scaling: LossScaling | None = None
    ) -> None:
        size = self._check.prepare_update(gradients, control)
        interval = 0 if loss_scaling is None else loss_scaling.growth_interval
        self._refuse_mixed("loss_scaling", interval or None)
        limit = float("inf") if max_norm is None else float(max_norm)
        count = plans.sum_blocks(size)
        arrays = (gradients, control, self._workspace.take((count,), FLOAT64), self._workspace.counters(1))
        sizes, grid, block = (size, interval), (count,), (plans.SUM_THREADS,)
        self._launch(Launch("prepare_update", (gradients.dtype,), arrays, sizes, (limit,), grid, block))

    def update(
        self,
        optimizer: Optimizer,
        gradients: Array,
        decayed: int,
        control: Array,
        state: Sequence[Array],
        parameters: Array,
        stored: Array | None = None,
    ) -> None:
        size = self._check.update(optimizer, gradients, decayed, control, parameters, stored, *state)
        self._refuse_mixed("stored", stored)
        dtype = parameters.dtype
        in_gradient, apart = optimizer.in_gradient, optimizer.apart
        penalties = "L1AndL2" if optimizer.l1 or optimizer.l2 else "WeightDecay"
        template = (dtype, optimizer, penalties, *(() if stored is None else (stored.dtype,)))
        first, second = (*state, None, None)[:2]
        arrays = (gradients, parameters, first, second, control, stored)
        clip_value = dtype.type(float("inf") if optimizer.clip_value is None else optimizer.clip_value)
        factors = (float(x) for x in (*in_gradient, *apart))
        numbers = (int(decayed), *factors, clip_value)
        self._each(size, "update", template, arrays, numbers, at_once=self._at_once(parameters))

    # --- products ---------------------------------------------------------------------------------------------------
    def product(
        self,
        form: str,
        a: Array,
        b: Array,
        c: Array,
        alpha: float = 1.0,
        beta: float = 0.0,
        tf32: bool = False,
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.product`. plan: overrides the one that is chosen."""
        found = self._check.product(form, a, b, c)
        factors = (c.dtype.type(alpha), c.dtype.type(beta))
        self._product("general_product", form, found, (form,), (a, b, c), tf32, plan, factors)

    def _product(
        self,
        kernel: str,
        form: str,
        found: Product,
        functions: tuple[Any, ...],
        arrays: tuple[Array | None, ...],
        tf32: bool,
        plan: Plan | None,
        numbers: tuple[float | np.generic, ...] = (),
        columns: Columns | None = None,
    ) -> None:
        """Compute a product by its plan: in one launch, or in parts of the depth that a second one adds up.

        functions: template arguments between dtype and plan. arrays: A, B, and those of the epilogue. numbers: the
        epilogue's. columns: what the launch that ends the product adds up beside it.
        """
        m, n, k, _, dtype = found
        plan, parts, grid, block, shared = self.execution(found, form, tf32, plan)
        template, boxes = (dtype, *functions), plan.boxes(form)
        if parts == 1:
            sizes, depth = _sizes(kernel, m, n, k)
            numbers = (*depth, *numbers)
            working = self._stream_memory(plan, grid[0], master_of(dtype)) if plan.stream_k else ()
            stored = self._stored(kernel, arrays) if plan.variant == "wgmma" else ()
            template = (*template, plan, *(MapOf(x.dtype) for x in stored))
            last = Launch(kernel, template, arrays, sizes, numbers, grid, block, shared, working, boxes, stored)
            self._launch(last if columns is None else columns.beside(last))
            return
        sums = self._workspace.take((parts, m, n), master_of(dtype))
        operands, lengths = (*arrays[:2], sums), (k, plan.part(k))
        partial = (dtype, form, plan)
        grid = *grid, parts
        self._launch(Launch("partial_product", partial, operands, (m, n), lengths, grid, block, shared, boxes=boxes))
        sizes, depth = _sizes(kernel, m, n, parts)
        arrays = (sums, None, *arrays[2:])
        grid, block = (blocks(m * n, plans.REDUCE_BLOCK),), (plans.REDUCE_THREADS,)
        last = Launch(kernel, (*template, REDUCTION), arrays, sizes, (*depth, *numbers), grid, block)
        self._launch(last if columns is None else columns.beside(last))

    def _stored(self, kernel: str, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        """Return the results that the copy engine stores: all, or none if a row of one is off a 16-byte boundary."""
        places = _RESULTS[kernel.removesuffix("_dropout")]
        results = tuple(x for x in (arrays[place] for place in places) if x is not None)
        aligned = all((x.shape[1] * x.dtype.itemsize | self._check.address(x)) % 16 == 0 for x in results)
        return results if aligned else ()

    def _stream_memory(self, plan: Plan, blocks: int, dtype: np.dtype) -> tuple[Array, Array]:
        """Return room for two tiles of each block, and a count of arrivals at the tile that it begins."""
        parts = self._workspace.take((2 * blocks, plan.tile_m * plan.tile_n), dtype)
        return parts, self._workspace.counters(blocks)

    def execution(self, found: Product, form: str, tf32: bool, plan: Plan | None) -> Execution:
        """Return how a product is computed.

        Args:
            found: the product's sides, as the check of its arguments found them.
            form: how its operands lie in memory, of `plans.FORMS`.
            tf32: whether float32 operands are rounded to TF32.
            plan: the caller's; None: the one that was measured to be best on this GPU, or that of the least modelled
                time.
        """
        if plan is None and self.tuned and self.variant is None:
            operands = "tf32" if tf32 else str(found.dtype)
            plan = self.tuned.get(TunedProduct(found.m, found.n, found.k, operands, form, found.alignment))
        decided = execution_of(found, form, tf32, plan, self.variant, self.chip, self.largest_tiles)
        if self.stream_k and plan is None:
            return executed(replace(decided.plan, split_k=1, stream_k=self.stream_k), found.m, found.n, found.k)
        return decided

    # --- launches ---------------------------------------------------------------------------------------------------
    def _each(
        self,
        size: int,
        kernel: str,
        template: tuple[Any, ...],
        arrays: tuple[Array | None, ...],
        numbers: tuple[Any, ...] = (),
        at_once: int = 1,
    ) -> None:
        """Launch an elementwise kernel over `size` elements, in which a thread takes `at_once` of them."""
        self._launch(Launch(kernel, template, arrays, (size,), numbers, (blocks(size, BLOCK * at_once),)))

    def _by_rows(
        self,
        shape: tuple[int, int],
        kernel: str,
        template: tuple[Any, ...],
        arrays: tuple[Array | None, ...],
        numbers: tuple[Any, ...] = (),
    ) -> None:
        """Launch a kernel in which a team of threads, its last template argument, takes a row of a matrix."""
        rows, width = shape
        team = plans.row_team(width)
        teams = ROWS_A_BLOCK if team == WARP else 1
        grid, block = (blocks(rows, teams),), (team, teams)
        self._launch(Launch(kernel, (*template, team), arrays, shape, numbers, grid, block))

    def _at_once(self, x: Array) -> int:
        """Return the elements of x that a thread takes in kernels that load `widest` bytes at once."""
        return max(1, self.widest // x.dtype.itemsize)

    def _word(self, row_bytes: int, *arrays: Array) -> Word:
        """Return the widest word that rows of this many bytes are made of, and that all arrays are aligned for."""
        dtype = arrays[0].dtype
        nbytes = self.widest or dtype.itemsize
        while row_bytes % nbytes or any(self._check.address(x) % nbytes for x in arrays):
            nbytes //= 2
        if self.widest and nbytes < 2:
            raise StateError("dtype", f"makes rows of {row_bytes} bytes", "make rows of 2 bytes or more")
        return Word(nbytes, dtype)


@lru_cache(maxsize=4096)
def execution_of(
    found: Product,
    form: str,
    tf32: bool,
    plan: Plan | None,
    variant: str | None,
    chip: Chip,
    largest: bool = False,
    stream: bool = True,
) -> Execution:
    """Return how a product is computed: by the caller's plan, held against the chip and the arrays, or by the one that
    `plan_model.choose` takes for the variant, which may be stream-K or not.

    Raises:
        ArgumentError: TF32 of anything but float32, or a plan or a variant that does not fit the operands, the form or
            the chip.
    """
    m, n, k, alignment, dtype = found
    if tf32 and dtype != FLOAT32:
        raise ArgumentError("tf32", tf32, f"False with arrays of {dtype}: TF32 is what float32 is rounded to")
    operands = "tf32" if tf32 else str(dtype)
    if plan is None:
        chosen, *others = variants_for(operands, variant, chip, alignment, form, max(m, n, k))
        if largest:
            decided = plans.largest(m, n, operands, chip, chosen, alignment)
        else:
            decided = plan_model.choose(m, n, k, operands, chip, chosen, alignment, form, stream, tuple(others))
    elif plan.dtype != operands:
        raise ArgumentError("plan.dtype", plan.dtype, f"{operands}, which is what is multiplied")
    else:
        plans.require_form("plan.variant", plan.variant, plan.dtype, form)
        decided = plan.for_alignment(alignment).on(chip)
    return executed(decided, m, n, k)


def variants_for(
    operands: str, variant: str | None, chip: Chip, alignment: int, form: str, longest: int
) -> tuple[str, ...]:
    """Return the variants to choose from: the one that is asked for, or the usual ones. Where rows do not start on
    16-byte boundaries, a side is too long for `wgmma`, or it does not have the form, `tensorcore` stands for it.

    Raises:
        ArgumentError: a variant that does not multiply these operands, or that the chip does not have.
    """
    able = plans.variants_of(operands)
    known = [name for name in able if name in plans.TENSOR_VARIANTS]
    if operands not in PLAIN and variant is not None and variant not in known:
        raise ArgumentError("variant", variant, f"{' or '.join(map(repr, known))}, or None, to multiply in {operands}")
    if variant in plans.TENSOR_VARIANTS and variant not in known:
        hint = "tensor cores would round it to TF32 (tf32=True, a network's precision='tf32')" if not known else ""
        raise ArgumentError("variant", variant, f"another one to multiply in {operands}", hint)
    if operands in PLAIN:
        usual = [name for name in ("pipelined", "tensorcore") if name in plans.variants_of(operands, chip)]
        return (variant,) if variant is not None else tuple(usual)
    if variant == "wgmma":
        plans.require_wgmma(chip)
    mapped = alignment % 16 == 0 and longest <= plans.LONGEST_MAPPED
    if not mapped or not chip.has_wgmma or "wgmma" not in plans.variants_of(operands, chip, form):
        known = ["tensorcore"]
    return tuple(known) if variant is None or variant not in known else (variant,)


def executed(plan: Plan, m: int, n: int, k: int) -> Execution:
    """Return how a product of this shape is computed by this plan."""
    shared = plan.shared_bytes if plan.variant in plans.TENSOR_VARIANTS else 0
    return Execution(plan, plan.parts(k), plan.grid(m, n, k), plan.block, shared)


def _sizes(kernel: str, m: int, n: int, k: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return sizes and numbers of a product: the general one's depth is a number, as no kernel has it from a shape."""
    return ((m, n), (k,)) if kernel == "general_product" else ((m, n, k), ())


def _dropout_numbers(alpha: float, dropout: Dropout | None, dtype: np.dtype) -> tuple[np.generic, ...]:
    """Return what kernels with dropout take: the factor of the sum, and what the mask is drawn from. A threshold of 0
    keeps every unit, and nothing is drawn."""
    factor = master_of(dtype).type(alpha)
    if dropout is None:
        return (factor, *map(np.uint32, (0, 0, 0, 0)), np.int64(0))
    words = (dropout.threshold, *dropout.key, dropout.layer)
    return (factor, *map(np.uint32, words), np.int64(dropout.first_row))


def blocks(items: int, threads: int = BLOCK) -> int:
    """Return how many blocks give every item a thread."""
    return -(-items // threads)


def check_grid(launch: Launch) -> None:
    """Raise ArgumentError for a grid that no GPU takes."""
    if any(side > MAX_GRID[1] for side in launch.grid[1:]):
        raise ArgumentError("grid", launch.grid, f"≤ {MAX_GRID[1]} in its second side, for {launch.kernel}")


def optimizer_numbers(optimizer: Optimizer) -> tuple[float, float, float]:
    """Return the optimiser's own numbers as the kernels take them: two factors, and ε."""
    names: dict[str, tuple[str, ...]] = {"momentum": ("momentum",), "nesterov": ("momentum",), "rmsprop": ("decay",)}
    names |= dict.fromkeys(("adam", "adamw"), ("beta1", "beta2"))
    values = [float(getattr(optimizer, name)) for name in names.get(optimizer.name, ())]
    first, second = (*values, 0.0, 0.0)[:2]
    return first, second, float(getattr(optimizer, "epsilon", 0.0))


def _require_elementwise(activation: Activation) -> None:
    if isinstance(activation, Softmax):
        raise ArgumentError("activation", activation.name, "elementwise; softmax has a method of its own")
