"""The place of each layer's weights and biases in one flat array, so that an update is one pass over it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpubp.arrays import on_host
from gpubp.backends.base import Array
from gpubp.errors import StateError

ALIGNMENT = 128
"""Bytes: each layer's weights and bias start at a multiple of this, so that kernels may load 16 bytes at once."""


@dataclass(frozen=True)
class Layout:
    """The weights of all layers, then the biases; the gaps between them, for alignment, are 0 and stay so.

    Attributes:
        depth: L.
        parts: start and shape of w[1] .. w[L], then of b[1] .. b[L] if there are biases.
        bias_start: where the biases begin.
        size: of the flat array. This and all starts are in elements.
    """

    depth: int
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    bias_start: int
    size: int

    @classmethod
    def of(cls, sizes: Sequence[int], bias: bool, dtype: str) -> Layout:
        """Return the layout for layers of these widths, n_0 .. n_L."""
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
        """The number of weights and biases, without the gaps."""
        return sum(math.prod(shape) for _, shape in self.parts)

    def layers(self, flat: Array) -> tuple[list[Array], list[Array]]:
        """Return views of a flat array of this layout: (weights, biases), indexed by layer.

        Entry 0 is None, and so is every bias in a network without.
        """
        views = [flat[start : start + math.prod(shape)].reshape(shape) for start, shape in self.parts]
        weights, biases = views[: self.depth], views[self.depth :]
        return [None, *weights], [None, *(biases or [None] * self.depth)]

    def named(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Return views of a flat array on the host by name: "layer1.weight", "layer1.bias" and so on."""
        w, b = self.layers(flat)
        layers = range(1, self.depth + 1)
        return {f"layer{l}.weight": w[l] for l in layers} | {f"layer{l}.bias": b[l] for l in layers if b[l] is not None}

    def flat(self, named: Mapping[str, Any], dtype: str) -> np.ndarray:
        """Return a flat array of these arrays by name. Raises ArgumentError for one that is missing or does not fit."""
        flat = np.zeros(self.size, dtype)
        for name, view in self.named(flat).items():
            if name not in named:
                raise StateError(name, "is missing", f"have shape {view.shape}")
            array = np.asarray(on_host(name, named[name]))
            if array.shape != view.shape:
                raise StateError(name, f"has shape {array.shape}", f"have shape {view.shape}")
            if array.dtype.kind not in "biuf":
                raise StateError(name, f"holds {array.dtype}", "hold real numbers")
            with np.errstate(over="ignore"):  # what is beyond the dtype becomes infinite
                view[...] = array
        return flat
