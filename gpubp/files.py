"""Files: only regular ones are read; they are written whole or not at all, and where that cannot work, this is said
before the work for it."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import tomllib
from pathlib import Path
from typing import Any, BinaryIO

from gpubp.errors import ArgumentError, CheckpointError

MOST_TOML = 2**18
"""Bytes of a TOML file: settings and chips have some thousands."""


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, to read its bytes.

    Raises OSError, also for what is no regular file, which could block or never end, and for a path that no file has.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:  # a NUL in the path, or text that has no bytes
        raise OSError(errno.EINVAL, f"the path is not valid: {error}", str(path)) from None
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(
                errno.EINVAL, "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file", str(path)
            )
        return os.fdopen(handle, "rb")
    except OSError:
        os.close(handle)
        raise


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the contents of a regular file of at most this many bytes. Raises OSError as `open_regular` does, and for
    a larger file."""
    with open_regular(path) as file:
        contents = file.read(most + 1)
    if len(contents) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return contents


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML file. Raises OSError as `read_bytes` does, ValueError for what is no TOML."""
    try:
        return tomllib.loads(read_bytes(path, MOST_TOML).decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace a file's contents in one move that survives a kill and a power cut. A link stays, and leads to the new
    contents; what is no file, such as a device, is refused: the move would put a file in its place."""
    target = Path(os.path.realpath(path))
    temporary = ""
    try:
        if target.exists() and not target.is_file():
            raise CheckpointError(f"cannot write {path}: {'a folder' if target.is_dir() else 'not a file'} is there")
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
    _sync_folder(target.parent)


def check_path(argument: str, path: Path, *suffixes: str) -> None:
    """Raise ArgumentError, which names the argument, unless the name ends in one of these suffixes and `write_bytes`
    could write there."""
    if path.suffix.lower() not in suffixes:
        raise ArgumentError(argument, str(path), f"a file name that ends in {' or '.join(suffixes)}")
    if path.exists() and not path.is_file():
        raise ArgumentError(argument, str(path), "a new file, or one to replace")
    if not path.parent.is_dir():
        raise ArgumentError(argument, str(path), "in a folder that exists")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ArgumentError(argument, str(path), f"in a folder that can be written ({error.strerror})") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the new name in the folder durable; where folders cannot be opened (Windows), the system does it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        raise CheckpointError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        os.close(handle)
