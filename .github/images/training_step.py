"""Draw one training step: its kernels from top to bottom, and the arrays that each reads and writes.

    python .github/images/training_step.py     writes training-step.svg beside this file

A backend that watches runs one step of a small network. A call has written those of its arrays that are different
afterwards, and read the others: only the names and the equations are typed in. Its level is 1 more than the largest
among those of the calls that it must follow: of what wrote an array that it reads or writes, or read what it writes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from gpubp import Network, Trainer
from gpubp.backends.numpy_backend import NumpyBackend

PICTURE = Path(__file__).with_name("training-step.svg")

SIZES = (3, 4, 2)
"""Widths that differ, so that an array's shape says which layer it belongs to."""
LAST = len(SIZES) - 1

EQUATIONS = {
    "dense_forward": "a{l} = σ(a{below} w{l}ᵀ + b{l})",
    "output_delta": "δ{l} = ∂L/∂a{l} ⊙ σ′, and the loss L",
    "hidden_delta": "δ{l} = (δ{above} w{above}) ⊙ σ′",
    "gather_rows": "a{l}, y = rows of the data",
    "weight_gradient": "∂L/∂w{l} = δ{l}ᵀ a{below} ; ∂L/∂b{l} = Σ δ{l}",
    "update": "w, b ← w, b − a step of Adam",
}
"""The primitives of a step, and what each computes in layer l."""

PARAMETERS = [f"{letter}{{{layer}}}" for layer in range(1, LAST + 1) for letter in ("w", "b")]
GRADIENTS = [f"∂{name}" for name in PARAMETERS]
COLUMNS = (
    ["data"]
    + [f"a{{{layer}}}" for layer in range(LAST + 1)]
    + PARAMETERS
    + ["y", "loss"]
    + [f"δ{{{layer}}}" for layer in range(LAST, 0, -1)]
    + GRADIENTS
    + ["ctrl", "m, v"]
)
"""Every array of a step, in the order of the picture; a number in braces is a layer."""


@dataclass(frozen=True)
class Call:
    """One call of a primitive, which is one launch on a GPU: its layer (0: all, or the input), and the arrays that it
    reads and writes, of `COLUMNS`."""

    primitive: str
    layer: int
    read: set[str]
    written: set[str]

    @property
    def equation(self) -> str:
        """The equation with the layers' numbers."""
        layers = {"l": self.layer, "below": self.layer - 1, "above": self.layer + 1}
        return EQUATIONS[self.primitive].format(**{name: f"{{{layer}}}" for name, layer in layers.items()})

    def follows(self, other: Call) -> bool:
        """True if it must not begin before `other` has ended."""
        return bool(other.written & (self.read | self.written) or other.read & self.written)


def levels(calls: list[Call]) -> list[int]:
    """Return the level of each call, from 1: calls of one level could run at the same time."""
    found: list[int] = []
    for call in calls:
        before = [level for level, other in zip(found, calls, strict=False) if call.follows(other)]
        found.append(1 + max(before, default=0))
    return found


class Watched(NumpyBackend):
    """The NumPy backend, which keeps the calls of the primitives in `EQUATIONS`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        for primitive in EQUATIONS:
            setattr(self, primitive, partial(self._watch, primitive, getattr(self, primitive)))

    def _watch(self, primitive: str, method: Callable[..., None], *arguments: Any) -> None:
        given = inspect.signature(method).bind(*arguments).arguments
        arrays = {name: value for name, value in given.items() if isinstance(value, np.ndarray)}
        for name in ("state", "sources", "out"):
            arrays |= {f"{name}{number}": array for number, array in enumerate(given.get(name, ()))}
        before = {name: array.copy() for name, array in arrays.items()}
        method(*arguments)
        layer = next((SIZES.index(arrays[name].shape[1]) for name in ("delta", "a") if name in arrays), 0)
        changed = {name for name in arrays if not np.array_equal(arrays[name], before[name], equal_nan=True)}
        read, written = (
            {column for name in names for column in columns_of(primitive, name, layer)}
            for names in (arrays.keys() - changed, changed)
        )
        self.calls.append(Call(primitive, layer, read, written))


def columns_of(primitive: str, argument: str, layer: int) -> list[str]:
    """Return the arrays of `COLUMNS` that an argument of a primitive stands for."""
    return {
        "state0": ["m, v"],
        "state1": ["m, v"],
        "sources0": ["data"],
        "sources1": ["data"],
        "order": ["data"],
        "out0": ["a{0}"],
        "out1": ["y"],
        "a_prev": [f"a{{{layer - 1}}}"],
        "a": [f"a{{{layer}}}"],
        "output": [f"a{{{layer}}}"],
        "saved": [f"a{{{layer}}}"],
        "w": [f"w{{{layer}}}"],
        "b": [f"b{{{layer}}}"],
        "y": ["y"],
        "losses": ["loss"],
        "control": ["ctrl"],
        "delta": [f"δ{{{layer}}}"],
        "delta_next": [f"δ{{{layer + 1}}}"],
        "w_next": [f"w{{{layer + 1}}}"],
        "gradient": [f"∂w{{{layer}}}"],
        "bias_gradient": [f"∂b{{{layer}}}"],
        "gradients": GRADIENTS,
        "parameters": PARAMETERS,
    }[argument]


def calls_of_a_step() -> list[Call]:
    """Return the calls of one training step of a network with one hidden layer, in their order."""
    backend = Watched()
    network = Network(
        SIZES, hidden_activation="tanh", output_activation="sigmoid", loss="half_squared_error", backend=backend
    )
    trainer = Trainer(network, "adam")
    rng = np.random.default_rng(0)
    feed = trainer.feed(rng.normal(size=(5, SIZES[0])).astype("float32"), rng.random((5, SIZES[-1])).astype("float32"))
    feed.visit(rng.permutation(5))
    trainer.step_rows(feed, 0, 5)
    return backend.calls


# --- the picture ------------------------------------------------------------------------------------------------------
LEFT, RIGHT, TOP, BOTTOM = 180, 290, 50, 40
COLUMN, ROW = 44, 34
INK, READ, WRITTEN, PALE = "#222222", "#0072b2", "#d55e00", "#d9d9d9"
"""Blue and orange, which all eyes tell apart; a ring and a disc tell them apart in grey too."""


def drawing(calls: list[Call]) -> str:
    """Return the picture as SVG."""
    width, height = LEFT + COLUMN * len(COLUMNS) + RIGHT, TOP + ROW * len(calls) + BOTTOM
    root = ElementTree.Element(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {width} {height}", "font-family": "sans-serif"},
    )
    add(root, "rect", width=width, height=height, fill="white")
    for number, column in enumerate(COLUMNS):
        text(root, x_of(number), TOP - 16, column, anchor="middle")
        add(root, "line", x1=x_of(number), x2=x_of(number), y1=TOP - 8, y2=y_of(len(calls)) - 11, stroke=PALE)
    text(root, 14, TOP - 16, "level")
    for number, (call, level) in enumerate(zip(calls, levels(calls), strict=True)):
        y = y_of(number)
        text(root, 22, y + 5, str(level))
        text(root, LEFT - 14, y + 5, call.primitive, anchor="end", family="monospace")
        places = sorted(COLUMNS.index(column) for column in call.read | call.written)
        add(root, "line", x1=x_of(places[0]), x2=x_of(places[-1]), y1=y, y2=y, stroke=INK)
        for place in places:
            is_written = COLUMNS[place] in call.written
            fill, stroke = (WRITTEN, WRITTEN) if is_written else ("white", READ)
            add(root, "circle", cx=x_of(place), cy=y, r=7, fill=fill, stroke=stroke, **{"stroke-width": 3})
        text(root, x_of(len(COLUMNS)), y + 5, call.equation)
    y = height - 14
    for x, fill, stroke, label in ((LEFT, "white", READ, "reads"), (LEFT + 90, WRITTEN, WRITTEN, "writes")):
        add(root, "circle", cx=x, cy=y - 5, r=7, fill=fill, stroke=stroke, **{"stroke-width": 3})
        text(root, x + 14, y, label)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def x_of(column: int) -> float:
    """Return where the middle of a column is."""
    return LEFT + COLUMN * (column + 0.5)


def y_of(row: int) -> float:
    """Return where the middle of a row is."""
    return TOP + ROW * (row + 0.5)


def add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
    """Add an element with these attributes, and return it."""
    return ElementTree.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})


def text(
    parent: ElementTree.Element, x: float, y: float, content: str, anchor: str = "start", family: str = "sans-serif"
) -> None:
    """Add a line of text, in which a number in braces is a layer, above the line."""
    digits = {"{0}": "⁰", "{1}": "¹", "{2}": "²"}
    for braces, digit in digits.items():
        content = content.replace(braces, digit)
    attributes = {"text-anchor": anchor, "font-family": family, "font-size": 15, "fill": INK}
    add(parent, "text", x=x, y=y, **attributes).text = content


if __name__ == "__main__":
    PICTURE.write_text(drawing(calls_of_a_step()), encoding="utf-8")
