"""What the backends with kernels have in common: everything about a primitive but the launch itself.

`GpuBackend` has the arguments of each primitive checked, decides on plans, grids and working memory, and hands each
kernel to `_launch` as a `Launch`. A backend has that one method, its arrays and streams, and little else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gpubp.backends import plans
from gpubp.backends.arguments import ArgumentChecker, Product
from gpubp.backends.base import Array
from gpubp.backends.instances import Word
from gpubp.backends.memory import Workspace
from gpubp.backends.plans import Plan
from gpubp.chips import MAX_GRID, WARP, Chip
from gpubp.dtypes import ARITHMETIC, FLOAT32, FLOAT64, master_of
from gpubp.errors import ArgumentError, StateError
from gpubp.nn.activations import Activation, Identity, Softmax
from gpubp.nn.losses import Loss, SoftmaxCrossEntropy
from gpubp.nn.optimizers import Optimizer
from gpubp.nn.precision import LossScaling

BLOCK = 256
"""Threads of a block in elementwise kernels."""
ROWS_A_BLOCK = 4
"""Rows that a block takes in kernels where a warp takes a row."""
COLUMNS_BLOCK = (32, 8)
"""Columns, and rows at a time, that a block takes in the first stage of a column sum."""
REDUCTION = "Reduction"
"""In place of a plan, the rung that adds up the parts of a product."""

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
        numbers: what kernels in either language take after that.
        grid: sides of the grid, in blocks.
        block: sides of a block, in threads.
        shared_bytes: shared memory of a block that is asked for at the launch.
    """

    kernel: str
    template: tuple[Any, ...]
    arrays: tuple[Array | None, ...]
    sizes: tuple[int, ...] = ()
    numbers: tuple[float | np.generic, ...] = ()
    grid: Block = (1,)
    block: Block = (BLOCK,)
    shared_bytes: int = 0


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
            if it multiplies 16-bit numbers or TF32, else `pipelined`.
        widest: the most bytes that a thread loads or stores at once; 0: one element.
    """

    variants: tuple[str, ...] = plans.VARIANTS
    widest = 16

    def __init__(self, device: str, chip: Chip, check: ArgumentChecker) -> None:
        self.device = device
        self.chip = chip
        self.variant: str | None = None
        self._check = check
        self._workspace = Workspace(lambda nbytes: self.empty((nbytes,), "uint8"))

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        raise NotImplementedError

    def release_workspace(self) -> None:
        """Let go of the working memory: the next primitive makes what it needs, and no more."""
        self._workspace.release()

    def _launch(self, launch: Launch) -> None:
        """Launch a kernel on the backend's stream; its arguments are right."""
        raise NotImplementedError

    def _refuse_mixed(self, argument: str, value: Any) -> None:
        """Raise ArgumentError if the backend has no mixed precision and `value` is something that only this needs."""

    # --- arrays -----------------------------------------------------------------------------------------------------
    def cast(self, source: Array, out: Array) -> None:
        size = self._check.cast(source, out)
        if size:
            self._each(size, "cast", (source.dtype, out.dtype), (source, out))

    def gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        size = self._check.gather_rows(source, order, control, out)
        if size:
            rows = len(out)
            word = self._word(out.nbytes // rows, source, out)
            words = out.nbytes // rows // word.nbytes
            arrays, grid = (source, order, control, out), (blocks(rows * words),)
            self._launch(Launch("gather_rows", (word,), arrays, (rows, words), grid=grid))

    def squared_norm(self, x: Array, out: Array) -> None:
        size = self._check.squared_norm(x, out)
        count = plans.sum_blocks(size)
        parts = self._workspace.take((count,), FLOAT64)
        block = (plans.SUM_THREADS,)
        self._launch(Launch("squared_norm_parts", (x.dtype,), (x, parts), (size,), grid=(count,), block=block))
        self._launch(Launch("squared_norm", (FLOAT64,), (parts, out), (count,), block=block))

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
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.dense_forward`. plan: overrides the one that the rule chooses."""
        found = self._check.dense_forward(a_prev, w, b, z, a)
        _require_elementwise(activation)
        self._product("dense_forward", "NT", found, (activation,), (a_prev, w, b, z, a), tf32, plan)

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
        control: Array | None,
        losses: Array,
        delta: Array,
    ) -> None:
        labels = loss.takes_labels and len(y.shape) == 1
        shape = self._check.output_delta(output, saved, y, labels, control, losses, delta)
        self._refuse_mixed("control", control)
        rows, width = shape
        dtype, scale = output.dtype, 1 / loss.divisor(rows)
        by_rows = isinstance(activation, Softmax)
        count = rows if by_rows else plans.sum_blocks(rows * width)
        parts = self._workspace.take((count,), FLOAT64)
        # `parts`: the loss of each row, or of what each block takes
        block = (plans.SUM_THREADS,)
        if isinstance(loss, SoftmaxCrossEntropy):
            target = ("Labels" if labels else "Probabilities", y.dtype)
            arrays = (output, y, control, delta, parts)
            self._by_rows(shape, "output_delta_softmax_cross_entropy", (dtype, *target), arrays, (scale,))
        elif by_rows:
            self._by_rows(shape, "output_delta_softmax", (dtype, loss), (output, y, control, delta, parts), (scale,))
        else:
            # a loss from logits has σ' in its derivative
            functions = loss, Identity() if loss.from_logits else activation
            read = (output, saved, y, control)
            kernel = "output_delta_elementwise"
            self._launch(Launch(kernel, (dtype, *functions), (*read, delta, parts), shape, (scale,), (count,), block))
        self._launch(Launch("total_loss", (FLOAT64,), (parts, losses), (count,), (scale,), block=block))

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
        found = self._check.hidden_delta(delta_next, w_next, saved, delta)
        _require_elementwise(activation)
        self._product("hidden_delta", "NN", found, (activation,), (delta_next, w_next, saved, delta), tf32, plan)

    def transpose_product(
        self, delta_next: Array, w_next: Array, product: Array, tf32: bool = False, plan: Plan | None = None
    ) -> None:
        """See `Backend.transpose_product`. plan: overrides the one that the rule chooses."""
        found = self._check.transpose_product(delta_next, w_next, product)
        self._product("transpose_product", "NN", found, (), (delta_next, w_next, product), tf32, plan)

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        size = self._check.hadamard_derivative(product, saved, delta)
        _require_elementwise(activation)
        arrays = (product, saved, delta)
        self._each(size, "hadamard_derivative", (product.dtype, activation), arrays, at_once=self._at_once(product))

    def weight_gradient(
        self, delta: Array, a_prev: Array, gradient: Array, tf32: bool = False, plan: Plan | None = None
    ) -> None:
        """See `Backend.weight_gradient`. plan: overrides the one that the rule chooses."""
        found = self._check.weight_gradient(delta, a_prev, gradient)
        self._product("weight_gradient", "TN", found, (), (delta, a_prev, gradient), tf32, plan)

    def bias_gradient(self, delta: Array, gradient: Array) -> None:
        rows, width = self._check.bias_gradient(delta, gradient)
        rows_a_part = plans.column_sum_rows(rows, width, self.chip)
        count = blocks(rows, rows_a_part)
        # one part is the gradient itself
        master = gradient.dtype
        parts = self._workspace.take((count, width), master) if count > 1 else gradient.reshape(1, width)
        shape, grid = (rows, width), (blocks(width, COLUMNS_BLOCK[0]), count)
        first = Launch(
            "bias_gradient_parts", (delta.dtype,), (delta, parts), shape, (rows_a_part,), grid, COLUMNS_BLOCK
        )
        self._launch(first)
        if count > 1:
            columns = (blocks(width),)
            self._launch(Launch("bias_gradient", (master,), (parts, gradient), (count, width), grid=columns))

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(
        self, delta: Array, a_prev: Array, control: Array, w: Array, tf32: bool = False, plan: Plan | None = None
    ) -> None:
        """See `Backend.weight_step`. plan: overrides the one that the rule chooses."""
        found = self._check.weight_step(delta, a_prev, control, w)
        self._product("weight_step", "TN", found, (), (delta, a_prev, control, w), tf32, plan)

    def prepare_update(self, max_norm: float | None, control: Array, loss_scaling: LossScaling | None = None) -> None:
        self._check.prepare_update(control)
        interval = 0 if loss_scaling is None else loss_scaling.growth_interval
        self._refuse_mixed("loss_scaling", interval or None)
        limit = float("inf") if max_norm is None else float(max_norm)
        self._launch(Launch("prepare_update", (FLOAT64,), (control,), (interval,), (limit,), block=(1,)))

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
        template = (dtype, optimizer) if stored is None else (dtype, optimizer, stored.dtype)
        first, second = (*state, None, None)[:2]
        arrays = (gradients, parameters, first, second, control, stored)
        clip_value = dtype.type(float("inf") if optimizer.clip_value is None else optimizer.clip_value)
        numbers = (int(decayed), float(optimizer.weight_decay), clip_value)
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
        """See `Backend.product`. plan: overrides the one that the rule chooses."""
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
        factors: tuple[np.generic, ...] = (),
    ) -> None:
        """Compute a product by its plan: in one launch, or in parts of the depth that a second one adds up.

        functions: template arguments between dtype and plan. arrays: A, B, and those of the epilogue.
        """
        m, n, k, _, dtype = found
        plan, parts, grid, block, shared = self.execution(found, tf32, plan)
        template = (dtype, *functions)
        if parts == 1:
            sizes, numbers = _depth_last(m, n, k, factors)
            self._launch(Launch(kernel, (*template, plan), arrays, sizes, numbers, grid, block, shared))
            return
        sums = self._workspace.take((parts, m, n), master_of(dtype))
        operands, numbers = (*arrays[:2], sums), (k, plan.part(k))
        partial = (dtype, form, plan)
        self._launch(Launch("partial_product", partial, operands, (m, n), numbers, (*grid, parts), block, shared))
        sizes, numbers = _depth_last(m, n, parts, factors)
        arrays = (sums, None, *arrays[2:])
        self._launch(Launch(kernel, (*template, REDUCTION), arrays, sizes, numbers, (blocks(m * n),)))

    def execution(self, found: Product, tf32: bool, plan: Plan | None) -> Execution:
        """Return how a product is computed.

        Args:
            found: the product's sides, as the check of its arguments found them.
            tf32: whether float32 operands are rounded to TF32.
            plan: the caller's; None: by the rule.
        """
        return execution_of(found, tf32, plan, self.variant, self.chip)

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
def execution_of(found: Product, tf32: bool, plan: Plan | None, variant: str | None, chip: Chip) -> Execution:
    """Return how a product is computed: by the caller's plan, held against the chip and the arrays, or by the one that
    the rule chooses for the variant.

    Raises:
        ArgumentError: TF32 of anything but float32, or a plan or a variant that does not fit the operands or the chip.
    """
    m, n, k, alignment, dtype = found
    if tf32 and dtype != FLOAT32:
        raise ArgumentError("tf32", tf32, f"False with arrays of {dtype}: TF32 is what float32 is rounded to")
    operands = "tf32" if tf32 else str(dtype)
    if plan is None:
        decided = _chosen(m, n, k, operands, chip, variant, alignment)
    elif plan.dtype != operands:
        raise ArgumentError("plan.dtype", plan.dtype, f"{operands}, which is what is multiplied")
    else:
        decided = plan.for_alignment(alignment).on(chip)
    return executed(decided, m, n, k)


def _chosen(m: int, n: int, k: int, operands: str, chip: Chip, variant: str | None, alignment: int) -> Plan:
    on_tensor_cores = ARITHMETIC[operands].tensor_cores
    variant = variant or ("tensorcore" if on_tensor_cores else "pipelined")
    if on_tensor_cores and variant != "tensorcore":
        raise ArgumentError("variant", variant, f"'tensorcore', or None, to multiply in {operands}")
    if variant == "tensorcore" and not on_tensor_cores:
        hint = "tensor cores would round it to TF32 (tf32=True, a network's precision='tf32')"
        raise ArgumentError("variant", variant, f"another one to multiply in {operands}", hint)
    return plans.choose(m, n, k, operands, chip, variant, alignment)


def executed(plan: Plan, m: int, n: int, k: int) -> Execution:
    """Return how a product of this shape is computed by this plan."""
    shared = plan.shared_bytes if plan.variant == "tensorcore" else 0
    return Execution(plan, plan.parts(k), plan.grid(m, n), plan.block, shared)


def _depth_last(
    m: int, n: int, k: int, factors: tuple[np.generic, ...]
) -> tuple[tuple[int, ...], tuple[int | np.generic, ...]]:
    """Return sizes and numbers of a product: the general one's depth is a number, as no kernel has it from a shape."""
    return ((m, n), (k, *factors)) if factors else ((m, n, k), ())


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
