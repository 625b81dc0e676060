"""What every export makes of a model first: its scaling and its layers, as the other library is to compute them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpubp.nn.activations import Activation
from gpubp.training.model import Model

FARTHEST = 1e300
"""Stands for a limit of a scaled input that is infinite."""


@dataclass(frozen=True)
class Folded:
    """A model's arithmetic from raw inputs to its outputs, in float64.

    x ← clip((x − offset) · scale, −limit, limit); a ← σ_l(w_l a + b_l) for each layer; then for values
    a / target_scale + target_offset, which is part of the last layer where that is linear, unless it is to be apart.

    Attributes:
        offset, scale: (features,).
        limit: (features,), or None where nothing is bounded.
        w, b: of the layers, (n_l, n_{l-1}) and (n_l,).
        activations: of the layers, the last one's included.
        values: offset and scale, (outputs,) each, of what is left to do to values; None if nothing is.
    """

    offset: np.ndarray
    scale: np.ndarray
    limit: np.ndarray | None
    w: list[np.ndarray]
    b: list[np.ndarray]
    activations: list[Activation]
    values: tuple[np.ndarray, np.ndarray] | None

    @classmethod
    def of(cls, model: Model, *, values_apart: bool = False) -> Folded:
        """Return the arithmetic of a model.

        values_apart: the scaling of values is no part of a layer, which may be computed in a narrow dtype.
        """
        network, scaler, target = model.network, model.scaler, model.target_scaler
        named = {name: array.astype(np.float64) for name, array in network.weights().items()}
        layers = range(1, network.depth + 1)
        w = [named[f"layer{l}.weight"] for l in layers]
        b = [named.get(f"layer{l}.bias", np.zeros(len(w[l - 1]))) for l in layers]
        limit = None if scaler.limit is None else np.minimum(scaler.limit, FARTHEST)
        activations, values = network.activations[1:], None
        if target is not None and activations[-1].name == "identity" and not values_apart:
            w[-1], b[-1] = w[-1] / target.scale[:, None], b[-1] / target.scale + target.offset
        elif target is not None:
            values = target.offset, target.scale
        return cls(scaler.offset, scaler.scale, limit, w, b, activations, values)

    @property
    def scales(self) -> bool:
        """True if inputs are changed before the first layer."""
        return self.limit is not None or bool(self.offset.any() or (self.scale != 1).any())
