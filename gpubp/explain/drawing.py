"""Drawings as SVG and heat maps as PNG, made of numbers alone; colours say the sign and the size of a number."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from gpubp.explain.equations import number

POSITIVE, NEGATIVE = (31, 100, 173), (200, 104, 22)
"""RGB of the largest number and of the smallest."""

MOST_DRAWN = 12
"""Neurons of a layer up to which a network is drawn with circles and lines."""

MOST_PIXELS = 128
"""Sides of a heat map; larger arrays are averaged over neighbours."""

RADIUS, COLUMN, ROW = 24, 190, 68
"""Of a neuron, and the distances of layers and of neurons, in the units of a drawing."""

ROOM = 6
"""Characters of a number that fit into a neuron in the usual size."""


def shade(value: float, most: float) -> str:
    """Return the colour of a number among numbers of up to `most`: white for 0."""
    red, green, blue = _rgb(np.array([value]), most)[0]
    return f"#{red:02x}{green:02x}{blue:02x}"


def _rgb(values: np.ndarray, most: float) -> np.ndarray:
    """Return the colours of numbers, (..., 3) uint8."""
    share = np.clip(np.nan_to_num(np.abs(values) / most if most > 0 else np.zeros_like(values)), 0, 1)[..., None]
    full = np.where(values[..., None] < 0, NEGATIVE, POSITIVE)
    return np.rint(255 + (full - 255) * (0.12 + 0.88 * share) * (share > 0)).astype(np.uint8)


def _ink(value: float, most: float) -> str:
    """Return the colour of text on the shade of a number."""
    return "#fff" if most > 0 and abs(value) / most > 0.55 else "#1d2125"


# --- networks ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Circles:
    """What a drawing of a network shows.

    Attributes:
        values: of each layer from 0, (n_l,); None leaves its circles empty.
        weights: of each layer from 1, (n_l, n_{l-1}), which the lines show; None draws thin grey lines.
        labels: what stands below each layer.
        active: layers whose circles are marked, and whose incoming lines are in front.
        shown: layers whose lines have their numbers written on them.
    """

    values: Sequence[np.ndarray | None]
    weights: Sequence[np.ndarray | None]
    labels: Sequence[str]
    sizes: Sequence[int]
    active: frozenset[int] = frozenset()
    shown: frozenset[int] = frozenset()
    title: str = ""
    links: Mapping[tuple[int, ...], str] = field(default_factory=dict)


def network(circles: Circles) -> str:
    """Return the drawing of a network as SVG."""
    sizes = circles.sizes
    height = max(sizes) * ROW + 40
    width = (len(sizes) - 1) * COLUMN + 4 * RADIUS
    most = _largest(circles.values)
    heaviest = _largest(circles.weights)
    parts = [
        f'<svg class="network" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(circles.title, True)}" '
        f'style="max-width:{width * 1.1:.0f}px">'
    ]
    for l in range(1, len(sizes)):
        w = circles.weights[l - 1]
        for j in range(sizes[l]):
            for i in range(sizes[l - 1]):
                value = None if w is None else float(w[j, i])
                parts.append(_line(circles, l, j, i, value, heaviest))
    for l, n in enumerate(sizes):
        values = circles.values[l]
        for j in range(n):
            parts.append(_circle(circles, l, j, None if values is None else float(values[j]), most))
        x = _place(sizes, l, 0)[0]
        parts.append(f'<text class="label" x="{x}" y="{height - 8}">{escape(circles.labels[l])}</text>')
    return "".join(parts) + "</svg>"


def _largest(arrays: Sequence[np.ndarray | None]) -> float:
    return max((float(np.abs(each).max()) for each in arrays if each is not None and each.size), default=0.0)


def _place(sizes: Sequence[int], l: int, j: int) -> tuple[float, float]:
    return 2 * RADIUS + l * COLUMN, 14 + ROW * ((max(sizes) - sizes[l]) / 2 + j + 0.5)


def _line(circles: Circles, l: int, j: int, i: int, value: float | None, most: float) -> str:
    (x1, y1), (x2, y2) = _place(circles.sizes, l - 1, i), _place(circles.sizes, l, j)
    if value is None:
        return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="unknown"/>'
    thick = 0.8 + 6 * abs(value) / most if most > 0 else 0.8
    colour = "#%02x%02x%02x" % (NEGATIVE if value < 0 else POSITIVE)
    faint = ' class="faint"' if circles.active and l not in circles.active else ""
    line = (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{thick:.2f}"{faint}>'
        f"<title>{number(value)}</title></line>"
    )
    if l in circles.shown:
        # at different places of neighbouring lines, so that the numbers do not lie on each other
        share = 0.3 + 0.2 * ((i + 2 * j) % 3)
        x, y = x1 + share * (x2 - x1), y1 + share * (y2 - y1)
        line += f'<text class="weight" x="{x:.1f}" y="{y:.1f}">{number(value, 3)}</text>'
    return _linked(circles, (l, j, i), line)


def _circle(circles: Circles, l: int, j: int, value: float | None, most: float) -> str:
    x, y = _place(circles.sizes, l, j)
    mark = " active" if l in circles.active else ""
    if value is None:
        return f'<circle class="unknown{mark}" cx="{x}" cy="{y}" r="{RADIUS}"/>'
    text = number(value, 3)
    kind = "value" if len(text) <= ROOM else "value long"
    circle = (
        f'<circle class="neuron{mark}" cx="{x}" cy="{y}" r="{RADIUS}" fill="{shade(value, most)}"/>'
        f'<text class="{kind}" x="{x}" y="{y}" fill="{_ink(value, most)}">{text}</text>'
    )
    return _linked(circles, (l, j), circle)


def _linked(circles: Circles, place: tuple[int, ...], drawn: str) -> str:
    target = circles.links.get(place)
    return f'<a href="#{target}">{drawn}</a>' if target else drawn


# --- heat maps --------------------------------------------------------------------------------------------------------
def heat_map(array: np.ndarray, most: float | None = None) -> str:
    """Return an array (n,) or (n, m) as a data URI of a PNG, a pixel for each number; a larger one is averaged."""
    matrix = np.atleast_2d(np.asarray(array, np.float64))
    for axis in (0, 1):
        matrix = _averaged(matrix, axis)
    return png(_rgb(matrix, _largest([matrix]) if most is None else most))


def _averaged(matrix: np.ndarray, axis: int) -> np.ndarray:
    side = matrix.shape[axis]
    if side <= MOST_PIXELS:
        return matrix
    edges = np.linspace(0, side, MOST_PIXELS + 1).astype(int)
    sums = np.add.reduceat(matrix, edges[:-1], axis=axis)
    counts = np.diff(edges)
    return sums / (counts[:, None] if axis == 0 else counts)


def png(pixels: np.ndarray) -> str:
    """Return pixels (height, width, 3) uint8 as a data URI."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


# --- curves -----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Curve:
    """A line of a plot: `x` and `y` of one length, its colour, and an SVG dash pattern; "" for a solid one."""

    x: np.ndarray
    y: np.ndarray
    colour: str = "#1f64ad"
    dash: str = ""
    width: float = 2


def plot(
    curves: Sequence[Curve],
    title: str,
    *,
    logarithmic: bool = False,
    size: tuple[int, int] = (300, 190),
    x_label: str = "",
    marked: float | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Return a plot as SVG, with the ends of both axes written.

    Args:
        title: for those who cannot see it.
        logarithmic: the y axis.
        marked: an x at which a thin line stands.
        limits: of y; None: those of the curves.
    """
    width, height = size
    left, right, top, bottom = 56, width - 8, 8, height - 34
    scale: Callable[[np.ndarray], np.ndarray] = np.log10 if logarithmic else np.asarray
    all_x = np.concatenate([curve.x for curve in curves])
    all_y = np.concatenate([curve.y for curve in curves]) if limits is None else np.array(limits)
    usable = scale(all_y[all_y > 0] if logarithmic else all_y)
    (x0, x1), (y0, y1) = (all_x.min(), all_x.max()), (usable.min(), usable.max())
    x_span, y_span = (x1 - x0) or 1, (y1 - y0) or 1

    def at(x: np.ndarray, y: np.ndarray) -> str:
        xs = left + (x - x0) / x_span * (right - left)
        ys = bottom - (scale(y) - y0) / y_span * (bottom - top)
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(xs, ys, strict=True))

    parts = [f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title, True)}">']
    parts.append(f'<path class="axes" d="M{left} {top}V{bottom}H{right}"/>')
    if marked is not None:
        x = left + (marked - x0) / x_span * (right - left)
        parts.append(f'<path class="mark" d="M{x:.1f} {top}V{bottom}"/>')
    for curve in curves:
        dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
        points = at(curve.x, curve.y)
        parts.append(f'<polyline points="{points}" stroke="{curve.colour}" stroke-width="{curve.width}"{dash}/>')
    ends = [10.0**y for y in (y0, y1)] if logarithmic else [y0, y1]
    for value, y in zip(ends, (bottom, top + 10), strict=True):
        parts.append(f'<text class="tick end" x="{left - 4}" y="{y}">{_short(value)}</text>')
    for value, x, kind in ((x0, left, "start"), (x1, right, "end")):
        parts.append(f'<text class="tick {kind}" x="{x}" y="{bottom + 14}">{number(float(value))}</text>')
    if x_label:
        parts.append(f'<text class="tick middle" x="{(left + right) / 2}" y="{height - 6}">{escape(x_label)}</text>')
    return "".join(parts) + "</svg>"


def _short(value: float) -> str:
    return f"{float(value):.2g}".replace("-", "−")
