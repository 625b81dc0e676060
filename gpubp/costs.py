"""What each primitive costs at least: its flops, its bytes, and the time that a machine takes for them at least.

A product has 2·M·N·K flops, as usual, without what its epilogue does with each sum. The others have the operations of
their equation for each element; a function (exp, σ, σ', ∂ℓ/∂a) counts as one operation.

Bytes count each input once and each output once. A kernel moves more if an operand does not fit on the chip and is read
again, and less if a cache still holds what the kernel before it wrote.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpubp.chips import Roofline
from gpubp.dtypes import ARITHMETIC, canonical
from gpubp.errors import ArgumentError, shown, unknown_name
from gpubp.nn import activations, optimizers
from gpubp.registry import require_count

PRODUCTS = ("dense_forward", "hidden_delta", "transpose_product", "weight_gradient", "weight_step")
"""Primitives whose shape is (M, N, K) (see `cost`)."""

MATRICES = ("output_delta", "hadamard_derivative", "softmax", "bias_gradient")
"""Primitives whose shape is (B, n)."""

PRIMITIVES = (*PRODUCTS, *MATRICES, "update")
"""All primitives that `cost` knows."""

PENALTY_FLOPS = 5
"""Operations a parameter of both penalties, in the gradient or apart from it: a sign, two products and two sums."""

DOUBLE = 8
LABEL = 8
"""Bytes of an int64 label."""

UPDATE_FLOPS = {"sgd": 2, "momentum": 4, "nesterov": 6, "rmsprop": 9, "adam": 13, "adamw": 14}
"""Operations a parameter of each recurrence, as kernels/cuda/update.cu writes it, without clipping; adamw decays."""


@dataclass(frozen=True)
class Cost:
    """The least work of one primitive at one shape.

    Attributes:
        flops: floating-point operations.
        bytes_read, bytes_written: each input once, each output once.
        rate: the kind of arithmetic that limits it (see `gpubp.dtypes.ARITHMETIC`).
    """

    flops: int
    bytes_read: int
    bytes_written: int
    rate: str = "float32"

    @property
    def bytes(self) -> int:
        """Return the bytes read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def intensity(self) -> float:
        """Return the arithmetic intensity, in flops a byte."""
        return self.flops / self.bytes

    def least_seconds(self, limits: Roofline) -> float:
        """Return the time below which no kernel can do this work on a machine with these limits."""
        return max(self.flops / limits.peak, self.bytes / limits.bandwidth)


def cost(
    primitive: str,
    shape: Sequence[int],
    dtype: str = "float32",
    *,
    activation: str = "relu",
    bias: bool = True,
    labels: bool = True,
    optimizer: str = "sgd",
    weighted: bool = False,
    accumulate: bool = False,
    penalties: bool = False,
) -> Cost:
    """Return the least work of a primitive.

    Args:
        primitive: one of `PRIMITIVES`.
        shape: (M, N, K) for a product: dense_forward (B, n_l, n_{l-1}), hidden_delta and transpose_product
            (B, n_l, n_{l+1}), weight_gradient and weight_step (n_l, n_{l-1}, B); (parameters,) for update; else (B, n).
        dtype: the kind of arithmetic, of `gpubp.dtypes.ARITHMETIC`. Arrays are stored in it; for tf32 in float32.
            Biases, gradients and parameters are float32 if it has 16 bits.
        activation: σ; if its derivative reads z, dense_forward keeps z besides a.
        bias: True if dense_forward adds a bias.
        labels: True: output_delta is of softmax and cross-entropy, with int64 labels. False: of (B, n) targets, with a
            separate loss and activation.
        optimizer: of update.
        weighted: True if output_delta reads a weight for each row.
        accumulate: True if weight_gradient and bias_gradient add to what they read.
        penalties: True if update has ℓ₁ and ℓ₂ penalties.

    Raises:
        ArgumentError: a name or the shape is wrong.
    """
    if primitive not in PRIMITIVES:
        raise unknown_name("primitive", primitive, PRIMITIVES)
    kind = ARITHMETIC[canonical("dtype", dtype)]
    sides = checked_shape(primitive, shape)
    stored, master = kind.item_bytes, kind.accumulator.itemsize
    if primitive in PRODUCTS:
        flops, read, written = _product(primitive, sides, stored, master, activations.get(activation).reads, bias)
        read += written if accumulate and primitive == "weight_gradient" else 0
        return Cost(flops, read, written, kind.name)
    rate = str(kind.accumulator)  # only products run on tensor cores
    if primitive == "update":
        return _update(sides[0], stored, master, optimizer, rate, penalties)
    flops, read, written = _elementwise(primitive, sides, stored, master, labels)
    rows, width = sides
    if weighted and primitive == "output_delta":
        flops, read = flops + rows * width, read + rows * master
    if accumulate and primitive == "bias_gradient":
        flops, read = flops + width, read + written
    return Cost(flops, read, written, rate)


def sides_of(primitive: str) -> int:
    """Return the number of sides of a primitive's shape."""
    return 3 if primitive in PRODUCTS else 1 if primitive == "update" else 2


def checked_shape(primitive: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape as a tuple.

    Raises:
        ArgumentError: the number of sides is not the primitive's, or a side is no whole number ≥ 1.
    """
    sides = tuple(shape)
    count = sides_of(primitive)
    if len(sides) != count or not all(isinstance(side, int) and side >= 1 for side in sides):
        form = {3: "MxNxK", 2: "two sides, BxN", 1: "one number of parameters"}[count]
        raise ArgumentError("shape", "x".join(map(shown, sides)), f"{form}, each side ≥ 1, for {primitive}")
    for side in sides:
        require_count("shape", side)
    return sides


def _product(
    primitive: str, sides: tuple[int, ...], stored: int, master: int, derivative_reads: str, bias: bool
) -> tuple[int, int, int]:
    m, n, k = sides
    operands, result = (m * k + k * n) * stored, m * n * stored
    read, written = {
        "dense_forward": (n * master if bias else 0, result * (2 if derivative_reads == "z" else 1)),
        "hidden_delta": (result, result),
        "transpose_product": (0, result),
        "weight_gradient": (0, m * n * master),
        "weight_step": (m * n * master, m * n * master),
    }[primitive]
    return 2 * m * n * k, operands + read, written


def _elementwise(
    primitive: str, sides: tuple[int, ...], stored: int, master: int, labels: bool
) -> tuple[int, int, int]:
    rows, width = sides
    size = math.prod(sides)
    if primitive == "softmax":  # maximum, difference, exp, sum, quotient
        return 5 * size, size * stored, size * stored
    if primitive == "hadamard_derivative":  # σ', product
        return 2 * size, 2 * size * stored, size * stored
    if primitive == "bias_gradient":
        return size, size * stored, width * master
    if labels:  # softmax without its quotient, then a − y scaled
        return 6 * size, size * stored + rows * LABEL, size * stored + 2 * DOUBLE
    # ℓ and its sum, ∂ℓ/∂a, σ', product, scale; σ' reads what the loss reads
    return 6 * size, size * (stored + master), size * stored + 2 * DOUBLE


def _update(size: int, stored: int, master: int, optimizer: str, rate: str, penalties: bool) -> Cost:
    rule = optimizers.get(optimizer)
    copy = size * stored if stored < master else 0  # the weights as products read them
    arrays = 1 + len(rule.state)  # parameters and state are read and written
    flops = UPDATE_FLOPS[rule.name] + (PENALTY_FLOPS if penalties else 0)
    return Cost(flops * size, (arrays + 1) * size * master, arrays * size * master + copy, rate)
