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


def is_missing(path: str | Path) -> bool:
    """True if there is nothing at a path; False also if it may not be looked at, which reading it then says."""
    try:
        os.stat(path)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
    except ValueError:  # a NUL in the path, or text that has no bytes
        return True
    return False


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
    except BaseException as error:  # a second Ctrl-C, too, leaves nothing half-written
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
    _sync_folder(target.parent)


def check_path(argument: str, path: Path, *suffixes: str, replace: bool) -> None:
    """Raise ArgumentError, which names the argument, unless the name ends in one of these suffixes and `write_bytes`
    could write there; unless `replace`, also if there is a file already."""
    if path.suffix.lower() not in suffixes:
        raise ArgumentError(argument, str(path), f"a file name that ends in {' or '.join(suffixes)}")
    try:
        there = _is_there(path)
        if there and not path.is_file():
            raise ArgumentError(argument, str(path), "a new file, or one to replace")
        if there and not replace:
            raise ArgumentError(argument, str(path), "a new file", "--force replaces this one")
        if not path.parent.is_dir():
            raise ArgumentError(argument, str(path), "in a folder that exists")
        tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent).close()
    except ArgumentError:
        raise
    except (OSError, ValueError) as error:
        raise _unwritable(argument, path, error) from None


def check_folder(argument: str, path: Path) -> None:
    """Raise ArgumentError, which names the argument, unless a folder is there or can be made there, and files in it."""
    place = path.absolute()
    try:
        while not _is_there(place):
            place = place.parent
        if not place.is_dir():
            raise ArgumentError(argument, str(path), f"a folder, and {place} is none")
        tempfile.TemporaryFile(dir=place).close()
    except ArgumentError:
        raise
    except (OSError, ValueError) as error:
        raise _unwritable(argument, path, error) from None


def _unwritable(argument: str, path: Path, error: OSError | ValueError) -> ArgumentError:
    why = getattr(error, "strerror", None) or error
    return ArgumentError(argument, str(path), f"in a folder that can be written ({why})")


def _is_there(path: Path) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


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
