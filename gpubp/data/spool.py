"""Where readers put what they unpack: into memory, or into a temporary file that is mapped into memory.

The file lies in the system's folder for temporary files, which the variable TMPDIR names, and takes as much room there
as the values would take in memory: a /tmp that is itself in memory gains nothing. It has no name, so that it vanishes
with the process, however that ends.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from typing import Any

import numpy as np

from gpubp.data.rows import Unchanged
from gpubp.data.source import reason
from gpubp.errors import DataError, shown_path
from gpubp.memory import usable_memory

SHARE_OF_MEMORY = 1 / 4
"""What takes more than this share of the memory that a process may use stays outside of it. The rest is for what is
made of it, for the network, and for other programs."""

_CANNOT_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
"""The errors of a file system where no room can be reserved."""


def is_wanted(stream: bool | None, size: int | None) -> bool:
    """Return whether values go to a file.

    stream: what was asked for; None: if they are large for the memory, and there is room for the file.
    size: their bytes; None if that is not known beforehand.
    """
    return size is not None and is_large(size) and size <= _room() if stream is None else stream


def is_large(size: int) -> bool:
    """True if so many bytes take more than `SHARE_OF_MEMORY`."""
    return 0 < SHARE_OF_MEMORY * usable_memory() < size


def _folder() -> str:
    """Return the folder for temporary files: the one that TMPDIR names, even if no file can be made there, where
    `tempfile` would take another, which may be in memory. Raises OSError if there is none."""
    return os.environ.get("TMPDIR") or tempfile.gettempdir()


def _room() -> int:
    """Return how many bytes there is room for in the folder for temporary files."""
    try:
        folder = _folder()
        return shutil.disk_usage(folder).free if os.access(folder, os.W_OK | os.X_OK) else 0
    except OSError:
        return 0


def mapped_files(files: Unchanged, *arrays: np.ndarray | None) -> Unchanged | None:
    """Return what must stay unchanged while arrays are read: `files`, if some are mapped from them; nothing, if they
    are mapped from spools, which nobody else can write to; None if all are in memory."""
    mapped = [array for array in arrays if isinstance(array, np.memmap)]
    if any(array.filename is not None for array in mapped):
        return files
    return Unchanged(()) if mapped else None


class Spool:
    """Values that are appended block by block, and then are one array.

    Use it in a `with` statement; the array outlives it.

    Args:
        name: what is unpacked, for messages.
        in_file: whether the values go to a file, from which they are mapped. Else they are in memory.
        size: their bytes, if known beforehand: a disk without room for them is then an error at once.

    Attributes:
        size: bytes that are there.

    Raises:
        DataError: the file cannot be made, or its disk is full; of every method that writes.
    """

    def __init__(self, name: str, *, in_file: bool, size: int = 0) -> None:
        self._name = name
        self._memory = bytearray()
        self._file: Any = None
        self.size = 0
        if in_file:
            try:
                self._file = tempfile.TemporaryFile(buffering=0, prefix="gpubp-", dir=_folder())  # noqa: SIM115
                _reserve(self._file.fileno(), size)
            except OSError as error:
                self.close()
                raise self._full(error, size) from None

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what is mapped of it stays."""
        if self._file is not None:
            self._file.close()

    def append(self, values: np.ndarray | bytes) -> None:
        """Add values behind those that are there."""
        if len(values):
            data = _bytes_of(values)
            if self._file is None:
                self._memory += data
            else:
                self._write(data, self.size)
            self.size += len(data)

    def replace(self, start: int, values: np.ndarray) -> None:
        """Put values in the place of those from this byte on."""
        data = _bytes_of(values)
        if self._file is None:
            np.frombuffer(self._memory, np.uint8)[start : start + len(data)] = data
        else:
            self._write(data, start)

    def array(self, dtype: Any, shape: tuple[int, ...], order: Any = "C") -> np.ndarray:
        """Return the values; an `np.memmap`, which cannot be written to, if they are in a file."""
        if not self.size:
            return np.empty(shape, dtype, order)
        if self._file is None:
            return np.frombuffer(self._memory, dtype).reshape(shape, order=order)
        return np.memmap(self._file, dtype, "r", 0, shape, order)

    def _write(self, data: memoryview, start: int) -> None:
        try:
            while len(data):
                written = os.pwrite(self._file.fileno(), data, start)
                data, start = data[written:], start + written
        except OSError as error:
            raise self._full(error, start) from None

    def _full(self, error: OSError, size: int) -> DataError:
        """Return the error for a file that cannot be written; size: the bytes that it was to have, or has."""
        try:
            place = shown_path(_folder())
        except OSError:
            place = "the folder for temporary files"
        return DataError(
            f"{self._name}: to stream it, {size / 2**30:,.2f} GiB and more are unpacked into a file in {place}: "
            f"{reason(error)}; the variable TMPDIR names another folder, and with --no-stream the memory takes them"
        )


def _bytes_of(values: np.ndarray | bytes) -> memoryview:
    held = np.ascontiguousarray(values).data if isinstance(values, np.ndarray) else memoryview(values)
    return held.cast("B")


def _reserve(handle: int, size: int) -> None:
    """Reserve room for a file. Raises OSError if there is none."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle, 0, size)
        except OSError as error:
            if error.errno not in _CANNOT_RESERVE:
                raise
