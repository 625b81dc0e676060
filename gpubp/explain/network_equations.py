"""The steps of backpropagation as equations, in letters and with the numbers of one example put in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpubp import kernels
from gpubp.errors import unknown_name
from gpubp.explain.equations import Equation, Expression, Fraction, Name, Row, Squared, Transposed, row
from gpubp.explain.network_step import LayerStep, OneStep
from gpubp.nn.activations import Softmax
from gpubp.nn.losses import Loss

MOST_TERMS = 4
"""Outputs up to which a loss is written term by term."""


@dataclass(frozen=True)
class Notation:
    """The letters of a school of books: weights, bias, pre-activation, activation, input, target."""

    w: str = "w"
    b: str = "b"
    z: str = "z"
    a: str = "a"
    x: str = "x"
    y: str = "y"


NOTATIONS = {"w": Notation(), "theta": Notation(w="θ", z="u", a="o")}
"""By name: that of this project, and that of the books that write θ, u and o."""

KERNEL_LINES = {
    "dense_forward": ("dense_forward.cu", "Rung::compute(product<NT>(a_prev, w, rows, width, width_prev), epilogue"),
    "output_delta": ("output_delta.cu", "derivative *= sigma.derivative(saved[i])"),
    "output_delta of softmax": ("output_delta.cu", "(loss.derivative(a[j], y[j]) - product) * A(a[j])"),
    "output_delta of logits": ("output_delta.cu", "expected.target(j)) * factor"),
    "hidden_delta": (
        "hidden_delta.cu",
        "Rung::compute(product<NN>(delta_next, w_next, rows, width, width_next), epilogue",
    ),
    "weight_gradient": ("weight_gradient.cu", "Rung::compute(product<TN>("),
    "bias_gradient": ("column_sums.cuh", "sum += A(from[i * width + column])"),
    "update": ("update.cu", "Rule::apply(w[v], g[v]"),
}
"""Each primitive of a step, and the file and the text of the line of its kernel at which the equation stands; of
output_delta by the output layer."""


@dataclass(frozen=True)
class Step:
    """A step of the explanation.

    Attributes:
        kind: the key of its texts: forward, loss, output_delta, hidden_delta, gradient, update or after.
        layer: l; 0 for what is of no one layer.
        equations: its equations.
        kernels: the primitives that compute it.
    """

    kind: str
    layer: int
    equations: tuple[Equation, ...]
    kernels: tuple[str, ...] = ()


def notation(name: str) -> Notation:
    """Return the letters by a name of `NOTATIONS`. Raises ArgumentError for another name."""
    if name not in NOTATIONS:
        raise unknown_name("notation", name, NOTATIONS)
    return NOTATIONS[name]


def kernel_line(place: str) -> tuple[Path, int]:
    """Return the file of the kernel that a key of `KERNEL_LINES` is of, and the number of the line."""
    file, text = KERNEL_LINES[place]
    path = Path(kernels.__file__).parent / "cuda" / file
    lines = path.read_text(encoding="utf-8").splitlines()
    return path, next(i for i, line in enumerate(lines, 1) if text in line)


def steps(step: OneStep, letters: Notation) -> list[Step]:
    """Return the whole step in its order: forward, loss, backward from right to left, update, the loss after it."""
    last = len(step.layers)
    found = [_forward(layer, letters) for layer in step.layers]
    found.append(Step("loss", last, (_loss(step, letters),), (_output_place(step),)))
    found.append(_output_delta(step, letters))
    found += [_hidden_delta(step, l, letters) for l in range(last - 1, 0, -1)]
    found += [_gradient(step, layer, letters) for layer in step.layers[::-1]]
    found += [_update(step, layer, letters) for layer in step.layers]
    found.append(_after(step))
    return found


def _forward(layer: LayerStep, n: Notation) -> Step:
    l = layer.number
    z, a = Name(n.z, l), Name(n.a, l)
    product = row(z, "=", Name(n.w, l), Name(n.a, l - 1))
    numbers = row(z, "=", layer.w, "·", layer.a_prev)
    if layer.b is not None:
        product, numbers = _and(product, "+", Name(n.b, l)), _and(numbers, "+", layer.b)
    first = Equation(product, _and(numbers, "=", layer.z))
    second = Equation(row(a, "=", Name("σ"), "(", z, ")"), row(a, "=", Name("σ"), "(", layer.z, ")", "=", layer.a))
    return Step("forward", l, (first, second), ("dense_forward",))


def _loss(step: OneStep, n: Notation) -> Equation:
    output, y = step.output.a, step.targets
    a, target = Name(n.a, len(step.layers)), Name(n.y)
    letters, numbers = row(Name("L"), "=", Name("ℓ"), "(", a, ",", target, ")"), row(Name("L"))
    form = _SQUARES.get(step.loss.name)
    if form is not None:
        first, second = (target, a) if form.reversed_ else (a, target)
        factor = form.factor(len(y))
        letters = row(Name("L"), "=", *factor, "Σ", Squared(row(first, "−", second)))
        if len(y) <= MOST_TERMS:
            pairs = zip(y, output, strict=True) if form.reversed_ else zip(output, y, strict=True)
            terms = _sum([Squared(row(float(p), "−", float(q))) for p, q in pairs])
            brackets = bool(factor) and len(y) > 1
            inner = ("(", *terms, ")") if brackets else terms
            numbers = row(Name("L"), "=", *factor, *inner)
    return Equation(letters, _and(numbers, "=", step.loss_before))


@dataclass(frozen=True)
class _Squares:
    """A loss of squares: the factor before their sum for n outputs, and whether it writes y − a."""

    factor: Callable[[int], tuple[Expression | str | float, ...]]
    gradient: Callable[[int], tuple[Expression | str | float, ...]]
    reversed_: bool = False


_SQUARES = {
    "half_squared_error": _Squares(lambda n: ("½",), lambda n: ()),
    "squared_error": _Squares(lambda n: (), lambda n: ("−", 2.0), True),
    "mean_squared_error": _Squares(
        lambda n: (Fraction(row(1.0), row(float(n))),), lambda n: (Fraction(row(2.0), row(float(n))),)
    ),
}
"""The losses whose equation is written out."""


def _sum(terms: list[Squared]) -> list[Expression | str]:
    found: list[Expression | str] = []
    for term in terms:
        found += ["+", term] if found else [term]
    return found


def _gradient_by_output(loss: Loss, a: Expression, y: Expression, outputs: int) -> tuple[Expression | str | float, ...]:
    """Return ∂L/∂a in letters, or with numbers."""
    form = _SQUARES[loss.name]
    factor = form.gradient(outputs)
    pair = (y, "−", a) if form.reversed_ else (a, "−", y)
    return (*factor, "(", *pair, ")") if factor or outputs else pair


def _output_place(step: OneStep) -> str:
    """Return the key of `KERNEL_LINES` for this output layer."""
    if not isinstance(step.output.activation, Softmax):
        return "output_delta"
    return "output_delta of logits" if step.loss.from_logits else "output_delta of softmax"


def _output_delta(step: OneStep, n: Notation) -> Step:
    layer = step.output
    l = layer.number
    delta, z, a, y = Name("δ", l), Name(n.z, l), Name(n.a, l), Name(n.y)
    equal = (delta, "=", _derivative(z))
    if layer.incoming is None:
        letters = row(*equal)
        if _is_difference(step):
            letters = _and(letters, "=", a, "−", y)
            numbers = row(delta, "=", layer.a, "−", step.targets, "=", layer.delta)
        else:
            numbers = row(delta, "=", layer.delta)
        return Step("output_delta", l, (Equation(letters, numbers),), (_output_place(step),))
    if layer.slope is None:
        g = _derivative(a)
        letters = row(delta, "=", a, "⊙", "(", g, "−", "Σ", g, a, ")")
        inner = float(layer.incoming @ layer.a)
        numbers = row(delta, "=", layer.a, "⊙", "(", layer.incoming, "−", inner, ")", "=", layer.delta)
        return Step("output_delta", l, (Equation(letters, numbers),), (_output_place(step),))
    letters = row(delta, "=", _derivative(a), "⊙", Name("σ′"), "(", z, ")")
    numbers = row(delta, "=", layer.incoming, "⊙", layer.slope, "=", layer.delta)
    equations = [Equation(letters, numbers)]
    if step.loss.name in _SQUARES:
        outputs = len(step.targets)
        right = _gradient_by_output(step.loss, a, y, outputs)
        put_in = _gradient_by_output(step.loss, row(layer.a), row(step.targets), outputs)
        equations.insert(
            0, Equation(row(_derivative(a), "=", *right), row(_derivative(a), "=", *put_in, "=", layer.incoming))
        )
    return Step("output_delta", l, tuple(equations), (_output_place(step),))


def _is_difference(step: OneStep) -> bool:
    """True if δ^L is a − y, as for the cross-entropies without smoothing."""
    return bool(np.allclose(step.output.delta, step.output.a - step.targets, rtol=1e-12, atol=1e-15))


def _hidden_delta(step: OneStep, l: int, n: Notation) -> Step:
    layer, above = step.layers[l - 1], step.layers[l]
    delta = Name("δ", l)
    product = Transposed(Name(n.w, l + 1))
    letters = row(delta, "=", product, Name("δ", l + 1), "⊙", Name("σ′"), "(", Name(n.z, l), ")")
    assert layer.slope is not None
    assert layer.incoming is not None
    put_in = row(delta, "=", above.w.T, "·", above.delta, "⊙", layer.slope)
    result = ("=", layer.incoming, "⊙", layer.slope, "=", layer.delta)
    return Step("hidden_delta", l, (Equation(letters, _and(put_in, *result)),), ("hidden_delta",))


def _gradient(step: OneStep, layer: LayerStep, n: Notation) -> Step:
    l = layer.number
    w, b, delta = Name(n.w, l), Name(n.b, l), Name("δ", l)
    letters = row(_derivative(w), "=", delta, Transposed(Name(n.a, l - 1)))
    numbers = row(_derivative(w), "=", layer.delta, "·", layer.a_prev[None], "=", layer.dw)
    equations = [Equation(letters, numbers)]
    primitives: tuple[str, ...] = ("weight_gradient",)
    if step.sizes == (1, 1) and layer.slope is not None and step.loss.name in _SQUARES:
        equations.insert(0, _one_neuron(step, layer, n))
    if layer.db is not None:
        equations.append(
            Equation(row(_derivative(b), "=", delta), row(_derivative(b), "=", layer.delta, "=", layer.db))
        )
        primitives += ("bias_gradient",)
    return Step("gradient", l, tuple(equations), primitives)


def _one_neuron(step: OneStep, layer: LayerStep, n: Notation) -> Equation:
    """Return the textbook's case factor by factor: ∂L/∂w = (a − y) σ'(z) x."""
    w, a = Name(n.w), Name(n.a)
    by_output = _gradient_by_output(step.loss, a, Name(n.y), 1)
    put_in = _gradient_by_output(step.loss, row(layer.a), row(step.targets), 1)
    letters = row(_derivative(w), "=", *by_output, Name("σ′"), "(", Name(n.z), ")", Name(n.x))
    assert layer.slope is not None
    return Equation(letters, row(_derivative(w), "=", *put_in, "·", layer.slope, "·", step.x, "=", layer.dw))


def _update(step: OneStep, layer: LayerStep, n: Notation) -> Step:
    l, rate = layer.number, step.learning_rate
    pairs = [(Name(n.w, l), layer.w, layer.dw, layer.w_after)]
    if layer.b is not None and layer.db is not None and layer.b_after is not None:
        pairs.append((Name(n.b, l), layer.b, layer.db, layer.b_after))
    equations = tuple(
        Equation(
            row(name, "←", name, "−", Name("η"), _derivative(name)),
            row(name, "←", before, "−", rate, "·", gradient, "=", after),
        )
        for name, before, gradient, after in pairs
    )
    return Step("update", l, equations, ("update",))


def _after(step: OneStep) -> Step:
    l = Name("L")
    return Step("after", 0, (Equation(row(l, "→", l), row(l, ":", step.loss_before, "→", step.loss_after)),))


def _derivative(by: Expression) -> Fraction:
    return Fraction(row("∂", Name("L")), row("∂", by))


def _and(before: Row, *parts: Expression | str | float | np.ndarray) -> Row:
    return Row((*before.parts, *row(*parts).parts))
