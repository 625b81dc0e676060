"""The `cupy` backend: the kernels in CUDA C++, on a GPU through CuPy, or on the emulated device.

The emulated device offers the slice of CuPy's interface that is used here, so all that differs is the import in the
constructor. Kernels are compiled at their first use, one instance at a time, and kept (on disk too).

All work goes to the backend's own stream. A training step allocates nothing: what primitives need on their way lies in
a workspace that the first step makes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpubp.activations import Activation, Softmax
from gpubp.backends.base import Array, Control, Losses
from gpubp.backends.gpu import BLOCK, LAST_GRID_SIDE, ArgumentChecker, Workspace, blocks, decide_plan
from gpubp.errors import ArgumentError, BackendError, unknown_name
from gpubp.kernels import plans
from gpubp.kernels.cuda.compile import KERNEL_DIRECTORY, compile_file
from gpubp.kernels.cuda.sources import (
    TYPES,
    WORDS,
    Entry,
    ProductKernels,
    entry,
    general_product_kernels,
    product_kernels,
)
from gpubp.kernels.plans import Chip, Plan
from gpubp.losses import Loss, SoftmaxCrossEntropy
from gpubp.optimizers import Optimizer

ROWS_A_BLOCK = 4
"""Rows that a block takes in kernels where a warp takes a row."""
CUDA_DEVICE = 2
"""kDLCUDA, DLPack's number for memory of a CUDA device."""


class CupyBackend:
    """See `gpubp.backends.base.Backend`.

    Args:
        device: "gpu" or "emulator".
        kernels: the folder with the kernels' sources.

    Attributes:
        variant: a rung of the ladder (`gpubp.kernels.plans.VARIANTS`) that every product takes; None: `pipelined`.
        chip: what plans are made for.
    """

    name = "cupy"
    variants = plans.VARIANTS

    def __init__(self, device: str = "gpu", kernels: Path = KERNEL_DIRECTORY) -> None:
        if device not in ("gpu", "emulator"):
            raise unknown_name("device", device, ("gpu", "emulator"))
        self.device = device
        self._cp = _array_module(device)
        self._kernels = kernels
        current = self._cp.cuda.Device()
        self._stream = self._cp.cuda.Stream(non_blocking=True)
        self.chip = Chip(
            f"sm_{current.compute_capability}",
            current.attributes["MultiProcessorCount"],
            current.attributes["MaxSharedMemoryPerBlock"],
        )
        self.variant: str | None = None
        self._loaded: dict[Entry, Any] = {}
        self._workspace = Workspace(lambda nbytes: self.empty((nbytes,), "uint8"))
        self._check = ArgumentChecker(
            self._cp.ndarray, int(current), address=lambda x: x.data.ptr, device_of=lambda x: int(x.device)
        )

    # --- arrays -----------------------------------------------------------------------------------------------------
    def asarray(self, x: Any, dtype: str | np.dtype) -> Array:
        """x as an array of this backend with this dtype; without a copy where x is on the device, has it already, and
        is C-contiguous: arrays of CuPy, and of any library with `__cuda_array_interface__` or DLPack.
        """
        dlpack_device = getattr(x, "__dlpack_device__", None)
        on_device = hasattr(x, "__cuda_array_interface__")
        if not on_device and dlpack_device is not None and int(dlpack_device()[0]) == CUDA_DEVICE:
            x = self._cp.from_dlpack(x)
            on_device = True
        if not on_device:
            with self._stream:
                return self._cp.asarray(np.ascontiguousarray(x, dtype))
        # what made x runs on its producer's stream: ours waits for it
        self._stream.wait_event(self._cp.cuda.get_current_stream().record())
        with self._stream:
            return self._cp.asarray(x, dtype, order="C")

    def asnumpy(self, x: Array) -> np.ndarray:
        return self._cp.asnumpy(x, self._stream)

    def empty(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        with self._stream:
            return self._cp.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: str | np.dtype) -> Array:
        with self._stream:
            return self._cp.zeros(shape, dtype)

    def upload(self, host: np.ndarray, out: Array) -> None:
        self._check.array("out", out, np.shape(host), np.asarray(host).dtype)
        out.set(np.ascontiguousarray(host), self._stream)

    def copy(self, source: Array, out: Array) -> None:
        self._check.array("source", source, source.shape, source.dtype)
        self._check.array("out", out, source.shape, source.dtype)
        self._check.disjoint({"out": out}, {"source": source})
        if source.nbytes:
            # bytes, in the widest words that both arrays are made of
            word = _word(source.nbytes, source.data.ptr, out.data.ptr)
            self._each(entry("copy", "copy", WORDS[word]), source.nbytes // word, (source, out))

    def cast(self, source: Array, out: Array) -> None:
        from_type, to_type = self._check.float_dtype("source", source), self._check.float_dtype("out", out)
        self._check.array("source", source, source.shape, from_type)
        self._check.array("out", out, source.shape, to_type)
        self._check.disjoint({"out": out}, {"source": source})
        self._each(entry("cast", "cast", _ctype(from_type), _ctype(to_type)), source.size, (source, out))

    def gather_rows(self, source: Array, order: Array, control: Array, out: Array) -> None:
        self._check.array("source", source, source.shape, source.dtype)
        self._check.array("order", order, source.shape[:1], "int64")
        self._check_control(control)
        self._check.array("out", out, (len(out), *source.shape[1:]), source.dtype)
        if len(out) > len(source):
            raise ArgumentError("out.shape", tuple(out.shape), f"at most the {len(source)} rows of source")
        self._check.disjoint({"out": out}, {"source": source, "order": order, "control": control})
        row_bytes = out.nbytes // max(1, len(out))
        word = _word(row_bytes, source.data.ptr, out.data.ptr)
        words = row_bytes // word
        arguments = (source, order, control, out, len(out), words)
        self._launch(entry("gather_rows", "gather_rows", WORDS[word]), blocks(len(out) * words), BLOCK, arguments)

    def squared_norm(self, x: Array, out: Array) -> None:
        dtype = self._check.float_dtype("x", x)
        self._check.array("x", x, x.shape, dtype)
        self._check.array("out", out, (1,), "float64")
        self._check.disjoint({"out": out}, {"x": x})
        count = plans.sum_blocks(x.size)
        parts = self._workspace.take(8 * count)
        kernel = entry("squared_norm", "squared_norm_parts", _ctype(dtype))
        self._launch(kernel, count, plans.SUM_THREADS, (x, x.size, parts))
        self._launch(entry("squared_norm", "squared_norm", "double"), 1, plans.SUM_THREADS, (parts, count, out))

    def scale(self, x: Array, factor: float) -> None:
        dtype = self._check.float_dtype("x", x)
        self._check.array("x", x, x.shape, dtype)
        self._launch(entry("scale", "scale", _ctype(dtype)), blocks(x.size), BLOCK, (x, x.size, dtype.type(factor)))

    def row_argmax(self, x: Array, out: Array) -> None:
        rows, width = self._check.matrix("x", x)
        self._check.array("out", out, (rows,), "int64")
        self._check.disjoint({"out": out}, {"x": x})
        self._by_rows("row_argmax", "row_argmax", (_ctype(x.dtype),), (x, out), rows, width)

    def synchronize(self) -> None:
        self._stream.synchronize()

    # --- forward ----------------------------------------------------------------------------------------------------
    def dense_forward(
        self,
        a_prev: Array,
        w: Array,
        b: Array | None,
        activation: Activation,
        z: Array | None,
        a: Array,
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.dense_forward`. plan: overrides the one that the rule chooses."""
        rows, width_prev = self._check.matrix("a_prev", a_prev)
        width, dtype = self._check.matrix("w", w)[0], a_prev.dtype
        self._check.array("w", w, (width, width_prev), dtype)
        if b is not None:
            self._check.array("b", b, (width,), dtype)
        if z is not None:
            self._check.array("z", z, (rows, width), dtype)
        self._check.array("a", a, (rows, width), dtype)
        self._check.disjoint({"z": z, "a": a}, {"a_prev": a_prev, "w": w, "b": b})
        kernels = product_kernels("dense_forward", "NT", str(dtype), _elementwise(activation))
        parameter = dtype.type(activation.parameter)
        self._product(kernels, plan, a_prev, w, (b, z, a), rows, width, width_prev, (parameter,))

    def softmax(self, z: Array, a: Array) -> None:
        rows, width = self._check.matrix("z", z)
        self._check.array("a", a, (rows, width), z.dtype)
        self._check.disjoint({"a": a}, {"z": z})
        self._by_rows("softmax", "softmax", (_ctype(z.dtype),), (z, a), rows, width)

    # --- backward ---------------------------------------------------------------------------------------------------
    def output_delta(
        self, loss: Loss, activation: Activation, output: Array, saved: Array, y: Array, losses: Array, delta: Array
    ) -> None:
        rows, width = self._check.matrix("output", output)
        dtype = output.dtype
        labels = loss.takes_labels and len(y.shape) == 1
        self._check.array("saved", saved, (rows, width), dtype)
        self._check.array("y", y, (rows,) if labels else (rows, width), "int64" if labels else dtype)
        self._check.array("losses", losses, (len(Losses),), "float64")
        self._check.array("delta", delta, (rows, width), dtype)
        self._check.disjoint({"losses": losses, "delta": delta}, {"output": output, "saved": saved, "y": y})

        scale = 1 / loss.divisor(rows)
        number, kind = dtype.type(getattr(loss, "threshold", 0)), _ctype(dtype)
        by_rows = isinstance(activation, Softmax)
        count = rows if by_rows else plans.sum_blocks(rows * width)
        parts = self._workspace.take(8 * count)
        if isinstance(loss, SoftmaxCrossEntropy):
            target = ("Labels", "int64") if labels else ("Probabilities", kind)
            name, arrays = "output_delta_softmax_cross_entropy", (output, y, delta, parts)
            self._by_rows("output_delta", name, (kind, *target), arrays, rows, width, (scale,))
        elif by_rows:
            template, arrays = (kind, type(loss).__name__), (output, y, delta, parts)
            self._by_rows("output_delta", "output_delta_softmax", template, arrays, rows, width, (scale, number))
        else:
            # the derivative of a loss from logits has σ' in it already
            sigma = "Identity" if loss.from_logits else _elementwise(activation)
            kernel = entry("output_delta", "output_delta_elementwise", kind, type(loss).__name__, sigma)
            parameter = dtype.type(activation.parameter)
            arguments = (output, saved, y, delta, parts, rows, width, scale, number, parameter)
            self._launch(kernel, count, plans.SUM_THREADS, arguments)
        total = entry("output_delta", "total_loss", "double")
        self._launch(total, 1, plans.SUM_THREADS, (parts, count, scale, losses))

    def hidden_delta(
        self,
        delta_next: Array,
        w_next: Array,
        activation: Activation,
        saved: Array,
        delta: Array,
        plan: Plan | None = None,
    ) -> None:
        """See `Backend.hidden_delta`. plan: overrides the one that the rule chooses."""
        rows, width_next = self._check.matrix("delta_next", delta_next)
        width, dtype = self._check.matrix("w_next", w_next)[1], delta_next.dtype
        self._check.array("w_next", w_next, (width_next, width), dtype)
        self._check.array("saved", saved, (rows, width), dtype)
        self._check.array("delta", delta, (rows, width), dtype)
        self._check.disjoint({"delta": delta}, {"delta_next": delta_next, "w_next": w_next, "saved": saved})
        kernels = product_kernels("hidden_delta", "NN", str(dtype), _elementwise(activation))
        parameter = dtype.type(activation.parameter)
        self._product(kernels, plan, delta_next, w_next, (saved, delta), rows, width, width_next, (parameter,))

    def transpose_product(self, delta_next: Array, w_next: Array, product: Array, plan: Plan | None = None) -> None:
        """See `Backend.transpose_product`. plan: overrides the one that the rule chooses."""
        rows, width_next = self._check.matrix("delta_next", delta_next)
        width, dtype = self._check.matrix("w_next", w_next)[1], delta_next.dtype
        self._check.array("w_next", w_next, (width_next, width), dtype)
        self._check.array("product", product, (rows, width), dtype)
        self._check.disjoint({"product": product}, {"delta_next": delta_next, "w_next": w_next})
        kernels = product_kernels("transpose_product", "NN", str(dtype))
        self._product(kernels, plan, delta_next, w_next, (product,), rows, width, width_next)

    def hadamard_derivative(self, product: Array, activation: Activation, saved: Array, delta: Array) -> None:
        rows, width = self._check.matrix("product", product)
        dtype = product.dtype
        self._check.array("saved", saved, (rows, width), dtype)
        self._check.array("delta", delta, (rows, width), dtype)
        self._check.disjoint({"delta": delta}, {"product": product, "saved": saved})
        kernel = entry("hadamard_derivative", "hadamard_derivative", _ctype(dtype), _elementwise(activation))
        arguments = (product, saved, delta, rows * width, dtype.type(activation.parameter))
        self._launch(kernel, blocks(rows * width, BLOCK * (16 // dtype.itemsize)), BLOCK, arguments)

    def weight_gradient(self, delta: Array, a_prev: Array, gradient: Array, plan: Plan | None = None) -> None:
        """See `Backend.weight_gradient`. plan: overrides the one that the rule chooses."""
        rows, width, width_prev = self._check_outer(delta, a_prev)
        self._check.array("gradient", gradient, (width, width_prev), delta.dtype)
        self._check.disjoint({"gradient": gradient}, {"delta": delta, "a_prev": a_prev})
        kernels = product_kernels("weight_gradient", "TN", str(delta.dtype))
        self._product(kernels, plan, delta, a_prev, (gradient,), width, width_prev, rows)

    def bias_gradient(self, delta: Array, gradient: Array) -> None:
        rows, width = self._check.matrix("delta", delta)
        self._check.array("gradient", gradient, (width,), delta.dtype)
        self._check.disjoint({"gradient": gradient}, {"delta": delta})
        rows_a_part = plans.column_sum_rows(rows, width, self.chip)
        count = blocks(rows, rows_a_part)
        parts = gradient if count == 1 else self._workspace.take(delta.itemsize * count * width)
        kernel = entry("bias_gradient", "bias_gradient_parts", _ctype(delta.dtype))
        self._launch(kernel, (blocks(width, 32), count), (32, 8), (delta, parts, rows, width, rows_a_part))
        if count > 1:
            kernel = entry("bias_gradient", "bias_gradient", _ctype(delta.dtype))
            self._launch(kernel, blocks(width), BLOCK, (parts, count, gradient, width))

    # --- update -----------------------------------------------------------------------------------------------------
    def weight_step(self, delta: Array, a_prev: Array, control: Array, w: Array, plan: Plan | None = None) -> None:
        """See `Backend.weight_step`. plan: overrides the one that the rule chooses."""
        rows, width, width_prev = self._check_outer(delta, a_prev)
        self._check_control(control)
        self._check.array("w", w, (width, width_prev), delta.dtype)
        self._check.disjoint({"w": w}, {"delta": delta, "a_prev": a_prev, "control": control})
        kernels = product_kernels("weight_step", "TN", str(delta.dtype))
        self._product(kernels, plan, delta, a_prev, (control, w), width, width_prev, rows)

    def prepare_update(self, max_norm: float | None, control: Array) -> None:
        self._check_control(control)
        limit = float("inf") if max_norm is None else float(max_norm)
        self._launch(entry("prepare_update", "prepare_update", "double"), 1, 1, (control, limit))

    def update(
        self,
        optimizer: Optimizer,
        gradients: Array,
        decayed: int,
        control: Array,
        state: Sequence[Array],
        parameters: Array,
    ) -> None:
        dtype = self._check.float_dtype("gradients", gradients)
        shape = (gradients.size,)
        self._check.array("gradients", gradients, shape, dtype)
        self._check_control(control)
        if len(state) != len(optimizer.state):
            raise ArgumentError("state", f"{len(state)} arrays", f"{len(optimizer.state)} for {optimizer.name}")
        slots = {f"state[{i}] ({name})": x for i, (name, x) in enumerate(zip(optimizer.state, state, strict=True))}
        for name, slot in slots.items():
            self._check.array(name, slot, shape, dtype)
        self._check.array("parameters", parameters, shape, dtype)
        if not 0 <= decayed <= gradients.size:
            raise ArgumentError("decayed", decayed, f"within 0 and {gradients.size}, the number of parameters")
        self._check.disjoint({**slots, "parameters": parameters}, {"gradients": gradients, "control": control})

        clip = float("inf") if optimizer.clip_value is None else optimizer.clip_value
        first, second, epsilon = _numbers(optimizer)
        arguments = (
            *(gradients, parameters, *state, *[None] * (2 - len(state)), gradients.size, int(decayed), control),
            *(float(optimizer.weight_decay), dtype.type(clip), first, second, dtype.type(epsilon)),
        )
        kernel = entry("update", "update", _ctype(dtype), type(optimizer).__name__)
        self._launch(kernel, blocks(gradients.size, BLOCK * (16 // dtype.itemsize)), BLOCK, arguments)

    # --- products ---------------------------------------------------------------------------------------------------
    def product(
        self,
        form: str,
        a: Array,
        b: Array,
        c: Array,
        alpha: float = 1.0,
        beta: float = 0.0,
        plan: Plan | None = None,
    ) -> None:
        """c ← α A B + β c, where c is (M, N); c is not read where β = 0.

        form: "NT": a is (M, K), b (N, K); "NN": a is (M, K), b (K, N); "TN": a is (K, M), b (K, N).
        plan: overrides the one that the rule chooses.
        """
        if form not in ("NT", "NN", "TN"):
            raise unknown_name("form", form, ("NT", "NN", "TN"))
        a_sides, b_sides = self._check.matrix("a", a), self._check.matrix("b", b)
        m, k = a_sides[::-1] if form == "TN" else a_sides
        n = b_sides[0] if form == "NT" else b_sides[1]
        self._check.array("b", b, (n, k) if form == "NT" else (k, n), a.dtype)
        self._check.array("c", c, (m, n), a.dtype)
        self._check.disjoint({"c": c}, {"a": a, "b": b})
        kernels = general_product_kernels(form, str(a.dtype))
        numbers = (a.dtype.type(alpha), a.dtype.type(beta))
        self._product(kernels, plan, a, b, (c,), m, n, k, numbers)

    def _product(
        self,
        kernels: ProductKernels,
        plan: Plan | None,
        a: Array,
        b: Array,
        arrays: tuple[Array | None, ...],
        m: int,
        n: int,
        k: int,
        numbers: tuple[np.floating, ...] = (),
    ) -> None:
        """Launch a product with its epilogue, whose arguments are `arrays` and `numbers`."""
        aligned = _rows_aligned(kernels.form, m, n, k, a, b)
        plan = decide_plan(plan, self.variant, m, n, k, a.dtype, self.chip, aligned)
        if plan.variant == "pipelined":
            grid: tuple[int, ...] = (plan.blocks(m, n),)
            block: tuple[int, ...] = (plan.threads,)
        else:
            grid = blocks(m, plan.tile_m), blocks(n, plan.tile_n)
            block = plan.tile_n, plan.tile_m
        parts = plan.parts(k)
        if parts == 1:
            self._launch(kernels.whole(plan), grid, block, (a, b, *arrays, m, n, k, *numbers))
            return
        sums = self._workspace.take(a.itemsize * parts * m * n)
        self._launch(kernels.partial(plan), (*grid, parts), block, (a, b, sums, m, n, k, plan.part(k)))
        self._launch(kernels.reduction(), blocks(m * n), BLOCK, (sums, parts, *arrays, m, n, *numbers))

    # --- capture ----------------------------------------------------------------------------------------------------
    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Backend.capture`: the recording is a CUDA graph."""
        self._stream.begin_capture()
        try:
            work()
        finally:
            graph = self._stream.end_capture()  # also where `work` fails: the stream must leave capture
        # the graph holds addresses: the workspace must live as long as it
        return functools.partial(_replay, graph, self._stream, self._workspace.buffer)

    # --- launches ---------------------------------------------------------------------------------------------------
    def _launch(
        self, kernel: Entry, grid: int | tuple[int, ...], block: int | tuple[int, ...], arguments: tuple
    ) -> None:
        grid = grid if isinstance(grid, tuple) else (grid,)
        if any(side > LAST_GRID_SIDE for side in grid[1:]):
            raise ArgumentError("grid", grid, f"≤ {LAST_GRID_SIDE} in its second side, for {kernel.expression}")
        loaded = self._loaded.get(kernel) or self._load(kernel)
        with self._stream:
            loaded(grid, block if isinstance(block, tuple) else (block,), arguments)

    def _load(self, kernel: Entry) -> Any:
        path = self._kernels / kernel.source
        compiled = compile_file(path, self.chip.arch, name_expressions=[kernel.expression])
        module = self._cp.RawModule(path=str(compiled.cubin_path))
        loaded = self._loaded[kernel] = module.get_function(compiled.lowered_names[kernel.expression])
        return loaded

    def _each(self, kernel: Entry, size: int, arguments: tuple) -> None:
        """Launch an elementwise kernel whose last argument is the number of elements."""
        if size:
            self._launch(kernel, blocks(size), BLOCK, (*arguments, size))

    def _by_rows(
        self,
        source: str,
        kernel: str,
        template: tuple[str, ...],
        arguments: tuple,
        rows: int,
        width: int,
        numbers: tuple = (),
    ) -> None:
        """Launch a kernel in which a team of threads takes a row."""
        team = plans.row_team(width)
        teams = ROWS_A_BLOCK if team == 32 else 1
        chosen = entry(source, kernel, *template, team)
        self._launch(chosen, blocks(rows, teams), (team, teams), (*arguments, rows, width, *numbers))

    # --- checks -----------------------------------------------------------------------------------------------------
    def _check_outer(self, delta: Array, a_prev: Array) -> tuple[int, int, int]:
        """B, n_l and n_{l-1} of a contraction over the batch."""
        rows, width = self._check.matrix("delta", delta)
        width_prev = self._check.matrix("a_prev", a_prev)[1]
        self._check.array("a_prev", a_prev, (rows, width_prev), delta.dtype)
        return rows, width, width_prev

    def _check_control(self, control: Array) -> None:
        self._check.array("control", control, (len(Control),), "float64")


def _replay(graph: Any, stream: Any, workspace: Any) -> None:
    """Launch a graph; does not wait."""
    graph.launch(stream)


def _array_module(device: str) -> Any:
    """CuPy, or what stands for it on the emulated device."""
    try:
        if device == "gpu":
            import cupy

            return cupy
        from gpubp import emulator

        return emulator
    except ImportError as error:
        extra = "cuda13" if device == "gpu" else "emulator"
        raise BackendError(
            f"backend 'cupy' cannot run on device {device!r}: {error}; pip install 'gpubp[{extra}]'"
        ) from error


def _ctype(dtype: np.dtype) -> str:
    return TYPES[str(dtype)]


def _elementwise(activation: Activation) -> str:
    """The C++ name of an activation that works element by element: that of its class."""
    if isinstance(activation, Softmax):
        raise ArgumentError("activation", activation.name, "elementwise; softmax has a method of its own")
    return type(activation).__name__


def _numbers(optimizer: Optimizer) -> tuple[float, float, float]:
    """The optimiser's own numbers as the kernel takes them: two factors, and ε."""
    names: dict[str, tuple[str, ...]] = {"momentum": ("momentum",), "nesterov": ("momentum",), "rmsprop": ("decay",)}
    names |= dict.fromkeys(("adam", "adamw"), ("beta1", "beta2"))
    values = [float(getattr(optimizer, name)) for name in names.get(optimizer.name, ())]
    first, second = (*values, 0.0, 0.0)[:2]
    return first, second, float(getattr(optimizer, "epsilon", 0.0))


def _rows_aligned(form: str, m: int, n: int, k: int, a: Array, b: Array) -> bool:
    """Whether every row of both operands starts on a 16-byte boundary."""
    a_row, b_row = (m if form == "TN" else k), (k if form == "NT" else n)
    return (a_row * a.itemsize | b_row * b.itemsize | a.data.ptr | b.data.ptr) % 16 == 0


def _word(nbytes: int, *addresses: int) -> int:
    """The widest word, in bytes, that a row of this many bytes is made of and that all addresses are aligned for."""
    for word in WORDS:
        if nbytes % word == 0 and all(address % word == 0 for address in addresses):
            return word
    raise ArgumentError("dtype", f"{nbytes} bytes a row", "float32, float64 or int64")
