"""What the backends with kernels have in common: everything about a primitive but the launch itself.

`GpuBackend` checks the arguments of each primitive, decides on the plan and the sizes of the parts, takes working
memory, and then calls a hook, a method whose name begins with "_run_", in which a backend launches its own kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpubp.backends import plans
from gpubp.backends.base import Array, Control, Losses
from gpubp.backends.gpu import BLOCK, LAST_GRID_SIDE, ArgumentChecker, Workspace, blocks
from gpubp.backends.plans import Chip, Plan
from gpubp.errors import ArgumentError, StateError, unknown_name
from gpubp.nn.activations import Activation, Softmax
from gpubp.nn.losses import Loss, SoftmaxCrossEntropy
from gpubp.nn.optimizers import Optimizer
from gpubp.nn.precision import LossScaling, master_of, require_master

FORMS = ("NT", "NN", "TN")
"""The forms of a product: see kernels/cuda/forms.cuh or kernels/numba/forms.py."""

WARP = 32
ROWS_A_BLOCK = 4
"""Rows that a block takes in kernels where a warp takes a row."""

Block = tuple[int, ...]
"""Sides of a grid, in blocks, or of a block, in threads."""


@dataclass(frozen=True)
class ProductCall:
    """A product C = A B with what its epilogue makes of it.

    primitive: the method's name. form: "NT", "NN" or "TN". a, b: the operands. epilogue: the arrays that the epilogue
    reads and writes, in the order of the method's parameters; None for one that there is not. m, n, k: rows, columns
    and depth. activation: whose σ or σ' the epilogue applies. factors: α and β of the general product.
    """

    primitive: str
    form: str
    a: Array
    b: Array
    epilogue: tuple[Array | None, ...]
    m: int
    n: int
    k: int
    activation: Activation | None = None
    factors: tuple[np.floating, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """Of every matrix in it."""
        return self.a.dtype


class GpuBackend:
    """See `gpubp.backends.base.Backend`.

    Attributes:
        chip: what plans are made for.
        variant: a rung of the ladder (`gpubp.backends.plans.VARIANTS`) that every product takes; None:
            `tensorcore` where it multiplies 16-bit numbers or TF32, else `pipelined`.
    """

    variants: tuple[str, ...] = plans.VARIANTS

    def __init__(self, device: str, chip: Chip, check: ArgumentChecker) -> None:
        self.device = device
        self.chip = chip
        self.variant: str | None = None
        self._check = check
        self._workspace = Workspace(lambda nbytes: self.empty((nbytes,), "uint8"))

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        raise NotImplementedError

    # --- arrays -----------------------------------------------------------------------------------------------------
    def copy(self, source: Array, out: Array) -> None:
        self._check.array("source", source, source.shape, source.dtype)
        self._check.array("out", out, source.shape, source.dtype)
        self._check.disjoint({"out": out}, {"source": source})
        if source.size:
            self._run_copy(source, out)

    def cast(self, source: Array, out: Array) -> None:
        from_dtype, to_dtype = self._check.float_dtype("source", source), self._check.float_dtype("out", out)
        self._check.array("source", source, source.shape, from_dtype)
        self._check.array("out", out, source.shape, to_dtype)
        self._check.disjoint({"out": out}, {"source": source})
        if source.size:
            self._run_cast(source, out)

    def gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        self._check.array("source", source, source.shape, source.dtype)
        self._check.array("order", order, source.shape[:1], "int64")
        self._check_control(control)
        self._check.array("out", out, (len(out), *source.shape[1:]), source.dtype)
        if len(out) > len(source):
            raise ArgumentError("out.shape", tuple(out.shape), f"at most the {len(source)} rows of source")
        self._check.disjoint({"out": out}, {"source": source, "order": order, "control": control})
        if out.size:
            self._run_gather_rows(source, order, control, out)

    def squared_norm(self, x: Array, out: Array) -> None:
        self._check.array("x", x, x.shape, self._check.float_dtype("x", x))
        self._check.array("out", out, (1,), "float64")
        self._check.disjoint({"out": out}, {"x": x})
        self._run_squared_norm(x, self._scratch((plans.sum_blocks(x.size),), "float64"), out)

    def scale(self, x: Array, factor: float) -> None:
        dtype = self._check.float_dtype("x", x)
        self._check.array("x", x, x.shape, dtype)
        if x.size:
            self._run_scale(x, master_of(dtype).type(factor))

    def row_argmax(self, x: Array, out: Array) -> None:
        rows, _ = self._check.matrix("x", x)
        self._check.array("out", out, (rows,), "int64")
        self._check.disjoint({"out": out}, {"x": x})
        self._run_row_argmax(x, out)

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
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.dense_forward`. plan: overrides the one that the rule chooses."""
        rows, width_prev = self._check.matrix("a_prev", a_prev)
        width, dtype = self._check.matrix("w", w)[0], a_prev.dtype
        self._check.array("w", w, (width, width_prev), dtype)
        if b is not None:
            self._check.array("b", b, (width,), master_of(dtype))
        if z is not None:
            self._check.array("z", z, (rows, width), dtype)
        self._check.array("a", a, (rows, width), dtype)
        self._check.disjoint({"z": z, "a": a}, {"a_prev": a_prev, "w": w, "b": b})
        _require_elementwise(activation)
        call = ProductCall("dense_forward", "NT", a_prev, w, (b, z, a), rows, width, width_prev, activation)
        self._product(call, plan, tf32)

    def softmax(self, z: Array, a: Array) -> None:
        rows, width = self._check.matrix("z", z)
        master = master_of(z.dtype)
        self._check.array("a", a, (rows, width), master if a.dtype == master else z.dtype)
        self._check.disjoint({"a": a}, {"z": z})
        self._run_softmax(z, a)

    # --- backward ---------------------------------------------------------------------------------------------------
    def output_delta(
        self,
        loss: Loss,
        activation: Activation,
        output: Array,
        saved: Array,
        y: Array,
        control: Array | None,
        losses: Array,
        delta: Array,
    ) -> None:
        rows, width = self._check.matrix("output", output)
        dtype = output.dtype
        labels = loss.takes_labels and len(y.shape) == 1
        self._check.array("saved", saved, (rows, width), dtype)
        self._check.array("y", y, (rows,) if labels else (rows, width), "int64" if labels else master_of(dtype))
        if control is not None:
            self._check_control(control)
        self._check.array("losses", losses, (len(Losses),), "float64")
        self._check.array("delta", delta, (rows, width), dtype)
        read = {"output": output, "saved": saved, "y": y, "control": control}
        self._check.disjoint({"losses": losses, "delta": delta}, read)

        scale = 1 / loss.divisor(rows)
        by_rows = isinstance(activation, Softmax)
        parts = self._scratch((rows if by_rows else plans.sum_blocks(rows * width),), "float64")
        if isinstance(loss, SoftmaxCrossEntropy):
            self._run_softmax_cross_entropy(output, y, labels, control, scale, parts, delta)
        elif by_rows:
            self._run_softmax_output_delta(loss, output, y, control, scale, parts, delta)
        else:
            self._run_elementwise_output_delta(loss, activation, output, saved, y, control, scale, parts, delta)
        self._run_total_loss(parts, scale, losses)

    def hidden_delta(
        self,
        delta_next: Array,
        w_next: Array,
        activation: Activation,
        saved: Array,
        delta: Array,
        tf32: bool = False,
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.hidden_delta`. plan: overrides the one that the rule chooses."""
        rows, width_next = self._check.matrix("delta_next", delta_next)
        width, dtype = self._check.matrix("w_next", w_next)[1], delta_next.dtype
        self._check.array("w_next", w_next, (width_next, width), dtype)
        self._check.array("saved", saved, (rows, width), dtype)
        self._check.array("delta", delta, (rows, width), dtype)
        self._check.disjoint({"delta": delta}, {"delta_next": delta_next, "w_next": w_next, "saved": saved})
        _require_elementwise(activation)
        arrays = (saved, delta)
        call = ProductCall("hidden_delta", "NN", delta_next, w_next, arrays, rows, width, width_next, activation)
        self._product(call, plan, tf32)

    def transpose_product(
        self, delta_next: Array, w_next: Array, product: Array, tf32: bool = False, plan: Plan | None = None
    ) -> None:
        """See `Backend.transpose_product`. plan: overrides the one that the rule chooses."""
        rows, width_next = self._check.matrix("delta_next", delta_next)
        width, dtype = self._check.matrix("w_next", w_next)[1], delta_next.dtype
        self._check.array("w_next", w_next, (width_next, width), dtype)
        self._check.array("product", product, (rows, width), dtype)
        self._check.disjoint({"product": product}, {"delta_next": delta_next, "w_next": w_next})
        call = ProductCall("transpose_product", "NN", delta_next, w_next, (product,), rows, width, width_next)
        self._product(call, plan, tf32)

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        rows, width = self._check.matrix("product", product)
        self._check.array("saved", saved, (rows, width), product.dtype)
        self._check.array("delta", delta, (rows, width), product.dtype)
        self._check.disjoint({"delta": delta}, {"product": product, "saved": saved})
        _require_elementwise(activation)
        self._run_hadamard_derivative(product, activation, saved, delta)

    def weight_gradient(
        self, delta: Array, a_prev: Array, gradient: Array, tf32: bool = False, plan: Plan | None = None
    ) -> None:
        """See `Backend.weight_gradient`. plan: overrides the one that the rule chooses."""
        rows, width, width_prev = self._check_outer(delta, a_prev)
        self._check.array("gradient", gradient, (width, width_prev), master_of(delta.dtype))
        self._check.disjoint({"gradient": gradient}, {"delta": delta, "a_prev": a_prev})
        call = ProductCall("weight_gradient", "TN", delta, a_prev, (gradient,), width, width_prev, rows)
        self._product(call, plan, tf32)

    def bias_gradient(self, delta: Array, gradient: Array) -> None:
        rows, width = self._check.matrix("delta", delta)
        master = master_of(delta.dtype)
        self._check.array("gradient", gradient, (width,), master)
        self._check.disjoint({"gradient": gradient}, {"delta": delta})
        rows_a_part = plans.column_sum_rows(rows, width, self.chip)
        count = blocks(rows, rows_a_part)
        # one part is the gradient itself
        parts = self._scratch((count, width), master) if count > 1 else gradient.reshape(1, width)
        self._run_bias_gradient(delta, rows_a_part, parts, gradient)

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(
        self, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool = False, plan: Plan | None = None
    ) -> None:
        """See `Backend.weight_step`. plan: overrides the one that the rule chooses."""
        require_master("w", w)
        rows, width, width_prev = self._check_outer(delta, a_prev)
        self._check_control(control)
        self._check.array("w", w, (width, width_prev), delta.dtype)
        self._check.disjoint({"w": w}, {"delta": delta, "a_prev": a_prev, "control": control})
        call = ProductCall("weight_step", "TN", delta, a_prev, (control, w), width, width_prev, rows)
        self._product(call, plan, tf32)

    def prepare_update(self, max_norm: float | None, control: Array, loss_scaling: LossScaling | None = None) -> None:
        self._check_control(control)
        interval = 0 if loss_scaling is None else loss_scaling.growth_interval
        self._run_prepare_update(float("inf") if max_norm is None else float(max_norm), interval, control)

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
        dtype = self._check.float_dtype("gradients", gradients)
        require_master("gradients", gradients)
        shape = (gradients.size,)
        self._check.array("gradients", gradients, shape, dtype)
        self._check_control(control)
        if len(state) != len(optimizer.state):
            raise StateError("state", f"has {len(state)} arrays", f"have {len(optimizer.state)} for {optimizer.name}")
        slots = {f"state[{i}] ({name})": x for i, (name, x) in enumerate(zip(optimizer.state, state, strict=True))}
        for name, slot in slots.items():
            self._check.array(name, slot, shape, dtype)
        self._check.array("parameters", parameters, shape, dtype)
        if stored is not None:
            self._check.array("stored", stored, shape, self._check.float_dtype("stored", stored))
        if not 0 <= decayed <= gradients.size:
            raise ArgumentError("decayed", decayed, f"within 0 and {gradients.size}, the number of parameters")
        written = {**slots, "parameters": parameters, "stored": stored}
        self._check.disjoint(written, {"gradients": gradients, "control": control})
        clip_value = dtype.type(float("inf") if optimizer.clip_value is None else optimizer.clip_value)
        self._run_update(optimizer, gradients, int(decayed), control, state, clip_value, parameters, stored)

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
        """c ← α A B + β c, where c is (M, N) of the master dtype; c is not read where β = 0.

        form: "NT": a is (M, K), b (N, K); "NN": a is (M, K), b (K, N); "TN": a is (K, M), b (K, N).
        plan: overrides the one that the rule chooses.
        """
        if form not in FORMS:
            raise unknown_name("form", form, FORMS)
        a_sides, b_sides = self._check.matrix("a", a), self._check.matrix("b", b)
        m, k = a_sides[::-1] if form == "TN" else a_sides
        n = b_sides[0] if form == "NT" else b_sides[1]
        self._check.array("b", b, (n, k) if form == "NT" else (k, n), a.dtype)
        master = master_of(a.dtype)
        self._check.array("c", c, (m, n), master)
        self._check.disjoint({"c": c}, {"a": a, "b": b})
        factors = (master.type(alpha), master.type(beta))
        self._product(ProductCall("product", form, a, b, (c,), m, n, k, factors=factors), plan, tf32)

    def _product(self, call: ProductCall, plan: Plan | None, tf32: bool) -> None:
        """Compute a product by its plan: in one launch, or in parts of the depth that a second one adds up.

        tf32: whether float32 operands are rounded to TF32.
        """
        plan = self._plan(call, plan, tf32)
        if plan.variant in ("pipelined", "tensorcore"):
            grid: Block = (plan.blocks(call.m, call.n),)
            block: Block = (plan.threads,)
        else:
            grid = blocks(call.m, plan.tile_m), blocks(call.n, plan.tile_n)
            block = plan.tile_n, plan.tile_m
        parts = plan.parts(call.k)
        if parts == 1:
            self._run_product(call, plan, grid, block)
        else:
            sums = self._scratch((parts, call.m, call.n), master_of(call.dtype))
            self._run_partial_product(call, plan, (*grid, parts), block, sums)
            self._run_reduction(call, sums, (blocks(call.m * call.n),), (BLOCK,))

    def _plan(self, call: ProductCall, plan: Plan | None, tf32: bool) -> Plan:
        """The plan to compute a product by; `plan` is the caller's, or None."""
        raise NotImplementedError

    # --- helpers ----------------------------------------------------------------------------------------------------
    def _scratch(self, shape: tuple[int, ...], dtype: str | np.dtype) -> Array:
        """Working memory of this shape and dtype, with undefined contents, until the next primitive."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self._workspace.take(nbytes)[:nbytes].view(np.dtype(dtype)).reshape(shape)

    def _check_outer(self, delta: Array, a_prev: Array) -> tuple[int, int, int]:
        """B, n_l and n_{l-1} of a contraction over the batch."""
        rows, width = self._check.matrix("delta", delta)
        width_prev = self._check.matrix("a_prev", a_prev)[1]
        self._check.array("a_prev", a_prev, (rows, width_prev), delta.dtype)
        return rows, width, width_prev

    def _check_control(self, control: Array) -> None:
        self._check.array("control", control, (len(Control),), "float64")

    # --- hooks: the arguments are right, and the outputs stand last -------------------------------------------------
    def _run_copy(self, source: Array, out: Array) -> None:
        raise NotImplementedError

    def _run_cast(self, source: Array, out: Array) -> None:
        raise NotImplementedError

    def _run_gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        raise NotImplementedError

    def _run_squared_norm(self, x: Array, parts: Array, out: Array) -> None:
        """parts: one float64 for each block of `plans.SUM_THREADS` in the first stage."""
        raise NotImplementedError

    def _run_scale(self, x: Array, factor: np.floating) -> None:
        raise NotImplementedError

    def _run_row_argmax(self, x: Array, out: Array) -> None:
        raise NotImplementedError

    def _run_softmax(self, z: Array, a: Array) -> None:
        raise NotImplementedError

    def _run_softmax_cross_entropy(
        self, z: Array, y: Array, labels: bool, control: Array | None, scale: float, parts: Array, delta: Array
    ) -> None:
        """control: with the loss scale, or None. scale: 1/B for the mean over the batch, else 1. parts: one float64 a
        row, for its loss."""
        raise NotImplementedError

    def _run_softmax_output_delta(
        self, loss: Loss, a: Array, y: Array, control: Array | None, scale: float, parts: Array, delta: Array
    ) -> None:
        """control, scale and parts: as above."""
        raise NotImplementedError

    def _run_elementwise_output_delta(
        self,
        loss: Loss,
        activation: Activation,
        output: Array,
        saved: Array,
        y: Array,
        control: Array | None,
        scale: float,
        parts: Array,
        delta: Array,
    ) -> None:
        """parts: one float64 for each block of `plans.SUM_THREADS`. A loss from logits has σ' in its derivative."""
        raise NotImplementedError

    def _run_total_loss(self, parts: Array, scale: float, losses: Array) -> None:
        raise NotImplementedError

    def _run_hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        raise NotImplementedError

    def _run_bias_gradient(self, delta: Array, rows_a_part: int, parts: Array, gradient: Array) -> None:
        """parts: (count, n), the sums over rows_a_part rows each; with one part it is the gradient's own memory."""
        raise NotImplementedError

    def _run_prepare_update(self, max_norm: float, growth_interval: int, control: Array) -> None:
        """max_norm: infinite for none. growth_interval: of the loss scaling; 0 for none."""
        raise NotImplementedError

    def _run_update(
        self,
        optimizer: Optimizer,
        gradients: Array,
        decayed: int,
        control: Array,
        state: Sequence[Array],
        clip_value: np.floating,
        parameters: Array,
        stored: Array | None,
    ) -> None:
        """clip_value: infinite for none. stored: what gets the parameters rounded to its dtype, or None."""
        raise NotImplementedError

    def _run_product(self, call: ProductCall, plan: Plan, grid: Block, block: Block) -> None:
        raise NotImplementedError

    def _run_partial_product(self, call: ProductCall, plan: Plan, grid: Block, block: Block, sums: Array) -> None:
        """sums: (parts, M, N); part s is over the depths from s · plan.part(k)."""
        raise NotImplementedError

    def _run_reduction(self, call: ProductCall, sums: Array, grid: Block, block: Block) -> None:
        raise NotImplementedError


def row_blocks(rows: int, width: int) -> tuple[Block, Block]:
    """Grid and block of a kernel in which a team of threads takes a row of this width."""
    team = plans.row_team(width)
    teams = ROWS_A_BLOCK if team == WARP else 1
    return (blocks(rows, teams),), (team, teams)


def check_grid(grid: Block, kernel: str) -> None:
    """Raise ArgumentError for a grid that no GPU takes."""
    if any(side > LAST_GRID_SIDE for side in grid[1:]):
        raise ArgumentError("grid", grid, f"≤ {LAST_GRID_SIDE} in its second side, for {kernel}")


def optimizer_numbers(optimizer: Optimizer) -> tuple[float, float, float]:
    """The optimiser's own numbers as the kernels take them: two factors, and ε."""
    names: dict[str, tuple[str, ...]] = {"momentum": ("momentum",), "nesterov": ("momentum",), "rmsprop": ("decay",)}
    names |= dict.fromkeys(("adam", "adamw"), ("beta1", "beta2"))
    values = [float(getattr(optimizer, name)) for name in names.get(optimizer.name, ())]
    first, second = (*values, 0.0, 0.0)[:2]
    return first, second, float(getattr(optimizer, "epsilon", 0.0))


def _require_elementwise(activation: Activation) -> None:
    if isinstance(activation, Softmax):
        raise ArgumentError("activation", activation.name, "elementwise; softmax has a method of its own")
