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

from gpubp.errors import LONGEST_LINE, ArgumentError, CacheWarning, ConflictError, GpubpError, StateError, shown
from gpubp.interrupts import end_on_interrupt
from gpubp.training.settings import TABLE, Settings

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
    if issubclass(category, CacheWarning):
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


@app.callback()
def _gpubp(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


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
    **settings: Any,
) -> None:
    """Train a network; the run's folder gets the model, its history, curves, configuration and checkpoint."""
    from gpubp.training import folder as runs
    from gpubp.training.display import display_for
    from gpubp.training.loop import Aborted, Interrupted

    given = {name: value for name, value in settings.items() if _is_given(ctx, name)}
    if resume is not None and (out is not None or config is not None):
        raise ConflictError("--out" if out is not None else "--config", "--resume", "the run has its own")
    if reschedule and resume is None:
        raise StateError("--reschedule", "was given", "be left out without --resume")
    with display_for(_console()) as display:
        try:
            if resume is not None:
                result, folder = runs.resume(resume, given, display, reschedule=reschedule)
            else:
                chosen = Settings(**{**(Settings.read(config) if config else {}), **given})
                result, folder = runs.start(chosen, out, display)
        except Interrupted as stop:
            with suppress(OSError):  # where the terminal was closed, nobody reads it
                display.interrupted(stop)
            raise typer.Exit(128 + stop.number) from None
        except Aborted as stop:
            display.aborted(stop)
            raise typer.Exit(128 + signal.SIGINT) from None
    display.finished(result, folder)
    if result.diverged:
        raise typer.Exit(1)


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
    label: Annotated[str | None, typer.Option(help="The label column of a table. Default: that of training.")] = None,
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
    found = predictions.load_for(loaded, data, label, whole=whole, written=written)
    table = evaluation_table(loaded, found.name, found.x, found.y)
    _tell(found.notes, [*filter(None, [found.warning]), *loaded.warnings(found.x)])
    _console().print(table)


@app.command()
@_with_settings(*TABLE, "backend", "device", **_UNLESS_GIVEN)
def predict(
    model: ModelFile,
    data: Annotated[str, typer.Option(help="As for train; labels may be missing.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A .csv or .npz file for the predictions.", show_default=False)],
    label: Annotated[str | None, typer.Option(help="A column of a table to leave out.")] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="Class names as they are, also those that a spreadsheet takes for a formula."),
    ] = False,
    force: Force = False,
    **options: Any,
) -> None:
    """Write a model's predictions: classes and probabilities, or values."""
    from gpubp.training import predictions
    from gpubp.training.model import Model

    predictions.check_out(out, data, force)
    written = {name: options.pop(name) for name in TABLE}
    loaded = Model.load(model, **options)
    x, notes = predictions.load_inputs_for(loaded, data, label, written)
    predictions.write_predictions(loaded, x, out, raw=raw)
    _tell(notes, loaded.warnings(x))
    typer.echo(f"{len(x):,} predictions in {out}")


# --- gradcheck --------------------------------------------------------------------------------------------------------
@app.command()
@_with_settings(
    *("data", "task", "label", *TABLE),
    *("layers", "activation", "output_activation", "loss", "reduction", "initializer", "bias"),
    layers="16,8",
    activation="tanh",
)
def gradcheck(
    batch_size: Annotated[int, typer.Option(help="Examples of the batch that is differentiated.")] = 32,
    tolerance: Annotated[float, typer.Option(help="Largest relative error that passes.")] = 1e-6,
    seed: Annotated[int, typer.Option(help="Of the weights and of the directions.")] = 0,
    **settings: Any,
) -> None:
    """Check backpropagation against central differences in float64; exit code 1 where they differ."""
    from gpubp.registry import require_count
    from gpubp.training.diagnostics import gradient_check
    from gpubp.training.display import gradient_check_table
    from gpubp.training.from_settings import first_batch, load_data

    require_count("batch_size", batch_size)
    chosen = Settings(**settings, dtype="float64", backend="numpy", seed=seed)
    dataset = load_data(chosen)
    network, x, y = first_batch(chosen, dataset, batch_size)
    found = gradient_check(network, x, y, seed=seed, tolerance=tolerance)
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
    force: Force = False,
    **where: Any,
) -> None:
    """Check a backend's kernels against the reference, case by case; exit code 1 where one is wrong."""
    from gpubp.crosscheck import check_command
    from gpubp.crosscheck.cases import Selection
    from gpubp.registry import require_count

    if jobs is not None:
        require_count("jobs", jobs, most=MOST_JOBS)
    found = check_command.check(
        _console(),
        **where,
        selection=Selection(
            tuple(primitive or ()), tuple(variant or ()), tuple(dtype or ()), check_command.shape_of(shape), full
        ),
        case=case,
        archs=tuple(dict.fromkeys(arch or ())),
        watch=check_command.watch_of(observe, fail_at, suppressions, orders, order or ()),
        jobs=jobs,
        report=report,
        force=force,
    )
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
        _what("Only the step of this network: tiny, tiny-regression, small, medium, wide, large, huge."),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        _what("float32, float64, or on tensor cores tf32, bfloat16, float16; may be given again. Default: float32."),
    ] = None,
    contender: Annotated[
        list[str] | None,
        _who(
            "Only this one; may be given again: numpy, cupy, cupy-graph, numba, torch, torch-compiled, jax, sklearn, "
            "cublas, cublaslt, torch-graph."
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        _who("This rung of the ladder on a GPU too: naive, tiled, blocked, pipelined; may be given again."),
    ] = None,
    quick: Annotated[bool, _how("A few sizes, a few seconds.", "--quick")] = False,
    full: Annotated[bool, _how("Every primitive, many sizes, many minutes.", "--full")] = False,
    repeats: Annotated[int | None, _how("Turns of each contender. Default: 5; --quick 3, --full 9.")] = None,
    threads: Annotated[int | None, _how("Of each contender on the CPU. Default: one a core.")] = None,
    out: Annotated[Path | None, _result("A folder for pictures: throughput.png, roofline.png.")] = None,
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


# --- profile ----------------------------------------------------------------------------------------------------------
_kernel = _options("A kernel of your own")


@app.command()
def profile(
    primitive: Annotated[
        str | None,
        typer.Argument(
            help="dense_forward, hidden_delta, transpose_product, weight_gradient, weight_step, hadamard_derivative, "
            "bias_gradient, softmax, output_delta or update; or give a kernel of your own by --kernel.",
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
        "optimizer": optimizer, "compare": compare or None,
    }  # fmt: skip
    of_kernels: dict[str, Any] = {
        "grid": grid, "block": block, "arg": arg or None, "shared": shared, "observe": observe or None,
        "fail_at": fail_at, "suppressions": suppressions,
    }  # fmt: skip
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
        arch=arch,
        chip=chip,
        compare=compare,
        as_json=as_json,
        out=out,
        html=html,
        force=force,
        page=lambda profile: profile_page.page(profile, _command_line()),
    )


# --- info -------------------------------------------------------------------------------------------------------------
@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Show what this machine has, and what each backend would use or lacks."""
    from gpubp import machine

    found = machine.look()
    if as_json:
        import json

        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        _console().print(found.table())


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


def _console() -> Console:
    from gpubp.terminal import PlainConsole

    return PlainConsole()


def _in_options(error: GpubpError, options: Collection[str | None]) -> str:
    """Return the error's message, in which arguments are called by the options of the verb that give them."""

    def option(argument: str) -> str:
        if argument in options:
            argument = "--" + argument.replace("_", "-")
        return OPTION_OF.get(argument, argument)

    return str(error.renamed(option) if isinstance(error, ArgumentError) else error)
