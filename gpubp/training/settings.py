"""The settings of a training run, which are options of the command line. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

from gpubp import files
from gpubp.errors import ArgumentError, CheckpointError, StateError, shown, unknown_name

TYPES = {"str": (str,), "bool": (bool,), "int": (int,), "float": (float, int)}
"""The types that a setting of each type may have in a file."""


TABLES = ("settings", "resolved", "execution", "versions")
"""The tables of a run's config.toml. A run takes the first; the others say what came of it."""


def _setting(panel: str, help: str, default: Any = None) -> Any:
    """Return a field that is an option of the command line too: `panel` and `help` say how its help shows it."""
    return field(default=default, metadata={"panel": panel, "help": help})


_data, _network, _optimiser, _training, _where = (
    partial(_setting, panel) for panel in ("Data", "Network", "Optimiser", "Training", "Where it runs")
)


TABLE = ("header", "delimiter", "encoding", "keep_index", "drop", "decimal", "thousands", "percent")
"""The settings that say how a table is written."""
RULES = ("missing", "categories", "max_categories")
"""The settings that say what a table's columns become."""


@dataclass(frozen=True)
class Settings:
    """The choices of a run. They are the options of `gpubp train`; None takes what fits the others best.

    They are kept in the run's folder, as a TOML file and with each checkpoint.
    """

    data: str = _data(
        "digits, fashion-mnist, mnist, a folder with IDX files, a .npz with x and y, x.npy with y.npy beside it, or a "
        "table: .csv or .tsv, plain or .gz, .parquet, .arrow or .feather, or a folder of such parts.",
        "digits",
    )
    task: str | None = _data("classification, multilabel or regression. Default: what the labels look like.")
    label: str | None = _data(
        "The label column of a table, by name or by position: from 0, or from -1 at the end; several as a,b,c. "
        "Default: label, class, target, y, or the last."
    )
    weight_column: str | None = _data(
        "The column of a table, or the array of a .npz, that says how much each example counts; it is no input. The "
        "weights of x_test are in the array NAME_test."
    )
    header: str = _data("Whether a table's first line names its columns: yes, no, or auto, which judges it.", "auto")
    delimiter: str | None = _data(
        "What stands between a table's cells: comma, semicolon, tab, pipe, space, or a character. Default: guessed."
    )
    encoding: str | None = _data(
        "How a table's text is encoded, such as utf-16 or latin-1. Default: UTF-8, or what its byte order mark says."
    )
    keep_index: bool = _data("Take a table's unnamed first column, an index of the rows, as an input.", False)
    drop: str | None = _data("Columns of a table to leave out: one, or several as a,b,c.")
    decimal: str | None = _data("What stands before decimals in a table: point or comma. Default: point.")
    thousands: str | None = _data(
        "What stands between thousands in a table: comma, point, space, apostrophe or underscore. Default: nothing."
    )
    percent: bool = _data("Let numbers in a table have a percent sign: 12 % is 12.", False)
    missing: str = _data(
        "What stands for a missing value in a table: mean or median of the training part's, or zero, with one more "
        "input that says where; or error.",
        "error",
    )
    categories: str | None = _data(
        "Columns of a table that are categories even if their cells are numbers or dates: one, or several as a,b,c. "
        "Default: those whose cells are text."
    )
    max_categories: int = _data(
        "Categories of a column that have an input of their own, the most frequent; the rest share one.", 32
    )
    test_fraction: float = _data("Share of the data held out for testing, if it has no test part.", 0.2)

    layers: str = _network("Widths of the hidden layers, or none.", "128,64")
    activation: str = _network(
        "Activation of the hidden layers, one for all or one for each: relu, leaky_relu, elu, softplus, sigmoid, tanh, "
        "gelu, gelu_tanh, silu, identity.",
        "relu",
    )
    output_activation: str | None = _network(
        "Activation of the output layer. Default: what the loss needs, else identity."
    )
    loss: str | None = _network(
        "softmax_cross_entropy, binary_cross_entropy, mean_squared_error, squared_error, half_squared_error, "
        "absolute_error, huber, quantile, softmax_focal_cross_entropy or binary_focal_cross_entropy. Default: the "
        "first for classes, the second for several labels an example, mean_squared_error for values."
    )
    label_smoothing: float | None = _network(
        "Share of a label that softmax_cross_entropy spreads over all classes. Default: 0."
    )
    gamma: float | None = _network(
        "Exponent of the focal losses: the larger, the less what is right already counts. Default: 2."
    )
    quantile: float | None = _network("Which quantile the loss quantile is for. Default: 0.5, the median.")
    reduction: str = _network("How a batch's losses are put together: mean or sum.", "mean")
    initializer: str | None = _network(
        "he_normal, he_uniform, glorot_normal, glorot_uniform, lecun_normal, lecun_uniform, orthogonal, normal or "
        "zeros. Default: he_normal for rectifiers, glorot_uniform for others."
    )
    bias: bool = _network("Whether layers have a bias.", True)
    dropout: str | None = _network(
        "Share of the hidden units that each step drops, one for all layers, such as 0.2, or one for each, such as "
        "0.2,0.5. Default: 0."
    )
    dtype: str = _network("float32 or float64.", "float32")
    precision: str | None = _network(
        "bf16, fp16 or tf32: float32 weights, and products on tensor cores. Default: the dtype throughout."
    )

    optimizer: str = _optimiser("sgd, momentum, nesterov, rmsprop, adam or adamw.", "adam")
    lr: float | None = _optimiser("Learning rate. Default: sgd 0.1, momentum and nesterov 0.05, others 0.001.")
    momentum: float | None = _optimiser("Momentum of momentum and nesterov. Default: 0.9.")
    weight_decay: float | None = _optimiser("Decay of the weights. Default: adamw 0.01, others 0.")
    l1: float | None = _optimiser("Penalty on Σ|w| over all weights, biases left out. Default: 0.")
    l2: float | None = _optimiser("Penalty on ½ Σ w² over all weights, biases left out. Default: 0.")
    decoupled: bool | None = _optimiser(
        "Let the penalties shrink the weights by themselves, apart from the gradient. Default: no."
    )
    clip_norm: float | None = _optimiser("Largest norm of the whole gradient. Default: no limit.")
    clip_value: float | None = _optimiser("Largest magnitude of one gradient. Default: no limit.")
    schedule: str = _optimiser("How the learning rate changes: constant, step, exponential or cosine.", "cosine")
    decay: float | None = _optimiser(
        "Factor of schedule step (default 0.1), or of exponential an epoch (default 0.95)."
    )
    decay_epochs: int | None = _optimiser("Epochs between the steps of schedule step. Default: a third of all.")
    warmup: float = _optimiser("Epochs in which the rate rises to its full value.", 0.0)

    epochs: int = _training("Passes over the data; with --resume, the new total.", 30)
    batch_size: int = _training("Examples that pass together.", 32)
    accumulate: int | None = _training("Batches whose gradients are added up before a step. Default: 1.")
    validation: float | None = _training(
        "Share of the training data set aside for validation. Default: 0.1 with --patience, else 0."
    )
    patience: int | None = _training(
        "Stop after this many epochs without a better one on the validation part, and take the best epoch's weights."
    )
    monitor: str | None = _training(
        "What makes an epoch the best on the validation part: its loss, or its accuracy (of equals the lower loss). "
        "Default: loss."
    )
    class_weight: str | None = _training(
        "How much each class counts in the training loss: balanced, a number for each class as 1,2,5, or by name as "
        "cat=2,dog=1."
    )
    seed: int = _training("Of everything random.", 0)

    backend: str = _where("auto, numpy, cpu, cupy or numba.", "auto")
    device: str | None = _where("cpu, gpu, emulator or virtual. Default: the backend's first.")
    stream: bool | None = _where(
        "Leave the inputs in their file, and read them while the network trains: the same results in less memory. "
        "Tables and what is compressed are unpacked into a temporary file first, in the folder TMPDIR, which needs "
        "room for it on a disk. Default: if they are large for the machine or the GPU."
    )

    def hidden_widths(self) -> list[int]:
        """Return `layers` as numbers, none of them for "none". Raises ArgumentError for other text."""
        if self.layers.strip().lower() == "none":
            return []
        try:
            widths = [int(width) for width in self.layers.split(",")]
        except ValueError:
            widths = [0]
        if min(widths) < 1:
            raise ArgumentError("--layers", self.layers, "the widths of the hidden layers, such as 128,64, or none")
        return widths

    def dropout_rates(self) -> float | list[float]:
        """Return `dropout` as one number for all hidden layers or one for each. Raises ArgumentError for other text."""
        if self.dropout is None:
            return 0.0
        try:
            rates = [float(rate) for rate in self.dropout.split(",")]
        except ValueError:
            expected = "one share of a layer's units, such as 0.2, or one for each hidden layer, such as 0.2,0.5"
            raise ArgumentError("--dropout", self.dropout, expected) from None
        if not self.hidden_widths():
            raise ArgumentError("--dropout", self.dropout, "left out without hidden layers")
        return rates[0] if len(rates) == 1 else rates

    def names(self, option: str) -> list[str]:
        """Return the names in an option that takes several, such as `activation`."""
        return [tidy_name(name) for name in getattr(self, option).split(",")]

    def chosen(self) -> dict[str, Any]:
        """Return all settings but those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> Settings:
        """Return the settings that `chosen` gave; `source` is for messages.

        Raises ArgumentError for a setting that does not exist, and for a value of another type.
        """
        kinds = {each.name: str(each.type) for each in fields(cls)}
        for name, value in values.items():
            if name not in kinds:
                raise unknown_name(f"a setting in {source}", name, kinds)
            kind = kinds[name].removesuffix(" | None")
            if type(value) not in TYPES[kind]:
                raise ArgumentError(f"{name} in {source}", value, f"of type {kind}")
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Return the settings in a TOML file: a run's config.toml, or one that has settings and nothing else.

        Raises CheckpointError for a file that cannot be read, ArgumentError as `from_mapping`.
        """
        try:
            found = files.read_toml(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}: {shown(getattr(error, 'strerror', None) or error)}") from error
        if not (found.keys() & TABLES or any(isinstance(value, Mapping) for value in found.values())):
            return asdict(cls.from_mapping(found, str(path)))
        for name, value in found.items():
            if name in _SETTING_NAMES and not isinstance(value, Mapping):
                raise StateError(f"{name} in {path}", "stands outside of [settings]", "stand below [settings]")
            if name not in TABLES:
                raise unknown_name(f"a table in {path}", name, TABLES)
            if not isinstance(value, Mapping):
                raise ArgumentError(f"{name} in {path}", value, "a table")
        return asdict(cls.from_mapping(found.get("settings", {}), str(path)))


_SETTING_NAMES = frozenset(each.name for each in fields(Settings))


def tidy_name(name: str) -> str:
    """Return a name as the library writes it: leaky_relu for `Leaky-ReLU`."""
    return name.strip().lower().replace("-", "_")
