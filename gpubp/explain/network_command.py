"""What `gpubp explain network` does: make the network or load it, take one step, print it, and write the page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpubp.errors import ArgumentError, StateError
from gpubp.explain.catalogue import Catalogue, catalogue
from gpubp.explain.equations import number
from gpubp.explain.network_equations import Notation, notation, steps
from gpubp.explain.network_page import Example, network_page
from gpubp.explain.network_step import OneStep, default_example, one_step
from gpubp.files import check_path, write_bytes
from gpubp.nn import losses
from gpubp.nn.network import Network
from gpubp.registry import require_count, require_number

if TYPE_CHECKING:
    from rich.console import Console

MOST_WIDTH = 4096
"""Neurons of a layer."""


def run(
    console: Console,
    *,
    sizes: str | None,
    activation: str | None,
    output_activation: str | None,
    loss: str | None,
    bias: bool | None,
    x: str | None,
    y: str | None,
    learning_rate: float,
    seed: int | None,
    model: Path | None,
    example: int | None,
    data: str | None,
    letters: str,
    language: str,
    out: Path | None,
    force: bool,
    command: str,
) -> None:
    """Show one step of backpropagation on one example, as on the command line, and write its page.

    Raises:
        ArgumentError: an argument is wrong, or does not go with `model`.
    """
    texts, chosen = catalogue(language), notation(letters)
    require_number("learning_rate", learning_rate, above=0)
    if out is not None:
        check_path("out", out, ".html", ".htm", replace=force)
    if model is None:
        for name, only in (("example", example), ("data", data)):
            if only is not None:
                raise StateError(name, "was given", "be left out without --model")
        step, where = _made(sizes, activation, output_activation, loss, bias, x, y, learning_rate, seed), None
    else:
        given = {
            "sizes": sizes,
            "activation": activation,
            "output_activation": output_activation,
            "loss": loss,
            "bias": bias,
            "x": x,
            "y": y,
            "seed": seed,
        }
        for name, value in given.items():
            if value is not None:
                raise StateError(name, "was given", "be left out with --model, which has its own")
        step, where = _of_model(model, 0 if example is None else example, data, learning_rate)
    for line in lines(step, chosen, texts, where):
        console.print(line, soft_wrap=True)
    if out is not None:
        write_bytes(out, network_page(step, chosen, texts, command, where).encode())
        console.print(f"{out}", soft_wrap=True)


def _made(
    sizes: str | None,
    activation: str | None,
    output_activation: str | None,
    loss: str | None,
    bias: bool | None,
    x: str | None,
    y: str | None,
    learning_rate: float,
    seed: int | None,
) -> OneStep:
    """Return the step of a network that is made for it."""
    widths = [_width(word) for word in ("2,3,1" if sizes is None else sizes).split(",")]
    hidden = "sigmoid" if activation is None else activation
    kind = losses.get("half_squared_error" if loss is None else loss)
    if output_activation is None and not kind.output_activation:
        output_activation = hidden  # as in the books, unless the loss says what the output neurons are
    network = Network(
        widths,
        hidden_activation=hidden,
        output_activation=output_activation,
        loss=kind,
        bias=bias is not False,
        dtype="float64",
        backend="numpy",
        seed=seed or 0,
    )
    default_x, default_y = default_example(widths)
    return one_step(
        network,
        default_x if x is None else numbers("x", x),
        default_y if y is None else numbers("y", y),
        learning_rate,
    )


def _width(word: str) -> int:
    if not word.strip().isdecimal() or len(word) > 9:
        raise ArgumentError("sizes", word, "whole numbers with commas between, such as 2,3,1")
    require_count("sizes", int(word), most=MOST_WIDTH)
    return int(word)


def numbers(argument: str, text: str) -> np.ndarray:
    """Return the numbers of a text such as "1,0.5". Raises ArgumentError, which names the argument."""
    try:
        found = np.array([float(word) for word in text.split(",")])
    except ValueError:
        found = np.array([np.nan])
    if not np.isfinite(found).all():
        raise ArgumentError(argument, text, "finite numbers with commas between, such as 1,0.5")
    return found


def _of_model(path: Path, row: int, data: str | None, learning_rate: float) -> tuple[OneStep, Example]:
    """Return the step of a trained model on a row of what it is judged by, of these data or its own."""
    from gpubp.training import predictions
    from gpubp.training.model import Model

    require_count("example", row, least=0)
    loaded = Model.load(path, backend="numpy")
    found = predictions.load_for(loaded, data, None)
    if row >= len(found.x):
        raise ArgumentError("example", row, f"a row of {found.name}, from 0 to {len(found.x) - 1}")
    part = slice(row, row + 1)
    x, y = loaded.inputs(found.x[part])[0], loaded.targets(found.y[part])[0]
    return one_step(loaded.network, x, y, learning_rate), Example(str(path), row, found.name)


# --- what the terminal shows ------------------------------------------------------------------------------------------
def lines(step: OneStep, letters: Notation, texts: Catalogue, where: Example | None) -> Iterator[str]:
    """Yield the whole step as lines of text: each equation in letters, and with the numbers put in."""
    yield texts("network.title", sizes="-".join(map(str, step.sizes)))
    if where is not None:
        yield texts("network.model", model=where.model, example=where.row, data=where.data)
    yield f"{letters.x} = {_listed(step.x)}   {letters.y} = {_listed(step.targets)}   η = {number(step.learning_rate)}"
    for place, each in enumerate(steps(step, letters), 1):
        yield ""
        yield f"{place}. " + texts(f"step.{each.kind}.title", layer=each.layer)
        for equation in each.equations:
            yield f"   {equation.letters.text()}"
            yield f"   {equation.numbers.text()}"
    shown = _largest_error(step)
    if shown is not None:
        yield ""
        yield texts("moved.agree", error=number(shown), count=len(step.nodes) + len(step.weights))


def _listed(values: Sequence[Any] | np.ndarray) -> str:
    shown = [number(float(each)) for each in values[:8]]
    return ", ".join(shown) + (", …" if len(values) > 8 else "")


def _largest_error(step: OneStep) -> float | None:
    """Return by how much backpropagation and finite differences differ at most; None if nothing was moved."""
    moved = (*step.nodes, *step.weights)
    return max((abs(each.derivative - each.difference) for each in moved), default=None)
