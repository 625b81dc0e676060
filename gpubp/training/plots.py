"""Every picture. Matplotlib is loaded when one is drawn, without a display; colours are told apart by all eyes."""

from __future__ import annotations

import itertools
import logging
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gpubp.errors import printable, shown

if TYPE_CHECKING:
    from gpubp.chips import Roofline
    from gpubp.nn.network import Network
    from gpubp.training.history import HistoryRow
    from gpubp.training.judgement import Judgement

BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, SKY, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#8C6D31", "#56B4E9", "#5A5A5A",
)  # fmt: skip
"""Okabe & Ito's palette, "Color Universal Design", 2008, with a brown and a grey in place of its yellow and black."""

PARTS = {"train": (BLUE, "-"), "validation": (ORANGE, "-"), "test": (GREEN, "--")}
"""How each part of the data is drawn: also the lines differ, not only the colours."""

STYLE = {
    "figure.facecolor": "white",
    "figure.dpi": 160,
    "savefig.dpi": 160,
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


LONGEST_TITLE = 150
"""Characters that fit above everything."""
LONGEST_LABEL = 60
"""Characters that fit beside the panels."""
LONGEST_TICK = 20
"""Characters of the name of a class beside an axis."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence matplotlib while it loads: it works without a folder for its list of fonts, and says so in two lines."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _figure(columns: int, height: float = 3.5, width: float = 11.0, rows: int = 1) -> Iterator[tuple[Any, Any]]:
    """Return a figure in the project's style with its axes, row by row, 1,760 pixels wide, a README's column."""
    with _quiet():
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name in Chinese is boxes, and no warning
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, wspace=0.04)
        figure = Figure(figsize=(width, height), layout=layout)
        FigureCanvasAgg(figure)
        yield figure, figure.subplots(rows, columns, squeeze=False).ravel()


def _write_above(figure: Any, title: str) -> None:
    """Write a line above everything. It has names of files and chips, in which $ begins no formula."""
    style = {"fontsize": 10.5, "color": "#333333", "parse_math": False}
    figure.suptitle(shown(title, LONGEST_TITLE), x=0.012, ha="left", **style)


def _write_below(figure: Any, note: str) -> None:
    style = {"fontsize": 8.5, "color": GREY, "parse_math": False}
    figure.supxlabel(textwrap.fill(printable(note), 170), x=0.012, ha="left", **style)


def _as_label(text: str, most: int = LONGEST_LABEL) -> str:
    """Return a text for a legend, in which $ begins no formula."""
    return shown(text, most).replace("$", r"\$")


def curves(
    history: Sequence[HistoryRow],
    *,
    title: str,
    out: str | Path | IO[bytes],
    loss: str = "loss",
    accuracy: str = "accuracy",
    chosen_epoch: int | None = None,
) -> None:
    """Draw how training went, as PNG: the loss, the accuracy where there is one, each layer's gradient norm.

    history: at least one row; title: above everything; out: a path or an open file; loss, accuracy: their names.
    chosen_epoch: marked as the one whose weights were taken.
    """
    has_accuracy = history[-1].train_accuracy is not None
    with _figure(3 if has_accuracy else 2) as (figure, axes):
        _write_above(figure, title)
        _draw_parts(axes[0], history, "loss", 1.0)
        axes[0].set(title="Loss", ylabel=loss)
        _log_where_wide(axes[0])
        if has_accuracy:
            _draw_parts(axes[1], history, "accuracy", 100.0)
            axes[1].set(title=accuracy.capitalize(), ylabel="right answers, %")
            axes[1].set_ylim(top=min(axes[1].get_ylim()[1], 100.5))
        _draw_gradient_norms(axes[-1], history)
        for ax in axes:
            if chosen_epoch is not None:
                ax.axvline(chosen_epoch, color=GREY, linewidth=1, linestyle=":", label="weights taken", zorder=1)
            ax.set_xlabel("epoch")
            _whole_epochs(ax, len(history))
        # One legend for the parts, above all panels: inside, it would hide the curves where they are crowded.
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(handles))
        figure.savefig(out, format="png")


def _draw_parts(ax: Any, history: Sequence[HistoryRow], what: str, factor: float) -> None:
    for part, (colour, line) in PARTS.items():
        points = [(row.epoch, getattr(row, f"{part}_{what}")) for row in history]
        points = [(epoch, value * factor) for epoch, value in points if value is not None and math.isfinite(value)]
        if points:
            label = "training" if part == "train" else part
            ax.plot(*zip(*points, strict=True), line, color=colour, label=label, **_marker(len(points)))


def _draw_gradient_norms(ax: Any, history: Sequence[HistoryRow]) -> None:
    """Draw a line a layer, from dark (the first) to light (the last)."""
    import matplotlib as mpl

    layers = len(history[0].gradient_norms)
    colours = mpl.colormaps["viridis"]([0.85 * layer / max(1, layers - 1) for layer in range(layers)])
    for layer in range(layers):
        points = [(row.epoch, row.gradient_norms[layer]) for row in history]
        points = [(epoch, norm) for epoch, norm in points if math.isfinite(norm) and norm > 0]
        if points:
            label = f"layer {layer + 1}" if layers <= 6 or layer in (0, layers // 2, layers - 1) else None
            ax.plot(*zip(*points, strict=True), color=colours[layer], label=label, **_marker(len(points)))
    if ax.lines:
        ax.set_yscale("log")
        _plain_numbers(ax)
        ax.legend(loc="best")
    ax.set(title="Gradient norm of each layer", ylabel="‖∂L/∂(w, b)‖")


def _marker(points: int) -> dict[str, Any]:
    """Return dots if there are few points: a single one would not show."""
    return {"marker": "o", "markersize": 3.5} if points <= 12 else {}


def _log_where_wide(ax: Any) -> None:
    """Take a log axis if the values span more than a factor of 30."""
    values = [value for line in ax.lines for value in line.get_ydata()]
    if values and min(values) > 0 and max(values) > 30 * min(values):
        ax.set_yscale("log")
        _plain_numbers(ax)


def _plain_numbers(ax: Any, axis: Any = None) -> None:
    """Write 0.1 in place of 10⁻¹ on an axis (y if nothing is said), and numbers between where there is room."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis = axis or ax.yaxis
    low, high = axis.get_view_interval()
    decades = math.log10(high / low)
    if decades < 1:
        axis.set_major_locator(MaxNLocator(5))
    else:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _whole_epochs(ax: Any, epochs: int) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    if epochs == 1:
        ax.set_xlim(0.5, 1.5)


# --- predictions ------------------------------------------------------------------------------------------------------
MOST_IN_MATRIX = 1000
"""Classes that a matrix has room for."""
MOST_NUMBERED = 20
"""Classes of a matrix with a number in each cell."""
MOST_NAMED = 40
"""Classes that have a name beside them, and a bar; of more the ones with the lowest recall."""
MOST_POINTS = 5000
"""Points of a picture of values."""
MOST_OUTPUTS = 6
"""Outputs of a regression that have a panel."""


def predictions(judged: Judgement, *, title: str, out: str | Path | IO[bytes]) -> None:
    """Draw predictions beside what is true, as PNG.

    Of classes the confusion matrix, and each one's recall and precision; of labels these alone; of values the predicted
    over the true ones. title: above everything; out: a path or an open file.
    """
    if judged.task == "regression":
        _draw_values(judged, title, out)
    else:
        _draw_classes(judged, title, out)


def _draw_classes(judged: Judgement, title: str, out: str | Path | IO[bytes]) -> None:
    figures = judged.classes()
    named = sorted(range(len(figures)), key=lambda i: figures[i].recall or 0.0)
    named = sorted(named[:MOST_NAMED])
    has_matrix = judged.task == "classification" and len(figures) <= MOST_IN_MATRIX
    with _figure(1 + has_matrix, height=max(3.5, 1.2 + 0.22 * len(named))) as (figure, axes):
        _write_above(figure, title)
        if has_matrix:
            _draw_confusion(axes[0], judged)
        ax = axes[-1]
        for offset, (what, colour) in zip((-0.2, 0.2), (("recall", BLUE), ("precision", ORANGE)), strict=True):
            shares = [100 * (getattr(figures[i], what) or 0.0) for i in named]
            ax.barh([place + offset for place in range(len(named))], shares, height=0.38, color=colour, label=what)
        ax.set_yticks(range(len(named)), [_as_label(figures[i].name, LONGEST_TICK) for i in named])
        ax.invert_yaxis()
        ax.set(title=f"Recall and precision of each {'label' if judged.task == 'multilabel' else 'class'}")
        ax.set(xlabel="%", xlim=(0, 100))
        ax.grid(False, axis="y")
        figure.legend(*ax.get_legend_handles_labels(), loc="outside upper right", ncols=2)
        if len(named) < len(figures):
            _write_below(figure, f"bars: the {len(named)} of {len(figures):,} classes with the lowest recall")
        figure.savefig(out, format="png")


def _draw_confusion(ax: Any, judged: Judgement) -> None:
    """Draw which share of each class (a row) is taken for each (a column), with the counts where there is room."""
    counts = judged.confusion
    total = counts.sum(axis=1, keepdims=True)
    shares = counts / total.clip(1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    ax.grid(False)
    ax.set(title="Confusion matrix", xlabel="taken for", ylabel="is")
    names = [_as_label(name, LONGEST_TICK) for name in judged.names]
    if len(names) <= MOST_NAMED:
        is_short = max(map(len, names)) * len(names) < 60
        ax.set_xticks(range(len(names)), names, rotation=0 if is_short else 90)
        ax.set_yticks(range(len(names)), names)
    if len(names) <= MOST_NUMBERED:
        for (row, column), count in zip(itertools.product(range(len(names)), repeat=2), counts.flat, strict=True):
            if count:
                colour = "white" if shares[row, column] > 0.55 else "#333333"
                ax.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)


def _draw_values(judged: Judgement, title: str, out: str | Path | IO[bytes]) -> None:
    figures = judged.outputs()[:MOST_OUTPUTS]
    step = -(-len(judged.y) // MOST_POINTS)
    columns = min(3, len(figures))
    rows = -(-len(figures) // columns)
    width = {1: 5.5, 2: 9.0}.get(columns, 11.0)
    with _figure(columns, height=0.6 + 3.6 * rows, width=width, rows=rows) as (figure, axes):
        _write_above(figure, title)
        for output, (ax, each) in enumerate(zip(axes, figures, strict=False)):
            y, predicted = judged.y[::step, output], judged.predicted[::step, output]
            ax.scatter(y, predicted, s=8, color=BLUE, alpha=0.5, linewidths=0)
            ends = [min(y.min(), predicted.min()), max(y.max(), predicted.max())]
            ax.plot(ends, ends, color=GREY, linewidth=1, linestyle="--")
            r2 = "" if each.r2 is None else f", R² {each.r2:.4f}"
            told = f"RMSE {each.root_mean_square:.4g}, MAE {each.mean_absolute:.4g}{r2}"
            ax.set(title=told if len(figures) == 1 else f"{output + 1}: {told}", xlabel="true", ylabel="predicted")
        for ax in axes[len(figures) :]:
            ax.set_visible(False)
        notes = [f"every {step:,}th example"] if step > 1 else []
        if judged.y.shape[1] > MOST_OUTPUTS:
            notes.append(f"the first {MOST_OUTPUTS} of {judged.y.shape[1]:,} outputs")
        if notes:
            _write_below(figure, "; ".join(notes))
        figure.savefig(out, format="png")


Dashes = str | tuple[int, tuple[int, ...]]
"""A line's style: its name, or an offset and the lengths of lines and gaps."""


@dataclass(frozen=True)
class Curve:
    """A line over sizes x, with a band from low to high around y. marker, dashes: as matplotlib takes them."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    colour: str
    dashes: Dashes = "-"
    marker: str = "o"


@dataclass(frozen=True)
class Panel:
    """Curves over one pair of axes, and horizontal lines by name."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    limits: Mapping[str, float]


def throughput(panels: Sequence[Panel], *, title: str, note: str, out: str | Path | IO[bytes]) -> None:
    """Draw throughput over size, as PNG: a panel for each of `panels`, at least one, three in a row.

    title: above everything; note: below, "" for none; out: a path or an open file.
    """
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with _figure(columns, height=0.9 + 2.6 * rows, rows=rows) as (figure, axes):
        _write_above(figure, title)
        named: dict[str, Any] = {}
        for ax, panel in zip(axes, panels, strict=False):
            _draw_panel(ax, panel)
            handles, labels = ax.get_legend_handles_labels()
            named |= dict(zip(labels, handles, strict=True))
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
        # one legend for all panels, the limits last: a contender has the same colour in each
        limits = {label for panel in panels for label in panel.limits}
        named = dict(sorted(named.items(), key=lambda item: item[0] in limits))
        figure.legend(named.values(), named.keys(), loc="outside right upper")
        if note:
            _write_below(figure, note)
        figure.savefig(out, format="png")


def _draw_panel(ax: Any, panel: Panel) -> None:
    for curve in panel.curves:
        style = {"color": curve.colour, "linestyle": curve.dashes, "marker": curve.marker, "markersize": 3.5}
        ax.plot(curve.x, curve.y, label=_as_label(curve.label), **style)
        ax.fill_between(curve.x, curve.low, curve.high, color=curve.colour, alpha=0.18, linewidth=0)
    for (label, value), dashes in zip(panel.limits.items(), ("--", ":"), strict=False):
        ax.axhline(value, color="#333333", linewidth=1, linestyle=dashes, label=label, zorder=1)
    ax.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    _plain_numbers(ax)
    _plain_sizes(ax, sorted({round(x) for curve in panel.curves for x in curve.x}))


def _plain_sizes(ax: Any, sizes: Sequence[int]) -> None:
    """Mark the sizes that were measured, of crowded ones some."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shown = [size for number, size in enumerate(sizes) if number % -(-len(sizes) // 7) == 0]
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


# --- roofline ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Point:
    """Something under a roofline: intensity in flops a byte, rate in flop/s."""

    label: str
    intensity: float
    rate: float
    colour: str = BLUE
    marker: str = "o"


def roofline(
    limits: Mapping[str, Roofline],
    points: Sequence[Point],
    *,
    title: str,
    note: str,
    out: str | Path | IO[bytes],
    y_label: str = "TFLOP/s",
    scale: float = 1e12,
) -> None:
    """Draw points under the limits of one or more machines, as PNG; both axes are logarithmic.

    limits: by the label of each, at least one. title: above everything; note: below, "" for none; y_label: what a rate
    means, in units of `scale` flop/s; out: a path or an open file.
    """
    ridges = [each.ridge for each in limits.values()]
    intensities = [point.intensity for point in points]
    low, high = min(ridges + intensities) / 8, max(ridges + intensities) * 8
    with _figure(1, height=4.0) as (figure, axes):
        ax = axes[0]
        _write_above(figure, title)
        for (label, limit), dashes in zip(limits.items(), itertools.cycle(("-", "--", "-.", ":"))):
            corners = [low, limit.ridge, high]
            ax.plot(corners, [limit.attainable(x) / scale for x in corners], dashes, color="#333333", label=label)
        for point in points:
            style = {"color": point.colour, "marker": point.marker, "markersize": 7, "linestyle": "none"}
            ax.plot([point.intensity], [point.rate / scale], label=_as_label(point.label), zorder=3, **style)
        ax.set(xlabel="arithmetic intensity: flops a byte, each array moved once", ylabel=y_label)
        for axis in (ax.xaxis, ax.yaxis):
            getattr(ax, f"set_{axis.axis_name}scale")("log")
            _plain_numbers(ax, axis)
        figure.legend(loc="outside right upper")
        if note:
            _write_below(figure, note)
        figure.savefig(out, format="png")


def architecture(network: Network) -> str:
    """Return a network as a line: 64 → 128 → 10, relu; equal widths in a row are counted: 64 → 9 × 32 → 10."""
    widths = [(width, len(list(same))) for width, same in itertools.groupby(network.sizes[1:-1])]
    hidden = [f"{count} × {width}" if count > 2 else " → ".join([str(width)] * count) for width, count in widths]
    told = list(dict.fromkeys(activation.name for activation in network.activations[1:-1]))
    if network.drops:
        rates = network.dropout if len(set(network.dropout)) > 1 else network.dropout[:1]
        told.append("dropout " + ", ".join(f"{rate:g}" for rate in rates))
    return " → ".join(map(str, [network.sizes[0], *hidden, network.sizes[-1]])) + "".join(f", {each}" for each in told)
