"""What a program is run with, in words that pass from process to process."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

VARIABLE = "GPUBP_EMULATOR"
"""The environment variable by which the program and its children get the options."""


@dataclass(frozen=True)
class Options:
    """How the device is watched in all processes of a program.

    Attributes:
        arch: the chip, such as "sm_80"; "" for the default.
        races, uninitialised, traffic, order, async_order, suppressions: as for `emulator.observe`.
        folder: where each process leaves what it has found.
    """

    arch: str = ""
    races: bool = False
    uninitialised: bool = False
    traffic: bool = False
    order: int | None = None
    async_order: str = "late"
    suppressions: str | None = None
    folder: str = ""

    @property
    def observes(self) -> bool:
        """Return True if an observer is needed."""
        return self.races or self.uninitialised or self.traffic or self.order is not None or self.async_order != "late"

    def environment(self, home: str) -> dict[str, str]:
        """Return the variables for the program's process; `home` is the folder of the sitecustomize."""
        path = os.environ.get("PYTHONPATH")
        return {
            VARIABLE: json.dumps(asdict(self)),
            "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home,
        }

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Options:
        """Return the options that this process was given."""
        return cls(**json.loads(environment[VARIABLE]))
