"""Equations as text and as MathML."""

from html.parser import HTMLParser

import numpy as np
import pytest

from gpubp import Network
from gpubp.explain.equations import Fraction, Name, Transposed, Value, number, row
from gpubp.explain.network_equations import KERNEL_LINES, NOTATIONS, kernel_line, notation, steps
from gpubp.explain.network_step import default_example, one_step


def made(sizes, **options):
    options = {"hidden_activation": "sigmoid", "output_activation": "sigmoid", "loss": "half_squared_error", **options}
    network = Network(sizes, dtype="float64", backend="numpy", **options)
    return one_step(network, *default_example(sizes))


def texts(step, letters="w"):
    return [e.letters.text() for each in steps(step, notation(letters)) for e in each.equations]


class Values(HTMLParser):
    """The numbers of a piece of MathML, with their digits."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [float(value) for name, value in attrs if name == "data-value"]


def values(text):
    return Values(text).found


def test_a_row_as_text_and_as_mathml():
    z = row(Name("z", 1), "=", Transposed(Name("w", 2)), np.array([0.5, -2.0]), "−", -0.25)
    assert z.text() == "z¹ = (w²)ᵀ [0.5, −2] − (−0.25)"
    assert values(z.mathml()) == [0.5, -2.0, -0.25]
    assert Fraction(row("∂", Name("L")), row("∂", Name("w", 1))).text() == "∂L/∂w¹"
    assert "<script" not in row("<script>").mathml()


def test_a_large_array_is_told_by_its_size():
    assert Value(np.arange(20.0).reshape(2, 10)).text() == "(2×10: 0 … 19)"
    assert number(-1234567.0) == "−1.235e+06"


def test_one_neuron_is_the_textbook_case():
    assert "∂L/∂w = (a − y) σ′(z) x" in texts(made((1, 1)))
    assert "∂L/∂w = − 2 (y − a) σ′(z) x" in texts(made((1, 1), loss="squared_error"))
    step = made((1, 1))
    gradient = next(each for each in steps(step, NOTATIONS["w"]) if each.kind == "gradient")
    layer = step.output
    found = values(gradient.equations[0].mathml()[1])
    assert found == [layer.a[0], 1.0, layer.slope[0], 1.0, layer.dw[0, 0]]


def test_the_other_notation():
    found = texts(made((2, 3, 1)), "theta")
    assert found[:2] == ["u¹ = θ¹ o⁰ + b¹", "o¹ = σ(u¹)"]
    assert "δ¹ = (θ²)ᵀ δ² ⊙ σ′(u¹)" in found
    assert not any("w" in each or "z" in each for each in found)


def test_equations_follow_the_loss_and_the_bias():
    assert "z¹ = w¹ a⁰" in texts(made((2, 3, 1), bias=False))
    cross = texts(made((2, 3, 2), output_activation=None, loss="softmax_cross_entropy"))
    assert "δ² = ∂L/∂z² = a² − y" in cross
    smoothed = texts(
        made((2, 3, 2), output_activation=None, loss={"name": "softmax_cross_entropy", "label_smoothing": 0.1})
    )
    assert "δ² = ∂L/∂z²" in smoothed  # which is not a − y
    rows = texts(made((2, 3, 2), output_activation="softmax"))
    assert "δ² = a² ⊙ (∂L/∂a² − Σ ∂L/∂a² a²)" in rows


@pytest.mark.parametrize("place", KERNEL_LINES)
def test_the_line_of_a_kernel_is_there(place):
    path, line = kernel_line(place)
    file, text = KERNEL_LINES[place]
    assert path.name == file
    assert text in path.read_text(encoding="utf-8").splitlines()[line - 1]
    kernel = path.with_name(f"{place.split()[0]}.cu")
    assert kernel == path or f'#include "{file}"' in kernel.read_text(encoding="utf-8")
