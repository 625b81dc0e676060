"""Model files: safetensors with the configuration as JSON in the metadata. Reading one runs no code from it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from gpubp.errors import CheckpointError, shown
from gpubp.files import open_regular, write_bytes

KEY = "gpubp"
"""The name of the metadata entry that holds the JSON."""
CHECKSUM = "crc32"
"""The name, in the JSON, of the checksum of all else in it and of all tensors: safetensors has none. It is not in an
entry of its own, because safetensors writes several entries in any order, and equal runs make equal files."""


def write(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Write a file whole or not at all: whenever the process dies, the old file or the new one is there.

    Raises CheckpointError if the folder cannot be written.
    """
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    text = _as_json({**metadata, CHECKSUM: _checksum(metadata, arrays)})
    write_bytes(path, serialize(arrays, {KEY: text}))


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the tensors and the metadata of a file that `write` made.

    Raises CheckpointError for a file that is missing, damaged or something else.
    """
    path = Path(path)
    try:
        open_regular(path).close()
        with safe_open(path, framework="numpy") as file:
            entries = file.metadata() or {}
            if KEY not in entries:
                raise CheckpointError(f"{path} is not a file that gpubp wrote")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = json.loads(entries[KEY])
        if not isinstance(metadata, dict):
            raise CheckpointError(f"{path} is not a file that gpubp wrote: its metadata is no table")
        if metadata.pop(CHECKSUM, None) != _checksum(metadata, tensors):
            raise CheckpointError(f"{path} is damaged: its checksum does not fit its contents")
        return tensors, metadata
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(f"there is no model file {path}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        # the last three: a dtype that NumPy lacks, such as bfloat16, and JSON that is nested without end
        raise CheckpointError(f"{path} is damaged, or not a safetensors file ({shown(error)})") from error


def _as_json(metadata: Mapping[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):  # a setting from a NumPy array, such as slope=np.float32(0.1)
            return value.item()
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")

    return json.dumps(metadata, default=plain)


def _checksum(metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    value = zlib.crc32(_as_json(metadata).encode())
    for name in sorted(tensors):
        value = zlib.crc32(name.encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(np.uint8).data, value)
    return f"{value:08x}"
