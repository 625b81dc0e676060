"""The page of one step of backpropagation: the network drawn with its numbers, step after step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from gpubp.explain import drawing
from gpubp.explain.catalogue import Catalogue
from gpubp.explain.depths import ACTIVATIONS, DEPTHS, FACTORS, ROWS, WIDTH, DeepNetwork, deep_networks
from gpubp.explain.drawing import Circles, Curve
from gpubp.explain.equations import number
from gpubp.explain.network_equations import Notation, Step, kernel_line, steps
from gpubp.explain.network_step import HALF_STEP, MOST_MOVED, MOST_NODES, Moved, OneStep
from gpubp.explain.pages import page

MOST_LISTED = 4096
"""Numbers of an array up to which the page holds it as JSON too."""

EXCERPT = 7
"""Lines of a kernel before and after the one that is shown."""


@dataclass(frozen=True)
class Example:
    """Where a model's example comes from: the model, the number of the row, and the data."""

    model: str
    row: int
    data: str


@dataclass(frozen=True)
class _Shown:
    """A step as the page shows it."""

    number: int
    title: str
    text: str
    drawings: list[Markup]
    equations: list[tuple[Markup, Markup]]
    kernels: list[tuple[str, str]]  # anchor, and file with line


@dataclass(frozen=True)
class _Answer:
    """What moving one number does, as the page shows it."""

    anchor: str
    title: str
    curve: Markup
    derivative: float
    difference: float


def network_page(
    step: OneStep, letters: Notation, texts: Catalogue, command: str, example: Example | None = None
) -> str:
    """Return the page as HTML.

    Args:
        step: all its numbers.
        letters: of the equations.
        texts: in the page's language.
        command: the command line that made it.
        example: of a model; None if the network was made for the page.
    """
    found = steps(step, letters)
    places = list(dict.fromkeys(place for each in found for place in each.kernels))
    sizes = "-".join(map(str, step.sizes))
    activations = ", ".join(dict.fromkeys(layer.activation.name for layer in step.layers))
    return page(
        "network.html",
        texts,
        command,
        title=texts("network.title", sizes=sizes),
        data=_data(step),
        intro=texts(
            "network.intro",
            sizes=sizes,
            activations=activations,
            loss=step.loss.name,
            rate=number(step.learning_rate),
        ),
        example=None
        if example is None
        else texts("network.model", model=example.model, example=example.row, data=example.data),
        letters=texts("notation.text", z=letters.z, a=letters.a, w=letters.w, b=letters.b),
        drawn=is_drawn(step),
        steps=[_shown(number, each, step, letters, texts) for number, each in enumerate(found, 1)],
        answers=[_answer(each, step, texts) for each in (*step.nodes, *step.weights)],
        moved=texts("moved.text", h=number(HALF_STEP)),
        many=texts("moved.many", nodes=MOST_NODES, weights=MOST_MOVED),
        depths=_depths(texts),
        sources=[_source(place, texts) for place in places],
        number=number,
    )


def is_drawn(step: OneStep) -> bool:
    """True if the network is drawn with circles and lines; a larger one is shown by heat maps."""
    return max(step.sizes) <= drawing.MOST_DRAWN


def _shown(place: int, each: Step, step: OneStep, n: Notation, texts: Catalogue) -> _Shown:
    values = {"layer": each.layer, "before": number(step.loss_before), "after": number(step.loss_after)}
    title = texts(f"step.{each.kind}.title", **values)
    draw = _circles if is_drawn(step) else _heat_maps
    return _Shown(
        place,
        title,
        texts(f"step.{each.kind}.text", **values),
        draw(each, step, n, title),
        [tuple(map(Markup, equation.mathml())) for equation in each.equations],  # type: ignore[misc]
        [(_anchor(kernel), ":".join(map(str, _named(kernel)))) for kernel in each.kernels],
    )


def _named(place: str) -> tuple[str, int]:
    path, line = kernel_line(place)
    return path.name, line


def _anchor(place: str) -> str:
    return f"kernel-{place.replace(' ', '-')}"


# --- drawings ---------------------------------------------------------------------------------------------------------
def _circles(each: Step, step: OneStep, n: Notation, title: str) -> list[Markup]:
    """Return the network with what the step has computed so far: activations forward, δ backward."""
    last = len(step.layers)
    forward = each.kind in ("forward", "loss", "after")
    activations = [step.x, *(layer.a for layer in step.layers)]
    deltas = [None, *(layer.delta for layer in step.layers)]
    values: list[np.ndarray | None]
    weights: list[np.ndarray | None] = [layer.w for layer in step.layers]
    if forward:
        reached = each.layer if each.kind == "forward" else last
        values = [a if l <= reached else None for l, a in enumerate(activations)]
        labels = [f"{n.x} = {n.a}0" if l == 0 else f"{n.a}{l}" for l in range(last + 1)]
    else:
        reached = each.layer if each.kind in ("output_delta", "hidden_delta") else 1
        values = [delta if l >= reached else None for l, delta in enumerate(deltas)]
        labels = [n.x if l == 0 else f"δ{l}" for l in range(last + 1)]
    if each.kind == "gradient":
        weights = [layer.dw if layer.number == each.layer else None for layer in step.layers]
        values[each.layer - 1] = activations[each.layer - 1]
        labels[each.layer - 1] = f"{n.a}{each.layer - 1}"
    if each.kind in ("update", "after"):
        changed = each.layer if each.kind == "update" else last
        weights = [layer.w_after if layer.number <= changed else layer.w for layer in step.layers]
    if each.kind == "after":
        values = [step.x, *step.a_after]
    lines = {"forward": each.layer, "gradient": each.layer, "update": each.layer, "hidden_delta": each.layer + 1}
    line = lines.get(each.kind)
    circles = Circles(
        values,
        weights,
        [_raised(label) for label in labels],
        step.sizes,
        frozenset({each.layer} if each.layer else ()) | frozenset(() if line is None else (line,)),
        frozenset(() if line is None else (line,)),
        title,
        _links(step),
    )
    return [Markup(drawing.network(circles))]


def _raised(label: str) -> str:
    return label.translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _links(step: OneStep) -> dict[tuple[int, ...], str]:
    return {(each.layer, *each.place): _answer_anchor(each) for each in (*step.nodes, *step.weights)}


def _heat_maps(each: Step, step: OneStep, n: Notation, title: str) -> list[Markup]:
    """Return the arrays of the step as heat maps."""
    layer = step.layers[each.layer - 1]  # the last one, of what is of no one layer
    l = layer.number
    arrays: dict[str, np.ndarray | None]
    match each.kind:
        case "forward":
            arrays = {f"{n.a}{l - 1}": layer.a_prev, f"{n.w}{l}": layer.w, f"{n.z}{l}": layer.z, f"{n.a}{l}": layer.a}
        case "loss":
            arrays = {f"{n.a}{l}": layer.a, n.y: step.targets}
        case "output_delta":
            arrays = {f"∂L/∂{n.a}{l}": layer.incoming, "σ′": layer.slope, f"δ{l}": layer.delta}
        case "hidden_delta":
            above = step.layers[l]
            arrays = {f"{n.w}{l + 1}": above.w, f"δ{l + 1}": above.delta, "σ′": layer.slope, f"δ{l}": layer.delta}
        case "gradient":
            arrays = {f"δ{l}": layer.delta, f"{n.a}{l - 1}": layer.a_prev, f"∂L/∂{n.w}{l}": layer.dw}
        case "after":
            arrays = {f"{n.a}{l}": step.a_after[-1], n.y: step.targets}
        case _:
            arrays = {f"{n.w}{l}": layer.w_after, f"∂L/∂{n.w}{l}": layer.dw}
    return [_figure(_raised(name), array) for name, array in arrays.items() if array is not None]


def _figure(name: str, array: np.ndarray) -> Markup:
    rows, columns = np.atleast_2d(array).shape
    sides = f"{columns}" if array.ndim == 1 else f"{rows}×{columns}"
    width = min(columns, drawing.MOST_PIXELS)
    cell = max(3, min(14, 560 // width))
    alt = f"{name}, {sides}: {number(float(array.min()))} … {number(float(array.max()))}"
    return Markup(
        '<figure class="heat"><img src="{}" alt="{}" style="width: {}px"><figcaption>{}</figcaption></figure>'
    ).format(drawing.heat_map(array), alt, width * cell, alt)


# --- moving a number --------------------------------------------------------------------------------------------------
def _answer_anchor(each: Moved) -> str:
    return "-".join(["moved", str(each.layer), *map(str, each.place)])


def _answer(each: Moved, step: OneStep, texts: Catalogue) -> _Answer:
    kind = "neuron" if len(each.place) == 1 else "weight"
    place = ", ".join(str(index + 1) for index in each.place)
    title = texts(f"moved.{kind}", place=place, layer=each.layer)
    tangent = step.loss_before + each.derivative * each.shifts
    low, high = float(each.losses.min()), float(each.losses.max())
    margin = 0.1 * (high - low) or 0.01 * abs(high) or 1.0
    inside = (tangent >= low - margin) & (tangent <= high + margin)
    curves = [
        Curve(each.shifts, each.losses),
        Curve(each.shifts[inside], tangent[inside], "#c86816", "5 3", 1.5),
    ]
    drawn = drawing.plot(curves, title, marked=0, size=(220, 150), limits=(low - margin, high + margin))
    return _Answer(_answer_anchor(each), title, Markup(drawn), each.derivative, each.difference)


# --- depths -----------------------------------------------------------------------------------------------------------
def _depths(texts: Catalogue) -> dict[str, Any]:
    """Return the pictures of gradients that vanish and explode, and what they show."""
    found = deep_networks()
    names = {scale: texts(f"depths.{scale}", factor=number(factor)) for scale, factor in FACTORS.items()}
    deepest = {(each.activation, each.scale): each.kept for each in found if each.depth == DEPTHS[-1]}
    return {
        "text": texts("depths.text", width=WIDTH, rows=ROWS),
        "says": texts(
            "depths.says",
            depth=DEPTHS[-1],
            **{name: number(deepest[name, "own"]) for name in ACTIVATIONS},
            factor=number(FACTORS["large"]),
            small=number(FACTORS["small"]),
            exploded=number(deepest["relu", "large"]),
            vanished=number(deepest["relu", "small"]),
        ),
        "rows": [(activation, [_panel(found, activation, scale, names[scale], texts) for scale in FACTORS])
                 for activation in ACTIVATIONS],
        "columns": list(names.values()),
        "clip": [(activation, _clipping(found, activation, texts)) for activation in ACTIVATIONS],
    }  # fmt: skip


def _panel(found: Sequence[DeepNetwork], activation: str, scale: str, name: str, texts: Catalogue) -> Markup:
    curves = []
    for each in found:
        if (each.activation, each.scale) == (activation, scale):
            light = round(205 - 170 * each.depth / DEPTHS[-1])
            x = np.arange(each.depth) - each.depth + 1.0
            curves.append(Curve(x, each.norms, f"rgb({light} {light} {min(255, light + 40)})", width=1.6))
    title = texts("depths.picture", activation=activation, initialiser=name)
    return Markup(drawing.plot(curves, title, logarithmic=True, x_label=texts("depths.layers")))


def _clipping(found: Sequence[DeepNetwork], activation: str, texts: Catalogue) -> Markup:
    curves = []
    for scale, colour in zip(FACTORS, ("#1f64ad", "#5a6570", "#b3261e"), strict=True):
        own = [each for each in found if (each.activation, each.scale) == (activation, scale)]
        depths = np.array([each.depth for each in own], float)
        curves.append(Curve(depths, np.array([each.gradient for each in own]), colour))
        curves.append(Curve(depths, np.array([each.clipped for each in own]), colour, "4 3"))
    title = texts("depths.clip_picture", activation=activation)
    return Markup(drawing.plot(curves, title, logarithmic=True, x_label=texts("depths.depth")))


# --- the rest ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Source:
    anchor: str
    title: str
    lines: list[tuple[int, str, bool]]


def _source(place: str, texts: Catalogue) -> _Source:
    """Return the lines of a kernel around the one at which the equation stands."""
    path, line = kernel_line(place)
    text = path.read_text(encoding="utf-8").splitlines()
    first = max(1, line - EXCERPT)
    shown = [(i, text[i - 1], i == line) for i in range(first, min(len(text), line + EXCERPT) + 1)]
    return _Source(_anchor(place), texts("network.source", file=path.name, line=line), shown)


def _data(step: OneStep) -> dict[str, Any]:
    """Return the numbers as JSON can hold them; arrays of more than `MOST_LISTED` are left out."""
    layers = []
    for layer in step.layers:
        arrays = {name: getattr(layer, name) for name in _ARRAYS}
        kept = {
            name: array.tolist() for name, array in arrays.items() if array is not None and array.size <= MOST_LISTED
        }
        layers.append({"layer": layer.number, "activation": layer.activation.config(), **kept})
    return {
        "sizes": list(step.sizes),
        "x": step.x.tolist(),
        "y": step.y.tolist(),
        "learning_rate": step.learning_rate,
        "loss": step.loss.config(),
        "loss_before": step.loss_before,
        "loss_after": step.loss_after,
        "layers": layers,
    }


_ARRAYS = ("w", "b", "a_prev", "z", "a", "slope", "incoming", "delta", "dw", "db", "w_after", "b_after")
