"""Writing files: whole or not at all, and where that cannot work, saying so before the work for it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from gpubp.errors import ArgumentError, CheckpointError


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
