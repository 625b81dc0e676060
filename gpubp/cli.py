"""The command line: each verb a function whose parameters are its options, and which hands over to the package.

Nothing heavy is imported before a verb runs, so that help comes at once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from gpubp.errors import ArgumentError, GpubpError
from gpubp.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

USAGE_ERROR = 2
DEFAULT = Settings()

OPTION_OF = {
    "learning_rate": "--lr",
    "sizes": "--layers",
    "hidden_activation": "--activation",
    "activation": "--activation",
}
"""The library's arguments that the command line calls by another name than `--` and the argument."""


class Verbs(TyperGroup):
    """The verbs; what a user got wrong becomes one line on stderr and exit code 2."""

    def invoke(self, ctx: typer.Context) -> Any:
        """Run the verb that was asked for."""
        try:
            return super().invoke(ctx)
        except GpubpError as error:
            if os.environ.get("GPUBP_DEBUG"):
                raise
            typer.echo(f"error: {_in_options(error, ctx)}", err=True)
            raise typer.Exit(USAGE_ERROR) from None


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train fully connected networks by backpropagation, every step of the algorithm its own GPU kernel.",
    epilog="GPUBP_DEBUG=1 shows the traceback of an error.",
)


def main() -> None:
    """The program `gpubp`."""
    try:
        app()
    except BrokenPipeError:
        # The reader of a pipe, such as head, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


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


# --- options that several verbs share ---------------------------------------------------------------------------------
Backend = Annotated[
    str,
    typer.Option(help="auto, numpy, cupy or numba.", rich_help_panel="Where it runs"),
]
Device = Annotated[
    str | None,
    typer.Option(help="cpu, gpu or emulator.  [default: the backend's first]", rich_help_panel="Where it runs"),
]
ModelFile = Annotated[Path, typer.Argument(help="A model.safetensors, or the folder of a run.", show_default=False)]


# --- train ------------------------------------------------------------------------------------------------------------
@app.command()
def train(
    ctx: typer.Context,
    # --- data
    data: Annotated[
        str,
        typer.Option(
            help="digits, fashion-mnist, mnist, a folder with IDX files, a .npz with x and y, or a .csv.",
            rich_help_panel="Data",
        ),
    ] = DEFAULT.data,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification or regression.  [default: what the labels look like]", rich_help_panel="Data"
        ),
    ] = DEFAULT.task,
    label: Annotated[
        str | None,
        typer.Option(
            help="The label column of a .csv, by name or number.  [default: label, class, target, y, or the last]",
            rich_help_panel="Data",
        ),
    ] = DEFAULT.label,
    test_fraction: Annotated[
        float,
        typer.Option(help="Share of the data held out for testing, if it has no test part.", rich_help_panel="Data"),
    ] = DEFAULT.test_fraction,
    # --- network
    layers: Annotated[
        str, typer.Option(help="Widths of the hidden layers, or none.", rich_help_panel="Network")
    ] = DEFAULT.layers,
    activation: Annotated[
        str,
        typer.Option(
            help="Of the hidden layers, one for all or one for each: relu, leaky_relu, elu, softplus, sigmoid, tanh, "
            "gelu, gelu_tanh, silu, identity.",
            rich_help_panel="Network",
        ),
    ] = DEFAULT.activation,
    output_activation: Annotated[
        str | None,
        typer.Option(
            help="Of the output layer.  [default: what the loss needs, else identity]", rich_help_panel="Network"
        ),
    ] = DEFAULT.output_activation,
    loss: Annotated[
        str | None,
        typer.Option(
            help="softmax_cross_entropy, binary_cross_entropy, mean_squared_error, squared_error, half_squared_error, "
            "absolute_error or huber.  [default: the first for classes, mean_squared_error for values]",
            rich_help_panel="Network",
        ),
    ] = DEFAULT.loss,
    reduction: Annotated[
        str, typer.Option(help="Of a batch's losses: mean or sum.", rich_help_panel="Network")
    ] = DEFAULT.reduction,
    initializer: Annotated[
        str | None,
        typer.Option(
            help="he_normal, he_uniform, glorot_normal, glorot_uniform, lecun_normal, lecun_uniform, orthogonal, "
            "normal or zeros.  [default: he_normal for rectifiers, glorot_uniform for others]",
            rich_help_panel="Network",
        ),
    ] = DEFAULT.initializer,
    bias: Annotated[
        bool, typer.Option("--bias/--no-bias", help="Whether layers have a bias.", rich_help_panel="Network")
    ] = DEFAULT.bias,
    dtype: Annotated[str, typer.Option(help="float32 or float64.", rich_help_panel="Network")] = DEFAULT.dtype,
    # --- optimiser
    optimizer: Annotated[
        str, typer.Option(help="sgd, momentum, nesterov, rmsprop, adam or adamw.", rich_help_panel="Optimiser")
    ] = DEFAULT.optimizer,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate.  [default: sgd 0.1, momentum and nesterov 0.05, others 0.001]",
            rich_help_panel="Optimiser",
        ),
    ] = DEFAULT.lr,
    momentum: Annotated[
        float | None,
        typer.Option(help="Of momentum and nesterov.  [default: 0.9]", rich_help_panel="Optimiser"),
    ] = DEFAULT.momentum,
    weight_decay: Annotated[
        float | None,
        typer.Option(help="On the weights.  [default: adamw 0.01, others 0]", rich_help_panel="Optimiser"),
    ] = DEFAULT.weight_decay,
    clip_norm: Annotated[
        float | None,
        typer.Option(help="Largest norm of the whole gradient.  [default: no limit]", rich_help_panel="Optimiser"),
    ] = DEFAULT.clip_norm,
    clip_value: Annotated[
        float | None,
        typer.Option(help="Largest magnitude of one gradient.  [default: no limit]", rich_help_panel="Optimiser"),
    ] = DEFAULT.clip_value,
    schedule: Annotated[
        str,
        typer.Option(help="Of the learning rate: constant, step, exponential or cosine.", rich_help_panel="Optimiser"),
    ] = DEFAULT.schedule,
    decay: Annotated[
        float | None,
        typer.Option(
            help="Factor of schedule step (default 0.1), or of exponential an epoch (default 0.95).",
            rich_help_panel="Optimiser",
        ),
    ] = DEFAULT.decay,
    decay_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs between the steps of schedule step.  [default: a third of all]", rich_help_panel="Optimiser"
        ),
    ] = DEFAULT.decay_epochs,
    warmup: Annotated[
        float,
        typer.Option(help="Epochs in which the rate rises to its full value.", rich_help_panel="Optimiser"),
    ] = DEFAULT.warmup,
    # --- training
    epochs: Annotated[
        int,
        typer.Option(help="Passes over the data; with --resume, the new total.", rich_help_panel="Training"),
    ] = DEFAULT.epochs,
    batch_size: Annotated[int, typer.Option(help="Examples a step.", rich_help_panel="Training")] = DEFAULT.batch_size,
    validation: Annotated[
        float | None,
        typer.Option(
            help="Share of the training data set aside for validation.  [default: 0.1 with --patience, else 0]",
            rich_help_panel="Training",
        ),
    ] = DEFAULT.validation,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Stop after this many epochs without a lower validation loss, and take the best epoch's weights.",
            rich_help_panel="Training",
        ),
    ] = DEFAULT.patience,
    seed: Annotated[int, typer.Option(help="Of everything random.", rich_help_panel="Training")] = DEFAULT.seed,
    # --- where
    backend: Backend = DEFAULT.backend,
    device: Device = DEFAULT.device,
    # --- output
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run, a new one.  [default: runs/DATA-TIME]", rich_help_panel="Output"),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Folder of a run to continue, with its own settings.", rich_help_panel="Output"),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings from a file, such as a run's config.toml.", rich_help_panel="Output"),
    ] = None,
) -> None:
    """Train a network; the run's folder gets the model, its history, curves, configuration and checkpoint."""
    from gpubp import runs
    from gpubp.display import display_for
    from gpubp.training import Interrupted

    given = _given(ctx)
    if resume is not None and (out is not None or config is not None):
        other, value = ("--out", out) if out is not None else ("--config", config)
        raise ArgumentError(other, str(value), "left out with --resume, which has the run's own")
    with display_for(_console()) as display:
        try:
            if resume is not None:
                result, folder = runs.resume(resume, given, display)
            else:
                settings = Settings(**{**(Settings.read(config) if config else {}), **given})
                result, folder = runs.start(settings, out, display)
        except Interrupted as stop:
            display.interrupted(stop)
            raise typer.Exit(128 + stop.number) from None
    display.finished(result, folder)
    if result.diverged:
        raise typer.Exit(1)


def _given(ctx: typer.Context) -> dict[str, Any]:
    """The settings that stand on the command line."""
    return {
        name: ctx.params[name]
        for name in Settings.__dataclass_fields__
        if (source := ctx.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }


# --- evaluate, predict ------------------------------------------------------------------------------------------------
@app.command()
def evaluate(
    model: ModelFile,
    data: Annotated[
        str | None,
        typer.Option(help="As for train.  [default: the test part of what the model was trained on]"),
    ] = None,
    label: Annotated[str | None, typer.Option(help="The label column of a .csv.")] = None,
    backend: Backend = "auto",
    device: Device = None,
) -> None:
    """Judge a model on data that it was not trained on."""
    from gpubp import runs
    from gpubp.display import evaluation_table
    from gpubp.model import Model

    loaded = Model.load(model, backend, device)
    name, x, y = runs.load_for(loaded, data, label)
    _console().print(evaluation_table(loaded, name, x, y))


@app.command()
def predict(
    model: ModelFile,
    data: Annotated[str, typer.Option(help="As for train; labels may be missing.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A .csv or .npz file for the predictions.", show_default=False)],
    label: Annotated[str | None, typer.Option(help="A column of a .csv to leave out.")] = None,
    backend: Backend = "auto",
    device: Device = None,
) -> None:
    """Write a model's predictions: classes and probabilities, or values."""
    from gpubp import runs
    from gpubp.data import load_inputs
    from gpubp.model import Model

    loaded = Model.load(model, backend, device)
    x = load_inputs(data, label=label, feature_names=loaded.feature_names)
    runs.write_predictions(loaded, x, out)
    typer.echo(f"{len(x):,} predictions in {out}")


# --- what every verb needs --------------------------------------------------------------------------------------------
def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _in_options(error: GpubpError, ctx: typer.Context) -> str:
    """The error's message, with an argument called by the option that the user gave it by."""
    if not isinstance(error, ArgumentError) or error.argument.startswith("-"):
        return str(error)
    option = OPTION_OF.get(error.argument)
    if option is None and error.argument in Settings.__dataclass_fields__:
        option = "--" + error.argument.replace("_", "-")
    return str(ArgumentError(option or error.argument, error.value, error.expected, error.hint))
