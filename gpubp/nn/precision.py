"""Precisions: the data types by role, rounding to those that NumPy lacks, and the scaling of the loss for FP16.

Mixed precision (Micikevicius et al., "Mixed Precision Training", 2018): the weights that the optimiser updates, its
state and the gradients stay float32. The products read a copy of the weights in 16 bits, and activations and deltas are
stored in 16 bits. Sums are float32. A value is rounded once, when it is stored, and a conversion never saturates: what
is too large becomes infinite, so that an overflow shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from gpubp.dtypes import ARITHMETIC, HALVES
from gpubp.errors import ArgumentError
from gpubp.registry import require_count, require_number


@dataclass(frozen=True)
class Precision:
    """Data types by role, as NumPy's names.

    Attributes:
        master: what the optimiser updates, its state and the gradients; targets of regression.
        storage: weights, activations and deltas as the products read them.
        accumulator: what a product sums in.
        operands: what products round their operands to before they multiply; "tf32" is no dtype of NumPy.
    """

    master: str = "float32"
    storage: str = "float32"
    accumulator: str = "float32"
    operands: str = "float32"

    @classmethod
    def of(cls, kind: str) -> Precision:
        """Return the roles' dtypes for a kind of arithmetic, one of `gpubp.dtypes.ARITHMETIC`."""
        arithmetic = ARITHMETIC[kind]
        accumulator = str(arithmetic.accumulator)
        return cls(accumulator, str(arithmetic.storage), accumulator, kind)

    @property
    def tf32(self) -> bool:
        """True if products round float32 operands to TF32."""
        return self.operands == "tf32"

    @property
    def stores_copy(self) -> bool:
        """True if the products read a copy of the weights in another dtype than the optimiser updates."""
        return self.storage != self.master


PRECISIONS = {ARITHMETIC[kind].short: Precision.of(kind) for kind in ("bfloat16", "float16", "tf32")}
"""What a float32 network may take in place of float32 throughout, by the name in `Network(precision=)`."""


@dataclass(frozen=True)
class LossScaling:
    """Dynamic scaling of the loss, so that small deltas are not lost under the smallest float16 (2⁻²⁴).

    δ^L is multiplied by the scale before it is rounded, and with it every gradient; `update` divides again. A step
    whose gradient is not finite is skipped, and the scale is halved (not under 1); after `growth_interval` steps in a
    row without a skip it is doubled, up to 2²⁴ (`LARGEST_LOSS_SCALE`). All of it is decided on the device.

    initial: the scale at the start, a power of two from 1 to 2¹²⁷, so that scaling rounds nothing and float32 holds it.
        One above 2²⁴ only falls.
    """

    initial: float = 2.0**16
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        require_number("initial", self.initial, least=1, most=2.0**127)
        if math.frexp(self.initial)[0] != 0.5:
            raise ArgumentError("initial", self.initial, "a power of two")
        require_count("growth_interval", self.growth_interval)

    def config(self) -> dict[str, Any]:
        """Return all settings, as JSON can hold them."""
        return asdict(self)

    @classmethod
    def get(cls, chosen: LossScaling | Mapping[str, Any] | None) -> LossScaling:
        """Return the scaling from its `config()`, or itself; None: the default."""
        if isinstance(chosen, LossScaling):
            return chosen
        if chosen is not None and not isinstance(chosen, Mapping):
            raise ArgumentError("loss_scaling", chosen, "a LossScaling")
        try:
            return cls(**(chosen or {}))
        except TypeError:
            raise ArgumentError("loss_scaling", dict(chosen or {}), "fields of LossScaling") from None


def require_master(argument: str, x: Any) -> None:
    """Raise ArgumentError for an array of 16 bits where the optimiser works: its steps would be rounded away."""
    if x.dtype in HALVES:
        raise ArgumentError(f"{argument}.dtype", str(x.dtype), "float32 or float64")


def widened(x: np.ndarray) -> np.ndarray:
    """Return x in the dtype that its values are computed in: 16 bits become float32, exactly."""
    return x.astype(np.float32) if x.dtype in HALVES else x


def round_to_tf32(x: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to TF32: 10 stored bits of significand, to nearest, ties away from zero.

    As the instruction `cvt.rna.tf32.f32` rounds; Hopper's copy engine rounds ties to even. Beyond the largest TF32
    value lies infinity; NaN and infinities stay.
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    # the sign is apart from the magnitude, so that half a unit of the last bit that stays rounds ties away from zero
    rounded = ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return np.where(np.isfinite(x), rounded, x)
