"""What a user can choose for a training run, in the command line's words. Imports nothing heavy."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from gpubp.errors import ArgumentError, CheckpointError, unknown_name

TYPES = {"str": (str,), "bool": (bool,), "int": (int,), "float": (float, int)}
"""What a setting of each type may be in a file."""


@dataclass(frozen=True)
class Settings:
    """The choices of a run, by the names of `gpubp train`'s options; None is what fits the others best.

    They are kept in the run's folder, as a TOML file and with each checkpoint.
    """

    # data
    data: str = "digits"
    task: str | None = None
    label: str | None = None
    test_fraction: float = 0.2
    # network
    layers: str = "128,64"
    activation: str = "relu"
    output_activation: str | None = None
    loss: str | None = None
    reduction: str = "mean"
    initializer: str | None = None
    bias: bool = True
    dtype: str = "float32"
    precision: str | None = None
    # optimiser
    optimizer: str = "adam"
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    clip_value: float | None = None
    schedule: str = "cosine"
    decay: float | None = None
    decay_epochs: int | None = None
    warmup: float = 0.0
    # training
    epochs: int = 30
    batch_size: int = 32
    validation: float | None = None
    patience: int | None = None
    seed: int = 0
    # where it runs
    backend: str = "auto"
    device: str | None = None

    def hidden_widths(self) -> list[int]:
        """`layers` as numbers; "none" is a network without a hidden layer."""
        if self.layers.strip().lower() == "none":
            return []
        try:
            return [int(width) for width in self.layers.split(",")]
        except ValueError:
            expected = "the widths of the hidden layers, such as 128,64, or none"
            raise ArgumentError("--layers", self.layers, expected) from None

    def names(self, option: str) -> list[str]:
        """The names in one of the options that take several, such as `activation`."""
        return [tidy_name(name) for name in getattr(self, option).split(",")]

    def chosen(self) -> dict[str, Any]:
        """All settings but those that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> Settings:
        """The settings that `chosen` gave; `source` is for messages."""
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
        """The settings in a TOML file, such as a run's config.toml."""
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        values = found.get("settings", found)
        if not isinstance(values, Mapping):
            raise ArgumentError(f"settings in {path}", values, "a table")
        return asdict(cls.from_mapping(values, str(path)))


def tidy_name(name: str) -> str:
    """A name as the library writes it: `Leaky-ReLU` is leaky_relu."""
    return name.strip().lower().replace("-", "_")
