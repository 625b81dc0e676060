"""Where the weights and biases of all layers lie in one flat array, so that an update is one pass over it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.backends.base import Array
from gpubp.errors import StateError

ALIGNMENT = 128
"""Bytes: each layer's weights and bias start at a multiple, so that kernels may load 16 bytes at once."""


@dataclass(frozen=True)
class Layout:
    """The weights of all layers, then the biases; what lies between them, for alignment, is 0 and stays so.

    depth: L. parts: start and shape of w[1] .. w[L], then of b[1] .. b[L], if there are biases.
    bias_start: where the biases begin; size: of the flat array. All in elements.
    """

    depth: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    bias_start: int
    size: int

    @classmethod
    def of(cls, sizes: Sequence[int], bias: bool, dtype: str) -> Layout:
        """The layout for layers of these widths, n_0 .. n_L."""
        shapes: list[tuple[int, ...]] = [(n, m) for m, n in itertools.pairwise(sizes)]
        depth = len(shapes)
        if bias:
            shapes += [(n,) for n in sizes[1:]]
        unit = ALIGNMENT // np.dtype(dtype).itemsize
        rounded = [-(-math.prod(shape) // unit) * unit for shape in shapes]
        starts = [0, *itertools.accumulate(rounded)]
        return cls(depth, tuple(zip(starts[:-1], shapes, strict=True)), starts[depth], starts[-1])

    @property
    def count(self) -> int:
        """Weights and biases, without what lies between them."""
        return sum(math.prod(shape) for _, shape in self.parts)

    def layers(self, flat: Array) -> tuple[list[Array], list[Array]]:
        """Views of a flat array of this layout: (weights, biases), indexed by layer; entry 0 is None, and so are all
        biases where there are none."""
        views = [flat[start : start + math.prod(shape)].reshape(shape) for start, shape in self.parts]
        weights, biases = views[: self.depth], views[self.depth :]
        return [None, *weights], [None, *(biases or [None] * self.depth)]

    def named(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Views of a flat array on the host by names: "layer1.weight", "layer1.bias" and so on."""
        w, b = self.layers(flat)
        layers = range(1, self.depth + 1)
        return {f"layer{l}.weight": w[l] for l in layers} | {f"layer{l}.bias": b[l] for l in layers if b[l] is not None}

    def flat(self, named: Mapping[str, Any], dtype: str) -> np.ndarray:
        """The flat array of arrays by these names. Raises ArgumentError for one that is missing or does not fit."""
        flat = np.zeros(self.size, dtype)
        for name, view in self.named(flat).items():
            if name not in named or np.shape(named[name]) != view.shape:
                state = f"has shape {np.shape(named[name])}" if name in named else "is missing"
                raise StateError(name, state, f"have shape {view.shape}")
            if np.asarray(named[name]).dtype.kind not in "biuf":
                raise StateError(name, f"holds {np.asarray(named[name]).dtype}", "hold real numbers")
            view[...] = named[name]
        return flat
