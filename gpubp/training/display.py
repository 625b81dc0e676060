"""What a training run shows: live in a terminal, one plain line an epoch anywhere else, and a table at the end."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from gpubp.data.preparation import BOOLEAN, NUMBER
from gpubp.data.rows import Inputs
from gpubp.data.taken import Taken
from gpubp.errors import listed, printable, shown
from gpubp.nn.feeds import StreamedFeed
from gpubp.nn.network import Network
from gpubp.terminal import PlainConsole
from gpubp.training.config import TrainingConfig
from gpubp.training.cross_validation import Fold, mean_and_spread
from gpubp.training.diagnostics import GradientCheck
from gpubp.training.history import ACCURACY, HistoryRow
from gpubp.training.judgement import Judgement
from gpubp.training.loop import Aborted, Interrupted, Listener, Result, Run
from gpubp.training.model import Model
from gpubp.training.plots import architecture

REFRESH = 0.1
"""Seconds between looks at the running loss: each look waits for the device."""
EPOCHS_SHOWN = 10

CLASS_SHOWN = 40
"""Characters of a class's name."""

COLUMNS_SHOWN = 30
"""Lines of the table of a data set's columns."""
MISTAKES_SHOWN = 10
"""Lines of the table of classes that are taken for each other."""
IS = "is \\ taken for"
"""The heading of the classes that examples are of, beside those that they are taken for."""

GAP = 3
"""Characters between the columns of the table of epochs."""

PARTS = {
    "epoch": "epoch {task.fields[epoch]}/{task.fields[epochs]}",
    "share": "[progress.percentage]{task.percentage:>3.0f} %",
    "loss": "loss {task.fields[loss]}",
    "accuracy": "{task.fields[accuracy]}",
    "rate": "{task.fields[rate]} examples/s",
    "left": "{task.fields[left]} left",
}
"""The parts of the live line; the bar comes after the first."""
WIDTHS = {"accuracy": 110, "rate": 76, "left": 58}
"""The terminal's width from which on these parts have room; the table above says the accuracy too."""


def display_for(console: Console) -> Display:
    """Return the display that suits where the output goes."""
    return LiveDisplay(console) if console.is_terminal and not console.is_dumb_terminal else PlainDisplay(console)


class Display(Listener):
    """What the two displays share: the opening lines, the clock, warnings, and the table at the end."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.errors = PlainConsole(stderr=True, soft_wrap=True, quiet=console.quiet)
        self.judgement: Judgement | None = None

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def started(self, run: Run) -> None:
        """Say what is trained, on what."""
        self.clock = Clock(run)
        self.accuracy = ACCURACY[run.model.task]
        network, config = run.network, run.config
        self._say(run.dataset.describe())
        for note in run.dataset.notes:
            self._say(f"note: {note}")
        if run.dataset.columns:
            self.console.print(columns_table(run.dataset.columns))
        optimizer = run.trainer.optimizer
        self._say(
            f"{architecture(network)}; {network.loss.name}; {optimizer.name}, rate {optimizer.learning_rate:g}, "
            f"batches of {batches_of(config, run.rows)}; {network.parameter_count:,} parameters"
        )
        if run.class_weight is not None:
            pairs = zip(run.dataset.class_names, run.class_weight.tolist(), strict=True)
            self._say(f"class weights: {listed(f'{name} {weight:.4g}' for name, weight in pairs)}")
        backend, precision = network.backend, network.precision_name or network.dtype
        self._say(f"backend {backend.name} on {backend.device}, {precision}; run {run.folder}")
        if isinstance(run.feed, StreamedFeed):
            self._say(f"inputs are read while the network trains, {run.feed.window:,} examples at a time")
        if run.epoch or run.batch:
            position = f", batch {run.batch} of {run.batches}" if run.batch else ""
            self._say(f"resumed after epoch {run.epoch} of {config.epochs}{position}")
        if run.finished:
            self._say(f"nothing is left to train: {_why_finished(run)}")
        elif line := _schedule_line(run):
            self._say(line)
        for message in run.model.warnings(run.dataset.x_test):
            self.warning(f"the test part: {message}")

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def warning(self, message: str) -> None:
        """Say it on stderr, apart from the results."""
        self.errors.print(_warning(message))

    def interrupted(self, stop: Interrupted) -> None:
        """Say where the run stopped, and how to go on."""
        self._say(f"stopped {_position(stop)}; saved. {_continue(stop.folder)}")

    def aborted(self, stop: Aborted) -> None:
        """Say what is lost, and how to go on."""
        self._say(f"stopped at once; the last checkpoint is {_position(stop)}. {_continue(stop.folder)}")

    def judged(self, judgement: Judgement) -> None:
        """Keep it for the end."""
        self.judgement = judgement

    def finished(self, result: Result, folder: Path) -> None:
        """Print the tables at the end."""
        self.console.print(summary(result, folder, self.clock))
        if self.judgement is not None:
            self.console.print(f"{self.judgement.what}: {len(self.judgement.y):,} examples")
            self.console.print(*judgement_tables(self.judgement), sep="")


def batches_of(config: TrainingConfig, rows: int) -> str:
    """Return how many of the data's rows a batch has; for batches that are accumulated, how many of how many."""
    size = min(config.batch_size, rows)
    return f"{size}" if config.accumulate == 1 else f"{config.accumulate} × {size}"


def _warning(message: str) -> Text:
    return Text.assemble(("warning:", "yellow"), " ", printable(message))


def _position(stop: Interrupted | Aborted) -> str:
    return f"in epoch {stop.epoch + 1}, after batch {stop.batch}" if stop.batch else f"after epoch {stop.epoch}"


def _continue(folder: Path) -> str:
    return f"Continue with: gpubp train --resume {shlex.quote(str(folder))}"


def _why_finished(run: Run) -> str:
    """Return why a run that is resumed has nothing left to train, and what a user can do."""
    if run.diverged:
        return f"it diverged in epoch {run.epoch}; start again with --out and a lower --lr, or with --clip-norm"
    if run.stopped_early:
        better = {"loss": "a lower validation loss", "accuracy": "a better validation accuracy"}[run.config.monitor]
        return f"it stopped early, after {run.config.patience} epochs without {better} (--patience)"
    return f"all {run.epoch} epochs are done; more come with --epochs"


def _schedule_line(run: Run) -> str:
    """Return what the learning rate does in a run that is resumed for another number of epochs than it began with."""
    config = run.config
    if run.rescheduled and config.schedule not in (None, "constant"):
        return f"the {config.schedule} schedule is made anew, for all {config.epochs} epochs"
    if config.curve_epochs == config.epochs:
        return ""
    line = f"the {config.schedule} schedule is still that of a run of {config.curve_epochs} epochs"
    if config.curve_epochs < config.epochs:
        last = run.trainer.optimizer.rate(config.curve_epochs * run.batches)
        line += f": from then on the learning rate stays {last:.3g}"
    return f"{line} (--reschedule makes it anew for {config.epochs})"


class Clock:
    """How fast this process trains, and how long the rest of the run will take."""

    def __init__(self, run: Run) -> None:
        self.began = time.perf_counter()
        self.batches_before = run.epoch * run.batches + run.batch

    @property
    def seconds(self) -> float:
        """Seconds since the first batch."""
        return time.perf_counter() - self.began

    def examples(self, run: Run) -> int:
        """Return how many examples this process has trained on."""
        batches = run.epoch * run.batches + run.batch - self.batches_before
        return round(batches / run.batches * run.rows)

    def rate(self, run: Run) -> float:
        """Return how many examples a second it trains on, everything included: evaluation, saving."""
        return self.examples(run) / max(self.seconds, 1e-9)

    def seconds_left(self, run: Run) -> float:
        """Return how long the rest of the run takes at this pace."""
        left = run.config.epochs * run.rows - (run.epoch + run.batch / run.batches) * run.rows
        return left / max(self.rate(run), 1e-9)


class PlainDisplay(Display):
    """One line an epoch, for logs."""

    def epoch(self, run: Run, row: HistoryRow) -> None:
        """Print the epoch's line."""
        columns = [f"{name} {value}" for name, value in _columns(row, self.accuracy)]
        done = f"epoch {row.epoch:>{len(str(run.config.epochs))}}/{run.config.epochs}"
        self._say(f"{done}  {'  '.join(columns)}  {self.clock.rate(run):,.0f} examples/s")


class LiveDisplay(Display):
    """The last epochs in a table, and below it a bar with the loss so far, the speed and the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        bar = BarColumn(bar_width=30 if console.width >= WIDTHS["accuracy"] else 8)
        texts = [TextColumn(text) for part, text in PARTS.items() if console.width >= WIDTHS.get(part, 0)]
        self.progress = Progress(texts[0], bar, *texts[1:], console=console)
        self.live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self.rows: list[HistoryRow] = []
        self.looked = 0.0
        self.held_out = ""

    def __exit__(self, *exception: object) -> None:
        self.live.stop()

    def interrupted(self, stop: Interrupted) -> None:
        """Print below the live part, which stays as it is."""
        self.live.stop()
        super().interrupted(stop)

    def aborted(self, stop: Aborted) -> None:
        """Print below the live part, which stays as it is."""
        self.live.stop()
        super().aborted(stop)

    def started(self, run: Run) -> None:
        """Open the live part of the screen below the opening lines."""
        super().started(run)
        self.rows = run.history[-EPOCHS_SHOWN:]
        self.task = self.progress.add_task(
            "", total=run.config.epochs * run.batches, loss="–", accuracy="", rate="–", left="–",
            epoch=run.epoch + 1, epochs=run.config.epochs,
        )  # fmt: skip
        if not run.finished:
            self.live.start()
            self._show(run)

    def batch(self, run: Run) -> None:
        """Move the bar, a few times a second."""
        if time.perf_counter() - self.looked >= REFRESH:
            self._show(run)

    def epoch(self, run: Run, row: HistoryRow) -> None:
        """Add a row to the table."""
        self.rows = [*self.rows, row][-EPOCHS_SHOWN:]
        name, value = _held_out(row)
        self.held_out = f"{name} {self.accuracy} {value:.2%}" if value is not None else ""
        self._show(run)

    def warning(self, message: str) -> None:
        """Print above the live part: it scrolls up, and stays."""
        self.live.console.print(_warning(message), soft_wrap=True)

    def _show(self, run: Run) -> None:
        loss = run.running_loss() if run.batch else run.history[-1].train_loss if run.history else None
        self.progress.update(
            self.task,
            completed=run.epoch * run.batches + run.batch,
            epoch=min(run.epoch + 1, run.config.epochs),
            loss="–" if loss is None else f"{loss:.4g}",
            accuracy=self.held_out,
            rate=f"{self.clock.rate(run):,.0f}",
            left=_duration(self.clock.seconds_left(run)),
        )
        table: list[RenderableType] = (
            ["", _epochs_table(self.rows, self.console.width, self.accuracy)] if self.rows else []
        )
        self.live.update(Group(*table, "", self.progress), refresh=True)
        self.looked = time.perf_counter()


def _epochs_table(rows: list[HistoryRow], width: int, accuracy: str) -> Table:
    """Return the epochs as a table, with as many of their numbers as fit into `width` characters."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    cells = [[("epoch", str(row.epoch)), *_columns(row, accuracy)] for row in rows]
    for column in zip(*cells, strict=True):
        # a heading can be folded between its words, a number cannot
        name, number = column[0][0], max(len(value) for _, value in column)
        width -= max(number, *map(len, name.split())) + GAP
        if width < 0:
            break
        table.add_column(name, justify="right", no_wrap=number >= len(name))
    for row in cells:
        table.add_row(*(value for _, value in row[: len(table.columns)]))
    return table


def _columns(row: HistoryRow, accuracy: str) -> list[tuple[str, str]]:
    """Return the names and values of an epoch's line. A part that is not there has no column.

    accuracy: what it is called.
    """
    numbers = [("loss", _number(row.train_loss))]
    for part in ("validation", "test"):
        numbers.append((f"{part} loss", _number(getattr(row, f"{part}_loss"))))
        numbers.append((f"{part} {accuracy}", _share(getattr(row, f"{part}_accuracy"))))
    norms = row.gradient_norms
    numbers.append(("gradient norms", f"{norms[0]:.1e}" + (f" … {norms[-1]:.1e}" if len(norms) > 1 else "")))
    return [(name, value) for name, value in numbers if value]


def _held_out(row: HistoryRow) -> tuple[str, float | None]:
    """Return the accuracy that tells most about new data, with the name of its part."""
    for part in ("validation", "test"):
        if getattr(row, f"{part}_loss") is not None:
            return part, getattr(row, f"{part}_accuracy")
    return "training", row.train_accuracy


def summary(result: Result, folder: Path, clock: Clock) -> Table:
    """Return the table at the end: how good the model is, how long it took, where everything is."""
    row, history = result.row, result.history
    table = _pairs_table()
    epochs = f"{len(history)}"
    if result.diverged:
        epochs += ", then training diverged"
    elif result.stopped_early:
        epochs += f", stopped early; the weights are those of epoch {row.epoch}"
    elif row.epoch != len(history):
        epochs += f"; the weights are those of epoch {row.epoch}, the best"
    table.add_row("epochs", epochs)
    for part in ("train", "validation", "test"):
        loss = getattr(row, f"{part}_loss")
        if loss is not None:
            table.add_row("training loss" if part == "train" else f"{part} loss", _number(loss))
    for part in ("train", "validation", "test"):
        accuracy = getattr(row, f"{part}_accuracy")
        if accuracy is not None:
            name = "training" if part == "train" else part
            table.add_row(f"{name} {ACCURACY[result.model.task]}", _share(accuracy))
    table.add_row("time", _duration(clock.seconds))
    table.add_row("run folder", str(folder))
    return table


# --- evaluate, gradcheck ----------------------------------------------------------------------------------------------
def evaluation_table(model: Model, name: str, x: Inputs, y: np.ndarray, weight: np.ndarray | None = None) -> Group:
    """Return how good a model is on raw inputs and targets, class by class, label by label, or output by output.

    weight: of each example, (examples,); all shares, means and the loss are weighted by it, and counts are not.
    """
    found = model.evaluate(x, y, weight)
    judged = Judgement.of(model, name, x, y, weight)
    totals = _pairs_table()
    totals.add_row("data", f"{name}: {len(x):,} examples" + ("" if weight is None else ", weighted"))
    totals.add_row("loss", f"{_number(found.loss)} ({model.network.loss.name})")
    if model.task != "regression":
        right = int(np.sum(judged.predicted == y))
        totals.add_row(ACCURACY[model.task], f"{_share(found.accuracy)} ({right:,} right)")
    if model.task == "multilabel":
        all_right = (judged.predicted == y).all(axis=1)
        share = _share(float(np.average(all_right, weights=weight)))
        totals.add_row("all labels right", f"{share} ({int(all_right.sum()):,} examples)")
    return Group(totals, *judgement_tables(judged))


def judgement_tables(judged: Judgement) -> list[RenderableType]:
    """Return how good predictions are, class by class, label by label, or output by output."""
    if judged.task == "regression":
        return [_outputs_table(judged)]
    classes = _classes_table("class" if judged.task == "classification" else "label", judged)
    return [classes, ConfusionTable(judged)] if judged.task == "classification" else [classes]


def _classes_table(what: str, judged: Judgement) -> Table:
    """Return recall (the share of a class that was found) and precision (the share of what was called so that is)."""
    table = _plain_table(what)
    for name in ("examples", "recall", "precision"):
        table.add_column(name, justify="right")
    for each in judged.classes():
        shares = ["–" if share is None else _share(share) for share in (each.recall, each.precision)]
        table.add_row(shown(each.name, CLASS_SHOWN), f"{each.examples:,}", *shares)
    return table


class ConfusionTable:
    """How many examples of each class are taken for each; if that is too wide, what is mistaken most often."""

    def __init__(self, judged: Judgement) -> None:
        self.judged = judged
        self.names = [shown(name, CLASS_SHOWN) for name in judged.names]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Yield the table that fits into the console's width."""
        most = np.bincount(self.judged.predicted, minlength=len(self.names)).tolist()
        columns = [max(cell_len(name), len(f"{count:,}")) for name, count in zip(self.names, most, strict=True)]
        width = max(len(IS), *map(cell_len, self.names)) + sum(columns) + GAP * len(columns)
        yield self._whole() if width <= options.max_width else self._mistakes()

    def _whole(self) -> Table:
        table = _plain_table(IS)
        for name in self.names:
            table.add_column(name, justify="right")
        for name, counts in zip(self.names, self.judged.confusion.tolist(), strict=True):
            table.add_row(name, *(f"{count:,}" if count else "·" for count in counts))
        return table

    def _mistakes(self) -> Table:
        table = _plain_table("is", "taken for")
        table.add_column("examples", justify="right")
        for true, predicted, count in self.judged.mistakes(MISTAKES_SHOWN):
            table.add_row(self.names[true], self.names[predicted], f"{count:,}")
        return table


def _outputs_table(judged: Judgement) -> Table:
    """Return errors in the data's own units, and the coefficient of determination R²."""
    table = _plain_table()
    for name in ("output", "root mean square error", "mean absolute error", "R²"):
        table.add_column(name, justify="right")
    for output, each in enumerate(judged.outputs(), start=1):
        r2 = "–" if each.r2 is None else f"{each.r2:.4f}"
        table.add_row(str(output), f"{each.root_mean_square:.4g}", f"{each.mean_absolute:.4g}", r2)
    return table


def folds_table(found: Sequence[Fold]) -> Table:
    """Return how good the model of each fold is on it, and the mean and the spread (standard deviation) of all."""
    table = _plain_table("fold")
    for name in ("examples", *found[0].figures):
        table.add_column(name, justify="right")
    formats = [_share if name in ACCURACY.values() else _number for name in found[0].figures]
    for number, fold in enumerate(found, start=1):
        figures = [form(value) for form, value in zip(formats, fold.figures.values(), strict=True)]
        table.add_row(f"{number}", f"{fold.examples:,}", *figures, end_section=number == len(found))
    totals = [mean_and_spread([fold.figures[name] for fold in found]) for name in found[0].figures]
    for row, values in zip(("mean", "spread"), zip(*totals, strict=True), strict=True):
        table.add_row(row, "", *(form(value) for form, value in zip(formats, values, strict=True)))
    return table


# --- columns of a table -----------------------------------------------------------------------------------------------
def columns_table(columns: Sequence[Taken]) -> Table:
    """Return what each column of a table is taken for; of very many, columns that are alike share a line."""
    groups = [[column] for column in columns]
    if len(columns) > COLUMNS_SHOWN:
        groups = [list(alike) for _, alike in itertools.groupby(columns, key=_likeness)]
    has_gaps = any(column.missing for column in columns)
    table = _plain_table("column", "taken for", "values")
    for name in (*(["missing"] if has_gaps else []), "inputs"):
        table.add_column(name, justify="right")
    for group in groups[:COLUMNS_SHOWN]:
        first, last = (shown(each.name, CLASS_SHOWN) for each in (group[0], group[-1]))
        name, values = (first, group[0].values) if len(group) == 1 else (f"{first} … {last}", f"{len(group):,} columns")
        role, kind, inputs = group[0].role, group[0].kind, sum(column.inputs for column in group)
        taken_for = kind if role == "input" else f"{role}: {kind}" if kind else role
        missing = [f"{group[0].missing:,}" if group[0].missing else ""] if has_gaps else []
        table.add_row(name, taken_for, values, *missing, f"{inputs:,}" if inputs else "")
    if len(groups) > COLUMNS_SHOWN:
        left = sum(map(len, groups[COLUMNS_SHOWN:]))
        table.add_row("…", f"{left:,} more columns")
    return table


def _likeness(column: Taken) -> object:
    """Return what is the same for columns that share a line; categories and columns with gaps have one each."""
    is_plain = column.role != "input" or (column.kind in (NUMBER, BOOLEAN) and not column.missing)
    return (column.role, column.kind) if is_plain else column.name


def gradient_check_table(network: Network, found: GradientCheck, rows: int) -> Table:
    """Return the largest relative error of each layer's weights and bias as a table."""
    title = f"{architecture(network)}; {network.loss.name}; a batch of {rows}"
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, title=title, title_justify="left")
    for name in ("layer", "", "parameters", "compared", "largest error", "allowed", ""):
        table.add_column(name, justify="left" if name == "" else "right")
    for array in found.arrays:
        if array.method == "random directions":
            compared = f"{array.checked:,} directions"
        else:
            compared = "all" if array.checked == array.size else f"{array.checked:,}"
        verdict = Text("agrees", "green") if array.passed else Text("differs", "red")
        table.add_row(
            str(array.layer), array.kind, f"{array.size:,}", compared,
            f"{array.error:.1e}", f"{array.tolerance:.0e}", verdict,
        )  # fmt: skip
    return table


def _plain_table(*names: str) -> Table:
    """Return a table without a frame, with these columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    for name in names:
        table.add_column(name)
    return table


def _pairs_table() -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    return table


# --- numbers as text --------------------------------------------------------------------------------------------------
def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _duration(seconds: float) -> str:
    """Return a duration as text: seconds, to one decimal below ten; from a minute on like a clock."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02} min"
