"""What `gpubp train --find-lr` shows: the loss over the learning rate, and the rate to train with."""

from __future__ import annotations

import math

import numpy as np
from rich.console import Console
from rich.text import Text

from gpubp.data.dataset import Dataset
from gpubp.nn import optimizers
from gpubp.nn.network import Network
from gpubp.training.config import TrainingConfig
from gpubp.training.display import batches_of
from gpubp.training.lr_finder import HIGHEST, LOWEST, RateSweep
from gpubp.training.plots import architecture

ROWS = 12
"""Lines of the plot."""
DECADE_COLUMNS, NARROW_COLUMNS = 9, 4
"""Characters of a decade of rates, and in a terminal in which the plot is wider than the screen."""
MARGIN = 8
"""Characters to the left of the plot, with the losses."""


def began(console: Console, network: Network, dataset: Dataset, config: TrainingConfig) -> None:
    """Print what is trained, on what."""
    optimizer, batches = optimizers.get(config.optimizer), batches_of(config, len(dataset.x_train))
    backend, precision = network.backend, network.precision_name or network.dtype
    console.print(dataset.describe(), soft_wrap=True)
    console.print(
        f"{architecture(network)}; {network.loss.name}; {optimizer.name}, batches of {batches}; "
        f"backend {backend.name} on {backend.device}, {precision}",
        soft_wrap=True,
    )


def show(console: Console, found: RateSweep, command: str) -> None:
    """Print the plot, the suggestion, and the command that trains with it.

    command: what trains without a rate of its own, such as "gpubp train --data digits".
    """
    if len(found.rates) > 1:
        console.print()
        for line in plot(found, console.width):
            console.print(line, no_wrap=True, crop=True)
        console.print()
    end = "the loss diverged" if found.diverged else f"the rate reached {HIGHEST:g}"
    console.print(f"{len(found.rates)} steps, then {end}; nothing is kept of them", soft_wrap=True)
    if found.best is None:
        console.print(f"no rate can be suggested: {found.reason}", soft_wrap=True)
        return
    lowest = found.rates[found.best]
    console.print(
        f"suggested rate: {found.suggestion:g} (the vertical line), a third of {lowest:.2g}, where the loss is lowest",
        soft_wrap=True,
    )
    console.print(f"train with: {command} --lr {found.suggestion:g}", soft_wrap=True)


def plot(found: RateSweep, width: int) -> list[Text]:
    """Return the smoothed loss over the rate as lines of text; in a terminal of less than 72 columns a narrow plot.

    Losses above all that came before the lowest are cut off: they are those of a training that diverges.
    """
    decades = round(math.log10(HIGHEST / LOWEST))
    per_decade = DECADE_COLUMNS if MARGIN + decades * DECADE_COLUMNS + 1 <= width else NARROW_COLUMNS
    columns = decades * per_decade + 1
    places = np.log10(found.rates / LOWEST) * per_decade
    drawn = np.arange(math.ceil(places[0]), math.floor(places[-1]) + 1)
    losses = np.interp(drawn, places, found.smoothed)
    bottom, top = losses.min(), losses[: int(np.argmin(losses)) + 1].max()
    height = (top - bottom) or 1.0

    grid = [[" "] * columns for _ in range(ROWS)]
    if found.suggestion is not None:
        column = round(math.log10(found.suggestion / LOWEST) * per_decade)
        for cells in grid:
            cells[column] = "│"
    for column, loss in zip(drawn, losses, strict=True):
        row = round((top - loss) / height * (ROWS - 1))
        if row >= 0:
            grid[row][column] = "•"

    labels = {0: top, (ROWS - 1) // 2: top - height * ((ROWS - 1) // 2) / (ROWS - 1), ROWS - 1: top - height}
    lines = [Text("loss".rjust(MARGIN - 2))]
    for row, cells in enumerate(grid):
        label = f"{labels[row]:.3g}" if row in labels else ""
        line = Text(f"{label:>{MARGIN - 2}} {'┤' if label else '│'}")
        line.append("".join(cells), "bold")
        lines.append(line)
    ticks = ["─"] * columns
    names = [" "] * (columns + MARGIN)
    for decade in range(decades + 1):
        ticks[decade * per_decade] = "┬"
        if decade % (1 if per_decade == DECADE_COLUMNS else 2) == 0:
            name = f"{LOWEST * 10**decade:g}"
            start = MARGIN + decade * per_decade - len(name) // 2
            names[start : start + len(name)] = name
    lines.append(Text(" " * (MARGIN - 1) + "└" + "".join(ticks)))
    lines.append(Text("".join(names).rstrip() + "  rate"))
    return lines
