"""Files of results in JSON, which a later run or another machine reads: format, version, and the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gpubp import files
from gpubp.errors import DataError, shown

T = TypeVar("T")
MOST_BYTES = 2**25
"""Bytes of a file of results; the largest have about a million."""


@dataclass(frozen=True)
class ResultFormat:
    """What a file of results says of itself, under "format" and "version".

    Attributes:
        name: the command that writes it, such as "gpubp bench".
    """

    name: str
    version: int

    @property
    def header(self) -> dict[str, Any]:
        """Return the entries by which `values` knows the format."""
        return {"format": self.name, "version": self.version}

    def read(self, path: str | Path, from_json: Callable[[str], T]) -> T:
        """Return what `from_json` makes of a file's text.

        Raises:
            DataError: the file cannot be read, or `from_json` refuses it; names the file.
        """
        try:
            text = files.read_bytes(path, MOST_BYTES).decode()
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        except UnicodeDecodeError:
            raise DataError(f"{path} is no result of {self.name}: it is no text") from None
        try:
            return from_json(text)
        except DataError as error:
            raise DataError(f"{path} {error}") from None

    def values(self, text: str) -> dict[str, Any]:
        """Return the values in a text.

        Raises:
            DataError: it is no JSON, of another format, or of another version.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"is no result of {self.name}: it is no JSON ({shown(error)})") from None
        if not isinstance(values, dict) or values.get("format") != self.name:
            raise DataError(f'is no result of {self.name}: it does not say "format": "{self.name}"')
        if values.get("version") != self.version:
            version = shown(values.get("version"))
            raise DataError(f"is a result of another version of {self.name}: {version}, not {self.version}")
        return values
