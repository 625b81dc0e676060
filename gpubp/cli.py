"""The command line: each verb a function whose parameters are its options, and which hands over to the package.

Nothing heavy is imported before a verb runs, so that help comes at once.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import select
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, get_type_hints

import typer
from typer.core import TyperGroup

from gpubp.errors import (
    LONGEST_LINE,
    ArgumentError,
    CacheWarning,
    ConflictError,
    GpubpError,
    OtherRankFailed,
    StateError,
    TunedPlansWarning,
    shown,
)
from gpubp.interrupts import end_on_interrupt
from gpubp.training.settings import RULES, TABLE, Settings

if TYPE_CHECKING:
    from rich.console import Console

USAGE_ERROR = 2
MOST_JOBS = 1024
"""Worker processes."""

OPTION_OF = {
    "learning_rate": "--lr",
    "sizes": "--layers",
    "hidden_activation": "--activation",
}
"""The library's arguments that the command line calls by another name than theirs."""


class Verbs(TyperGroup):
    """The verbs; what a user got wrong becomes one line on stderr and exit code 2."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the command line; help and the version are printed here."""
        with _until_nobody_reads(), _printable_usage():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb on the command line."""
        with _until_nobody_reads():
            try:
                with _printable_usage():
                    return super().invoke(ctx)
            except OtherRankFailed:
                raise typer.Exit(USAGE_ERROR) from None
            except GpubpError as error:
                if os.environ.get("GPUBP_DEBUG"):
                    raise
                verb = self.get_command(ctx, ctx.invoked_subcommand or "")
                options = [each.name for each in verb.params if each.param_type_name == "option"] if verb else []
                typer.echo(f"error: {_in_options(error, options)}", err=True)
                raise typer.Exit(USAGE_ERROR) from None


# Of typer's own copy of click, which has no public name for it.
UsageError: Any = typer.BadParameter.__base__


@contextmanager
def _printable_usage() -> Iterator[None]:
    """Let what typer says of wrong words quote them as a terminal can show them."""
    try:
        yield
    except UsageError as error:
        error.message = shown(error.message, LONGEST_LINE)
        raise


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train fully connected networks by backpropagation, every step of the algorithm its own GPU kernel.",
    epilog="GPUBP_DEBUG=1 shows the traceback of an error.",
)


def main() -> None:
    """Run the program `gpubp`; see `gpubp.__main__`, which is its beginning."""
    warnings.showwarning = _show_warning
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that is not UTF-8 shows ? for an arrow
    end_on_interrupt()
    sys.unraisablehook = _end_or_show
    _let_broken_pipes_through()
    try:
        with _until_nobody_reads():
            try:
                app()
            finally:
                sys.stdout.flush()
    except KeyboardInterrupt:  # while Typer reads the verbs; in one it does the same
        sys.exit(128 + signal.SIGINT)
    except (OSError, MemoryError) as error:
        # The output's disk or the memory is full: no defect of the program, and no traceback.
        if os.environ.get("GPUBP_DEBUG"):
            raise
        _drop_output(sys.stdout)
        what = str(error) if isinstance(error, MemoryError) else error.strerror or str(error)
        where = getattr(error, "filename", None)
        with suppress(OSError):  # the terminal may have gone
            typer.echo(f"error: {what or 'out of memory'}{f': {where}' if where else ''}", err=True)
        sys.exit(USAGE_ERROR)


def _end_or_show(unraisable: Any) -> None:
    """End the program on a Ctrl-C that came where Python lets no exception through, as in a finalizer."""
    if unraisable.exc_type is not None and issubclass(unraisable.exc_type, KeyboardInterrupt):
        os._exit(128 + signal.SIGINT)
    sys.__unraisablehook__(unraisable)


@contextmanager
def _until_nobody_reads() -> Iterator[None]:
    """End the program, as SIGPIPE would, once the reader of its output has gone, such as head that has seen enough.

    Inside of Typer too, which would give another exit code.
    """
    try:
        yield
    except BrokenPipeError:
        gone = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not gone:
            raise OSError(errno.EIO, "a process that this one worked with has ended") from None
        _drop_output(*gone)
        sys.exit(128 + signal.SIGPIPE)


def _let_broken_pipes_through() -> None:
    """Let every console of Rich raise BrokenPipeError, Typer's of the help among them: Rich would exit with 1."""
    from rich.console import Console

    def on_broken_pipe(console: Console) -> None:
        raise BrokenPipeError

    Console.on_broken_pipe = on_broken_pipe  # type: ignore[assignment,method-assign]


def _has_no_reader(stream: TextIO) -> bool:
    """True if a stream is a pipe or a socket whose other end is closed."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
    except (OSError, ValueError):  # it is no file, as in a test
        return False


def _open_streams() -> None:
    """Let output and errors go nowhere where the caller has closed them (`>&-`).

    Else the next file that is opened gets the number of the closed one, and what a library prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **options: Any) -> None:
    """Show what a user can mend as a line of its own, and any other warning as Python does."""
    if issubclass(category, CacheWarning | TunedPlansWarning):
        typer.echo(f"warning: {message}", err=True)
    else:
        _python_shows(message, category, *where, **options)


_python_shows = warnings.showwarning


def _drop_output(*streams: TextIO) -> None:
    """Let what is left to write go nowhere, so that the interpreter's end does not fail at it again."""
    for stream in streams:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"gpubp {version('gpubp')}")
        raise typer.Exit


SHARED = ("train", "info")
"""The verbs that several processes can run together."""


@app.callback()
def _gpubp(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    tuned: Annotated[
        bool, typer.Option("--tuned/--no-tuned", help="Take the plans that gpubp tune measured on this GPU.")
    ] = True,
) -> None:
    if ctx.invoked_subcommand not in SHARED:
        from gpubp.distributed.ranks import require_one_process

        require_one_process(f"gpubp {ctx.invoked_subcommand}")
    if not tuned:
        os.environ["GPUBP_TUNED"] = "no"  # for the processes that a verb starts too


# --- options ----------------------------------------------------------------------------------------------------------
def _options(panel: str) -> Callable[..., Any]:
    """Return a function that makes the options of one panel of the help."""

    def option(help: str, *names: str) -> Any:
        return typer.Option(*names, help=help, rich_help_panel=panel)

    return option


def _with_settings(*names: str, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that gives a verb these settings as options, before its own: its `**keywords` take them.

    names: the `Settings`; none takes them all. defaults: by name, where the verb has others than `Settings`.
    """

    def decorated(verb: Callable[..., None]) -> Callable[..., None]:
        types, known = get_type_hints(Settings), {each.name: each for each in fields(Settings)}
        options = [
            inspect.Parameter(
                each.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=defaults.get(each.name, each.default),
                annotation=Annotated[types[each.name], _options(each.metadata["panel"])(each.metadata["help"])],
            )
            for each in [known[name] for name in names or known]
        ]
        signature = inspect.signature(verb, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        verb.__signature__ = signature.replace(parameters=[*options, *own])  # type: ignore[attr-defined]
        return verb

    return decorated


Observe = Annotated[bool, typer.Option("--observe", help="Look for races and unwritten memory (emulator).")]
FailAt = Annotated[
    str | None, typer.Option(help="The least grade of a finding that fails: note, warning or error. Default: warning.")
]
Suppressions = Annotated[Path | None, typer.Option(help="A .toml file of findings that are intended.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]
ModelFile = Annotated[Path, typer.Argument(help="A model.safetensors, or the folder of a run.", show_default=False)]


# --- train ------------------------------------------------------------------------------------------------------------
_output = _options("Output")


@app.command()
@_with_settings()
def train(
    ctx: typer.Context,
    out: Annotated[Path | None, _output("Folder of the run, a new one. Default: runs/DATA-TIME.")] = None,
    resume: Annotated[Path | None, _output("Folder of a run to continue, with its own settings.")] = None,
    config: Annotated[Path | None, _output("Settings from a file, such as a run's config.toml.")] = None,
    reschedule: Annotated[
        bool,
        _output("With --resume and --epochs: a new schedule for the new total. Default: it ends where it was to end."),
    ] = False,
    find_lr: Annotated[
        bool,
        _output("Train for a moment with a growing learning rate, show the losses, suggest a rate; keep nothing."),
    ] = False,
    cv: Annotated[
        int | None,
        _output("Cross-validate: train as many times, each time test on another such part; keep nothing."),
    ] = None,
    ranks: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_JOBS,
            help="Train in as many processes on this machine, each on its share of every batch: short for mpirun -n.",
            rich_help_panel="Where it runs",
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Train a network; the run's folder gets the model, its history, pictures, configuration and checkpoint."""
    from gpubp.distributed.ranks import is_launched, joined, require_one_process
    from gpubp.training import folder as runs
    from gpubp.training.display import display_for
    from gpubp.training.loop import Aborted, Interrupted

    given = {name: value for name, value in settings.items() if _is_given(ctx, name)}
    if resume is not None and (out is not None or config is not None):
        raise ConflictError("--out" if out is not None else "--config", "--resume", "the run has its own")
    if find_lr and (resume is not None or out is not None):
        hint = "it begins with fresh weights" if resume is not None else "it writes nothing"
        raise ConflictError("--find-lr", "--resume" if resume is not None else "--out", hint)
    if cv is not None:
        for other, is_given in (("--resume", resume), ("--out", out), ("--find-lr", find_lr)):
            if is_given:
                raise ConflictError("--cv", other, "it keeps nothing")
        if "test_fraction" in given:
            raise ConflictError("--cv", "--test-fraction", _NO_TEST_PART)
    if reschedule and resume is None:
        raise StateError("--reschedule", "was given", "be left out without --resume")
    if find_lr or cv is not None:
        verb = "--find-lr" if find_lr else "--cv"
        if ranks is not None:
            raise ConflictError("--ranks", verb, "it runs in one process")
        require_one_process(verb)
    if ranks is not None and not is_launched():
        from gpubp.distributed.launcher import launch

        raise typer.Exit(launch(ranks, sys.argv[1:]))
    if find_lr:
        _find_lr(given, config)
        return
    if cv is not None:
        chosen = Settings(**{**(Settings.read(config) if config else {}), **given})
        # the config.toml of a run has every setting, the default share too, which nobody asked for
        if chosen.test_fraction != Settings.test_fraction:
            raise ConflictError("--cv", f"test_fraction in {config}", _NO_TEST_PART)
        _cross_validate(chosen, cv)
        return
    code = 0
    with joined() as joint:
        # Open MPI gives each rank a terminal, wherever its own output goes
        console = _console() if joint.alone else _console(quiet=not joint.first, force_terminal=False)
        with joint.agreed():
            if ranks not in (None, joint.count):
                raise ArgumentError("--ranks", ranks, f"left out, or {joint.count}, as the launcher was told")
            chosen = Settings(**{**(Settings.read(config) if config else {}), **given})
        with display_for(console) as display:
            try:
                if resume is not None:
                    result, folder = runs.resume(resume, given, display, reschedule=reschedule, ranks=joint)
                else:
                    result, folder = runs.start(chosen, out, display, joint)
                code = 1 if result.diverged else 0
            except Interrupted as stop:
                with suppress(OSError):  # where the terminal was closed, nobody reads it
                    display.interrupted(stop)
                code = 128 + stop.number
            except Aborted as stop:
                display.aborted(stop)
                if not joint.alone:
                    raise
                code = 128 + signal.SIGINT
        if code < 128:
            display.finished(result, folder)
    # outside of `joined`, in which leaving would end the other ranks
    if code:
        raise typer.Exit(code)


def _find_lr(given: dict[str, Any], config: Path | None) -> None:
    """Sweep over learning rates, with the settings of a run to come."""
    from gpubp.terminal import progress
    from gpubp.training import rate_display
    from gpubp.training.from_settings import load_data, make_network, training_config
    from gpubp.training.lr_finder import find_learning_rate

    chosen = Settings(**{**(Settings.read(config) if config else {}), **given})
    training = training_config(chosen)
    dataset = load_data(chosen)
    network = make_network(chosen, dataset)
    _tell(dataset.notes)
    console = _console()
    rate_display.began(console, network, dataset, training)
    with progress(console, "the rate grows") as tell:
        found = find_learning_rate(network, dataset, training, tell=tell, stream=chosen.stream)
    rate_display.show(console, found, _training_command(given, config))


_NO_TEST_PART = "each part is the test part once"


def _cross_validate(chosen: Settings, count: int) -> None:
    """Train once for each fold of the data and show how good the models are on them."""
    from gpubp.registry import require_count
    from gpubp.terminal import progress
    from gpubp.training import cross_validation as cross
    from gpubp.training.display import columns_table, folds_table
    from gpubp.training.from_settings import load_whole, training_config

    require_count("cv", count, 2)
    training_config(chosen)
    whole = load_whole(chosen)
    console = _console()
    cross.check_folds(whole, count, chosen)
    found = []
    with progress(console, "fold 1") as tell:
        for number, dataset in enumerate(cross.parts_of(whole, count, chosen.seed), start=1):
            tell(f"fold {number} of {count}")
            if number == 1:
                console.print(dataset.describe(), soft_wrap=True)
                apart = (
                    [] if whole.y_test is None else [f"the test part of {len(whole.y_test):,} examples takes no part"]
                )
                _tell([*dataset.notes, *apart])
                if dataset.columns:
                    console.print(columns_table(dataset.columns))
            found.append(cross.train_fold(dataset, chosen))
    console.print(folds_table(found))
    if any(fold.diverged for fold in found):
        console.print("training diverged")
        raise typer.Exit(1)


def _training_command(given: dict[str, Any], config: Path | None) -> str:
    """Return the command that trains with these settings, but for the learning rate."""
    from shlex import join

    words = ["gpubp", "train", *(["--config", str(config)] if config else [])]
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif name != "lr":
            words += [f"--{option}", str(value)]
    return join(words)


def _is_given(ctx: typer.Context, name: str) -> bool:
    """True if the option stands on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


# --- evaluate, predict ------------------------------------------------------------------------------------------------
def _tell(notes: Iterable[str], warnings: Iterable[str] = ()) -> None:
    """Show what the user must know, and what was guessed, on stderr, apart from the results."""
    for message in warnings:
        typer.echo(f"warning: {message}", err=True)
    for note in notes:
        typer.echo(f"note: {note}", err=True)


_UNLESS_GIVEN = dict.fromkeys(TABLE)
"""How the table of the training was written is how another is, but for the options that are given."""


@app.command()
@_with_settings(*TABLE, "backend", "device", **_UNLESS_GIVEN)
def evaluate(
    model: ModelFile,
    data: Annotated[
        str | None,
        typer.Option(help="As for train. Default: the test part of what the model was trained on."),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The label column of a table, or several as a,b,c. Default: that of training.")
    ] = None,
    weight_column: Annotated[
        str | None,
        typer.Option(help="The column or array with the examples' weights. Default: that of training, if it is there."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Judge all rows, those that the model was trained on among them.")
    ] = False,
    **options: Any,
) -> None:
    """Judge a model on data that it was not trained on."""
    from gpubp.training import predictions
    from gpubp.training.display import evaluation_table
    from gpubp.training.model import Model

    written = {name: options.pop(name) for name in TABLE}
    loaded = Model.load(model, **options)
    found = predictions.load_for(loaded, data, label, weight_column=weight_column, whole=whole, written=written)
    table = evaluation_table(loaded, found.name, found.x, found.y, found.weight)
    _tell(found.notes, [*filter(None, [found.warning]), *loaded.warnings(found.x)])
    _console().print(table)


@app.command()
@_with_settings(*TABLE, "backend", "device", **_UNLESS_GIVEN)
def predict(
    model: ModelFile,
    data: Annotated[str, typer.Option(help="As for train; labels may be missing.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A .csv or .npz file for the predictions.", show_default=False)],
    label: Annotated[str | None, typer.Option(help="A column of a table to leave out, or several as a,b,c.")] = None,
    weight_column: Annotated[
        str | None, typer.Option(help="A column of a table with weights, which is left out too.")
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Class names as they are, also those that a spreadsheet takes for a formula."),
    ] = False,
    force: Force = False,
    **options: Any,
) -> None:
    """Write a model's predictions: classes or labels and probabilities, or values."""
    from gpubp.training import predictions
    from gpubp.training.model import Model

    predictions.check_out(out, data, force)
    written = {name: options.pop(name) for name in TABLE}
    loaded = Model.load(model, **options)
    x, notes = predictions.load_inputs_for(loaded, data, label, written, weight_column=weight_column)
    predictions.write_predictions(loaded, x, out, raw=raw)
    _tell(notes, loaded.warnings(x))
    typer.echo(f"{len(x):,} predictions in {out}")


# --- export -----------------------------------------------------------------------------------------------------------
@app.command()
def export(
    model: ModelFile,
    to: Annotated[str, typer.Option(help="torch, onnx or sklearn.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="A .safetensors, .onnx or .pkl file, as the library has it. Default: model-LIBRARY."),
    ] = None,
    force: Force = False,
) -> None:
    """Write a model for PyTorch, ONNX or scikit-learn, with its scaling, and print the program that loads it."""
    from gpubp.export import export_command

    path, exported = export_command.run(model, to, out, force)
    _tell((*exported.notes, f"{path} is written; this loads it:"))
    typer.echo(exported.program)


# --- gradcheck --------------------------------------------------------------------------------------------------------
@app.command()
@_with_settings(
    *("data", "task", "label", "weight_column", *TABLE, *RULES),
    *("layers", "activation", "output_activation", "loss", "label_smoothing", "gamma", "quantile", "reduction"),
    *("initializer", "bias", "dropout", "class_weight"),
    layers="16,8",
    activation="tanh",
)
def gradcheck(
    batch_size: Annotated[int, typer.Option(help="Examples of the batch that is differentiated.")] = 32,
    tolerance: Annotated[float, typer.Option(help="Largest relative error that passes.")] = 1e-6,
    seed: Annotated[int, typer.Option(help="Of the weights and of the directions.")] = 0,
    **settings: Any,
) -> None:
    """Check backpropagation against central differences in float64; exit code 1 where they differ.

    With dropout, of the units that the first training step keeps.
    """
    from gpubp.registry import require_count
    from gpubp.training.diagnostics import gradient_check
    from gpubp.training.display import gradient_check_table
    from gpubp.training.from_settings import first_batch, load_data

    require_count("batch_size", batch_size)
    chosen = Settings(**settings, dtype="float64", backend="numpy", seed=seed)
    dataset = load_data(chosen)
    network, x, y, weights = first_batch(chosen, dataset, batch_size)
    found = gradient_check(network, x, y, seed=seed, tolerance=tolerance, sample_weight=weights)
    _tell(dataset.notes)
    console = _console()
    console.print(gradient_check_table(network, found, len(x)))
    if not found.passed:
        console.print(f"backpropagation and finite differences differ by more than {tolerance:g}")
        raise typer.Exit(1)


# --- check ------------------------------------------------------------------------------------------------------------
@app.command()
@_with_settings("backend", "device")
def check(
    primitive: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    variant: Annotated[list[str] | None, typer.Option(help="Only this rung of the ladder; may be given again.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Only float32, float64, tf32, bfloat16 or float16.")] = None,
    shape: Annotated[str | None, typer.Option(help="MxNxK for products, else rows x columns, or a length.")] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="Only this, such as dropout, accumulate, weighted or penalties; may be given again."),
    ] = None,
    case: Annotated[str | None, typer.Option(help="Only the case of this name, as a failure prints it.")] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="The chip to emulate, such as sm_75; may be given again.")
    ] = None,
    observe: Observe = False,
    fail_at: FailAt = None,
    suppressions: Suppressions = None,
    orders: Annotated[
        int | None, typer.Option(help="Run each case in so many more orders of execution (emulator).")
    ] = None,
    order: Annotated[
        list[int] | None, typer.Option(help="Run it in the order of this seed; may be given again.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Every combination; on the emulator, compiled for every architecture too.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="Worker processes. Default: one on a GPU, else one a core.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the results to a .md or .json file.")] = None,
    explain: Annotated[
        Path | None, typer.Option(help="Show the first failing case at work, on the emulated device, in an .html file.")
    ] = None,
    force: Force = False,
    **where: Any,
) -> None:
    """Check a backend's kernels against the reference, case by case; exit code 1 where one is wrong."""
    from gpubp.crosscheck import check_command
    from gpubp.crosscheck.cases import Selection
    from gpubp.registry import require_count

    if jobs is not None:
        require_count("jobs", jobs, most=MOST_JOBS)
    console = _console()
    if explain is not None:
        from gpubp.explain import kernel_command

        kernel_command.check_explained(explain, where["backend"], where["device"], force)
    found = check_command.check(
        console,
        **where,
        selection=Selection(
            tuple(primitive or ()),
            tuple(variant or ()),
            tuple(dtype or ()),
            check_command.shape_of(shape),
            full,
            tuple(mode or ()),
        ),
        case=case,
        archs=tuple(dict.fromkeys(arch or ())),
        watch=check_command.watch_of(observe, fail_at, suppressions, orders, order or ()),
        jobs=jobs,
        report=report,
        force=force,
    )
    if explain is not None:
        kernel_command.explain_failure(console, found, explain, _command_line())
    if not found.passed:
        raise typer.Exit(1)


# --- bench ------------------------------------------------------------------------------------------------------------
_what, _who, _how, _result = map(_options, ("What is measured", "Who takes part", "How", "Result"))


@app.command()
def bench(
    primitive: Annotated[list[str] | None, _what("Only this primitive; may be given again.")] = None,
    shape: Annotated[
        list[str] | None, _what("MxNxK for products, BxN for matrices, a length for update; may be given again.")
    ] = None,
    step: Annotated[bool, _what("Only training steps.", "--step")] = False,
    network: Annotated[
        list[str] | None,
        _what(
            "Only the step of this network: tiny, tiny-regression, small, medium, wide, large, huge; tiny@16: batch 16."
        ),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        _what("float32, float64, or on tensor cores tf32, bfloat16, float16; may be given again. Default: float32."),
    ] = None,
    ranks: Annotated[
        list[int] | None,
        _what(
            "Only training steps, in one process and in this many by MPI, of the same batch (strong scaling) and of as "
            "many times its rows (weak scaling); may be given again."
        ),
    ] = None,
    contender: Annotated[
        list[str] | None,
        _who(
            "Only this one; may be given again: numpy, cpu, cupy, cupy-graph, numba, torch, torch-compiled, jax, "
            "sklearn, cublas, cublaslt, torch-graph."
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        _who("This rung of the ladder on a GPU too: naive, tiled, blocked, pipelined; may be given again."),
    ] = None,
    quick: Annotated[bool, _how("A few sizes, a few seconds.", "--quick")] = False,
    full: Annotated[bool, _how("Every primitive, many sizes, many minutes.", "--full")] = False,
    repeats: Annotated[int | None, _how("Turns of each contender. Default: 5; --quick 3, --full 9.")] = None,
    threads: Annotated[
        int | None,
        _how(
            "Of each contender on the CPU. Default: one a core; with --ranks each rank has as many, for the most ranks."
        ),
    ] = None,
    out: Annotated[Path | None, _result("A folder for pictures: throughput.png, roofline.png; scaling.png.")] = None,
    save: Annotated[Path | None, _result("Keep the figures in a .json file.")] = None,
    compare: Annotated[
        list[Path] | None,
        _result("Compare with a file that --save made; given twice, compare the two files and measure nothing."),
    ] = None,
    as_json: Annotated[bool, _result("Print the figures as JSON.", "--json")] = False,
    force: Annotated[bool, _result("Replace files that are there already.", "--force")] = False,
) -> None:
    """Measure the CPU and the GPU, beside other libraries and the hardware's limits; exit code 1 for wrong results."""
    from gpubp.bench import bench_command
    from gpubp.crosscheck.check_command import shape_of

    found = bench_command.bench(
        _console(),
        bench_command.Choice(
            primitives=tuple(primitive or ()),
            shapes=tuple(sides for text in shape or () if (sides := shape_of(text)) is not None),
            steps=tuple(network or ()) if step or network else None,
            dtypes=tuple(dict.fromkeys(dtype or ("float32",))),
            contenders=tuple(contender or ()),
            variants=tuple(variant or ()),
            repeats=repeats,
            threads=threads,
            ranks=tuple(ranks or ()),
        ),
        quick=quick,
        full=full,
        save=save,
        compare=compare or (),
        out=out,
        as_json=as_json,
        force=force,
    )
    if found.own_faults:
        raise typer.Exit(1)


# --- tune -------------------------------------------------------------------------------------------------------------
@app.command()
@_with_settings("device")
def tune(
    model: Annotated[
        Path | None, typer.Option(help="The products of this run's network: a folder of a run.", show_default=False)
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Products of these sides, MxNxK, in all three forms; may be given again.")
    ] = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option(
            help="float32, float64, tf32, bfloat16 or float16; may be given again. Default: the run's, or float32."
        ),
    ] = None,
    candidates: Annotated[
        int, typer.Option(help="Plans that are measured of each product: those that the model takes for the best.")
    ] = 8,
    seconds: Annotated[float, typer.Option(help="Time to measure each plan for.")] = 0.05,
    **where: Any,
) -> None:
    """Measure on a GPU which plans of products are best, and keep them: later runs take them unless --no-tuned."""
    from gpubp import terminal
    from gpubp.bench import tune_command
    from gpubp.crosscheck.check_command import shape_of

    console = _console()
    with terminal.progress(console, "starting the GPU") as tell:
        tune_command.run(
            console,
            device=where["device"],
            model=model,
            shapes=[sides for text in shape or () if (sides := shape_of(text)) is not None],
            dtypes=tuple(dtype or ()),
            candidates=candidates,
            seconds=seconds,
            tell=tell,
        )


# --- profile ----------------------------------------------------------------------------------------------------------
_kernel, _of_step = map(_options, ("A kernel of your own", "A training step on several GPUs"))


@app.command()
def profile(
    primitive: Annotated[
        str | None,
        typer.Argument(
            help="dense_forward, hidden_delta, transpose_product, weight_gradient, weight_step, hadamard_derivative, "
            "bias_gradient, softmax, output_delta or update; step, a model of a training step on several GPUs; or give "
            "a kernel of your own by --kernel.",
            show_default=False,
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(help="MxNxK for products, such as 4096x4096x4096; else BxN, or the number of parameters."),
    ] = None,
    backend: Annotated[str | None, typer.Option(help="cupy or numba. Default: cupy; with --compare both.")] = None,
    variant: Annotated[str | None, typer.Option(help="The rung of a product. Default: what the backend takes.")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, float64, tf32, bfloat16 or float16. Default: float32; of --kernel what it computes in most."
        ),
    ] = None,
    activation: Annotated[str | None, typer.Option(help="σ of the primitives that have one. Default: relu.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="Of update. Default: sgd.")] = None,
    mode: Annotated[
        str | None, typer.Option(help="What else it is asked, such as dropout, accumulate, weighted or penalties.")
    ] = None,
    kernel: Annotated[
        str | None,
        _kernel("A kernel of your own: FILE.cu:NAME, FILE.ptx:NAME, or FILE.py:NAME, a Numba kernel."),
    ] = None,
    grid: Annotated[str | None, _kernel("Blocks of its grid, such as 256 or 16x16.")] = None,
    block: Annotated[str | None, _kernel("Threads of a block, such as 128 or 32x8.")] = None,
    arg: Annotated[
        list[str] | None,
        _kernel(
            "An argument; once for each, in order: 1024:int32, 0.5:float32, 64x64:float32:random (or zeros, ones, "
            "arange), a .npy file, or null."
        ),
    ] = None,
    shared: Annotated[int | None, _kernel("Bytes of dynamic shared memory.")] = None,
    observe: Annotated[bool, _kernel("Look for races and unwritten memory too.", "--observe")] = False,
    fail_at: Annotated[
        str | None, _kernel("The least grade of a finding that fails: note, warning or error. Default: warning.")
    ] = None,
    suppressions: Annotated[Path | None, _kernel("A .toml file of findings that are intended.")] = None,
    network: Annotated[
        str | None,
        _of_step(
            "tiny, tiny-regression, small, medium, wide, large or huge; large@64: with a batch of 64. Default: large."
        ),
    ] = None,
    ranks: Annotated[list[int] | None, _of_step("On this many GPUs; may be given again. Default: 2, 4 and 8.")] = None,
    arch: Annotated[str | None, typer.Option(help="What to compile for, such as sm_90. Default: the chip's.")] = None,
    chip: Annotated[
        str | None,
        typer.Option(help="A100, H100, B200, RTX4090, T4, or a .toml file. Default: H100, or what runs --arch."),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Every variant side by side, and both backends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    out: Annotated[Path | None, typer.Option(help="Draw the roofline with the points to a .png file.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the kernel's source, with its counts line by line, to an .html file.")
    ] = None,
    force: Force = False,
) -> None:
    """Show what a kernel does and what limits it, with no GPU: compiled code, counts, occupancy, roofline.

    Of a kernel of your own: exit code 1 where it does something wrong.
    """
    from gpubp.registry import require_count
    from gpubp.report import profile_page

    of_primitives: dict[str, Any] = {
        "primitive": primitive, "shape": shape, "backend": backend, "variant": variant, "activation": activation,
        "optimizer": optimizer, "mode": mode, "compare": compare or None,
    }  # fmt: skip
    of_kernels: dict[str, Any] = {
        "grid": grid, "block": block, "arg": arg or None, "shared": shared, "observe": observe or None,
        "fail_at": fail_at, "suppressions": suppressions,
    }  # fmt: skip
    if primitive == "step":
        from gpubp.profiler import step_command

        others = {**of_primitives, **of_kernels, "kernel": kernel, "arch": arch, "out": out, "html": html}
        for name, value in others.items():
            if value is not None and name != "primitive":
                raise StateError(name, "was given", "be left out of the model of a step")
        step_command.run(
            _console(), network=network, ranks=ranks or (), dtype=dtype or "float32", chip=chip, as_json=as_json
        )
        return
    for name, value in (("network", network), ("ranks", ranks)):
        if value:
            raise StateError(name, "was given", "be left out, or given with step: gpubp profile step")
    if kernel is not None:
        from gpubp.profiler import kernel_command

        for name, value in of_primitives.items():
            if value is not None:
                raise ConflictError("kernel", name, "it is of the primitives")
        for name in ("fail_at", "suppressions"):
            if of_kernels[name] is not None and not observe:
                raise StateError(name, "was given", "be left out, or given with --observe, which makes the findings")
        require_count("shared", shared or 0, least=0, most=2**31)
        if not kernel_command.run(
            _console(),
            kernel=kernel,
            grid=grid,
            block=block,
            arguments=arg or (),
            shared_mem=shared or 0,
            dtype=dtype,
            arch=arch,
            chip=chip,
            observe=observe,
            fail_at=fail_at,
            suppressions=suppressions,
            as_json=as_json,
            out=out,
            html=html,
            force=force,
            page=lambda profile: profile_page.page(profile, _command_line()),
        ):
            raise typer.Exit(1)
        return
    for name, value in of_kernels.items():
        if value is not None:
            raise StateError(name, "was given", "be left out, or given with --kernel")
    if primitive is None:
        raise StateError("primitive", "is missing", "be given, or a kernel of your own by --kernel")

    from gpubp.profiler import profile_command

    profile_command.run(
        _console(),
        primitive=primitive,
        shape=shape,
        backend=backend,
        variant=variant,
        dtype=dtype or "float32",
        activation=activation or "relu",
        optimizer=optimizer or "sgd",
        mode=mode,
        arch=arch,
        chip=chip,
        compare=compare,
        as_json=as_json,
        out=out,
        html=html,
        force=force,
        page=lambda profile: profile_page.page(profile, _command_line()),
    )


# --- explain ----------------------------------------------------------------------------------------------------------
explainers = typer.Typer(
    cls=Verbs, no_args_is_help=True, help="Show the algorithm, or a kernel at work, with its own numbers."
)
app.add_typer(explainers, name="explain")
Language = Annotated[str, typer.Option(help="en or es.")]
_network, _page = map(_options, ("The network", "Result"))


@explainers.command("network")
def explain_network(
    sizes: Annotated[str | None, _network("Widths of all layers, from the input on. Default: 2,3,1.")] = None,
    activation: Annotated[str | None, _network("Of all layers. Default: sigmoid.")] = None,
    output_activation: Annotated[str | None, _network("Of the output. Default: as the others, or the loss's.")] = None,
    loss: Annotated[str | None, _network("Such as squared_error. Default: half_squared_error.")] = None,
    bias: Annotated[bool | None, _network("Layers with a bias. Default: --bias.", "--bias/--no-bias")] = None,
    x: Annotated[str | None, _network("The example's inputs. Default: 1,0.5 and so on.")] = None,
    y: Annotated[str | None, _network("Its targets. Default: 1,0 and so on.")] = None,
    lr: Annotated[float, _network("Learning rate of the step.")] = 0.5,
    seed: Annotated[int | None, _network("Of the weights. Default: 0.")] = None,
    model: Annotated[Path | None, _network("A trained model, or the folder of a run, instead.")] = None,
    example: Annotated[int | None, _network("With --model: the row of its data. Default: 0.")] = None,
    data: Annotated[str | None, _network("With --model: other data, or where its own is now.")] = None,
    notation: Annotated[str, _page("w, or theta for books that write θ, u and o.")] = "w",
    language: Language = "en",
    out: Annotated[Path | None, _page("Write the page to an .html file.")] = None,
    force: Force = False,
) -> None:
    """Show one step of backpropagation on one example, number by number."""
    from gpubp.explain import network_command

    network_command.run(
        _console(),
        sizes=sizes,
        activation=activation,
        output_activation=output_activation,
        loss=loss,
        bias=bias,
        x=x,
        y=y,
        learning_rate=lr,
        seed=seed,
        model=model,
        example=example,
        data=data,
        letters=notation,
        language=language,
        out=out,
        force=force,
        command=_command_line(),
    )


@explainers.command("kernel")
def explain_kernel(
    primitive: Annotated[
        str,
        typer.Argument(
            help="dense_forward, hidden_delta, weight_gradient, bias_gradient, softmax, update and so on.",
            show_default=False,
        ),
    ],
    variant: Annotated[str | None, typer.Option(help="The rung of a product. Default: what the backend takes.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="MxNxK for products, else BxN, or a length. Default: 8x6x10, 8x6 or 48.")
    ] = None,
    backend: Annotated[str, typer.Option(help="cupy or numba: whose kernel.")] = "cupy",
    dtype: Annotated[str, typer.Option(help="float32, float64, tf32, bfloat16 or float16.")] = "float32",
    activation: Annotated[str, typer.Option(help="σ of the primitives that have one.")] = "relu",
    mode: Annotated[str | None, typer.Option(help="What else it is asked, such as dropout or accumulate.")] = None,
    arch: Annotated[str | None, typer.Option(help="The chip to emulate, such as sm_80.")] = None,
    block: Annotated[
        str | None, typer.Option(help="Index of the block to follow, such as 1,0. Default: 0,0,0.")
    ] = None,
    warp: Annotated[int | None, typer.Option(help="Follow this warp of it alone.")] = None,
    language: Language = "en",
    out: Annotated[Path | None, typer.Option(help="Write the page to an .html file; print no steps.")] = None,
    force: Force = False,
) -> None:
    """Show a kernel at work on the emulated device, line by line; exit code 1 where it does something wrong."""
    from gpubp.explain import kernel_command

    if not kernel_command.run(
        _console(),
        primitive=primitive,
        variant=variant,
        shape=shape,
        backend=backend,
        dtype=dtype,
        activation=activation,
        mode=mode,
        arch=arch,
        block=block,
        warp=warp,
        language=language,
        out=out,
        force=force,
        command=_command_line(),
    ):
        raise typer.Exit(1)


# --- info -------------------------------------------------------------------------------------------------------------
@app.command()
@_with_settings("task", "label", "weight_column", *TABLE, *RULES)
def info(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Option(help="Show this data set instead, as train would take it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    **options: Any,
) -> None:
    """Show what this machine has, and what each backend would use or lacks; or what a data set holds.

    Of a table: what each column is taken for. Under mpirun: the machine and the GPU of each rank too.
    """
    if data is not None:
        _show_data(data, options, as_json)
        return
    for name in options:
        if _is_given(ctx, name):
            raise StateError(name, "was given", "be left out without --data")

    from gpubp import machine
    from gpubp.distributed.ranks import joined

    with joined() as ranks:
        found = machine.look(ranks)
    if not ranks.first:
        return
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _console().print(found.table())


def _show_data(data: str, options: dict[str, Any], as_json: bool) -> None:
    """Show what a data set holds, as a training with these settings would take it."""
    from dataclasses import asdict

    from gpubp.training.display import columns_table
    from gpubp.training.from_settings import look

    found = look(Settings(data=data, **options))
    if as_json:
        import json

        columns = [asdict(column) for column in found.columns]
        typer.echo(json.dumps({"data": found.describe(), "notes": found.notes, "columns": columns}, indent=2))
        return
    console = _console()
    console.print(found.describe(), soft_wrap=True)
    _tell(found.notes)
    if found.columns:
        console.print(columns_table(found.columns))
    gaps = sum(column.missing > 0 for column in found.columns)
    if gaps and options["missing"] == "error":
        _tell([f"columns with missing values: {gaps}; to train on them, say by --missing what stands for a value"])


# --- report -----------------------------------------------------------------------------------------------------------
@app.command()
def report(
    out: Annotated[
        Path | None,
        typer.Option(
            help="An .html file for the page. Beside it, in a .json file, are the results, with which a later run goes "
            "on. Default: report.html."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="gpu, emulator or virtual. Default: the GPU where kernels run on it, else emulator."),
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Only the kernels of this one, cupy or numba; may be given again.")
    ] = None,
    primitive: Annotated[list[str] | None, typer.Option(help="Only this one; may be given again.")] = None,
    skip: Annotated[
        list[str] | None, typer.Option(help="Leave out check, train, bench or profile; may be given again.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Check float32 alone, and measure few sizes.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Check every combination, and measure all sizes: hours.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(help="Worker processes of the check. Default: one on a GPU, else one a core.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start over, and replace files that are there already.")
    ] = False,
) -> None:
    """Check, train, measure and profile on this machine, for one HTML page and its figures as JSON.

    At most ten minutes on a GPU. Each part runs in a process of its own, under its own limit; a second run goes on with
    the parts that are missing or broke. Exit code 1 where something is wrong.
    """
    from gpubp.registry import require_count
    from gpubp.report import report_command
    from gpubp.report.parts import Choice

    if jobs is not None:
        require_count("jobs", jobs, most=MOST_JOBS)
    choice = Choice(tuple(backend or ()), tuple(primitive or ()), tuple(skip or ()), device or "", quick, full, jobs)
    found, _ = report_command.report(_console(), choice, out, _command_line(), force=force)
    if found.failed:
        raise typer.Exit(1)


# --- what every verb needs --------------------------------------------------------------------------------------------
def _command_line() -> str:
    """Return what the user typed, for a page to show."""
    from shlex import join

    return join(["gpubp", *sys.argv[1:]])


def _console(**options: Any) -> Console:
    from gpubp.terminal import PlainConsole

    return PlainConsole(**options)


def _in_options(error: GpubpError, options: Collection[str | None]) -> str:
    """Return the error's message, in which arguments are called by the options of the verb that give them."""

    def option(argument: str) -> str:
        if argument in options:
            argument = "--" + argument.replace("_", "-")
        return OPTION_OF.get(argument, argument)

    return str(error.renamed(option) if isinstance(error, ArgumentError) else error)
