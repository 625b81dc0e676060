"""The folder that keeps compiled code: entries are written whole, made once, and checked by whoever reads them.

An entry has a name that stands for all that its content depends on, such as "cuda/<hash>". It lies in the cache folder
(`directory`). Where that folder cannot be written, this process and its children keep their entries in a temporary
folder instead, and one warning says so.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SPARE = "GPUBP_SPARE_CACHE"
"""The environment variable that tells child processes of the temporary folder in use."""

PATIENCE = 120.0
"""Seconds to wait for another process that makes the same entry, before making it here too."""


class CacheWarning(UserWarning):
    """The cache folder cannot be written, so that what is compiled now is compiled again by the next process."""


class CacheError(OSError):
    """Neither the cache folder nor a temporary one can be written: there is no place for compiled code."""


def directory() -> Path:
    """Return the cache folder: GPUBP_CACHE_DIR, else gpubp/ in the user's cache folder of the platform.

    Raises:
        OSError: the user has no home folder.
    """
    try:
        chosen = os.environ.get("GPUBP_CACHE_DIR")
        if chosen:
            return Path(chosen).expanduser().absolute()
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "gpubp"
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "gpubp"
    except RuntimeError as error:  # what pathlib raises for a user without a home
        raise FileNotFoundError(2, "this user has no home folder", "~") from error


def obtain(entry: str, read: Callable[[Path], T | None], make: Callable[[], T]) -> T:
    """Return what `read` finds at the entry's path, or None of it being right there, what `make` makes and stores.

    Processes that want the same entry at the same time make it once.

    Args:
        entry: name of the entry.
        read: returns the content at a path (to which suffixes may be added), or None if it is absent or damaged.
        make: makes the content, stores it and returns it.
    """
    found = find(entry, read)
    if found is None:
        with turn(entry):
            found = find(entry, read)
            return make() if found is None else found
    return found


def find(entry: str, read: Callable[[Path], T | None]) -> T | None:
    """Return what `read` finds at the entry's path, or None."""
    return next((found for place in _places() if (found := read(place / entry)) is not None), None)


def _places() -> Iterator[Path]:
    """Yield the folders in which entries may lie."""
    with contextlib.suppress(OSError):
        yield directory()
    if os.environ.get(SPARE):
        yield Path(os.environ[SPARE])


# --- writing ----------------------------------------------------------------------------------------------------------
def store(entry: str, contents: Mapping[str, bytes]) -> Path:
    """Write the files of an entry, each as one whole, and return their path without the suffix.

    Args:
        entry: name of the entry.
        contents: content of each file, by suffix.

    Raises:
        CacheError: neither the cache folder nor a temporary one can be written.
    """

    def write(path: Path) -> None:
        for suffix, content in contents.items():
            _write(path.with_name(path.name + suffix), content)

    return build(entry, write)


def build(entry: str, write: Callable[[Path], None]) -> Path:
    """Let `write` make an entry at a path in a folder that can be written, and return the path.

    Raises:
        CacheError: neither the cache folder nor a temporary one can be written.
    """
    reason: OSError
    try:
        return _build_in(directory(), entry, write)
    except OSError as error:
        reason = error
    if os.environ.get(SPARE):
        with contextlib.suppress(OSError):
            return _build_in(Path(os.environ[SPARE]), entry, write)
    for parent in (tempfile.gettempdir, lambda: "/dev/shm"):  # the latter is memory, for where all disks are full
        with contextlib.suppress(OSError):
            return _build_in_spare(Path(parent()), entry, write, reason)
    raise CacheError(
        f"compiled kernels cannot be written: neither to {_name()} ({reason.strerror}) nor to a temporary folder; set "
        "GPUBP_CACHE_DIR to a folder that can be written"
    ) from reason


def _build_in_spare(parent: Path, entry: str, write: Callable[[Path], None], reason: OSError) -> Path:
    """Do what `build` does in a new temporary folder, and use that until this process ends."""
    spare = Path(tempfile.mkdtemp(prefix="gpubp-", dir=parent))
    try:
        path = _build_in(spare, entry, write)
    except BaseException:
        shutil.rmtree(spare, ignore_errors=True)
        raise
    os.environ[SPARE] = str(spare)
    atexit.register(_remove, spare, os.getpid())
    warnings.warn(
        f"compiled kernels are not kept: {_name()} cannot be written ({reason.strerror}); set GPUBP_CACHE_DIR to a "
        "folder that can be",
        CacheWarning,
        stacklevel=2,
    )
    return path


def _remove(spare: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(spare, ignore_errors=True)


def _name() -> str:
    try:
        return str(directory())
    except OSError:
        return "the user's cache folder"


def ensure_writable() -> None:
    """Warn now, and use a temporary folder, if the cache folder cannot be written.

    For a process that is about to start others: each of them would warn by itself.
    """

    def write_and_remove(path: Path) -> None:
        _write(path, b"")
        path.unlink()

    with contextlib.suppress(OSError):
        build(f".probe-{os.getpid()}", write_and_remove)


def _build_in(place: Path, entry: str, write: Callable[[Path], None]) -> Path:
    path = place / entry
    make_folder(path.parent)
    write(path)
    return path


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each with the permissions of the one above, so that a shared cache is shared.

    Below a folder in which everybody may write, such as /tmp, a new one is its user's own as far as the umask says.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        above = path.parent.stat().st_mode
        if not above & stat.S_ISVTX:
            path.chmod(stat.S_IMODE(above))


def share(path: Path, folder: Path) -> None:
    """Give a file, or a folder and all that is in it, the permissions of `folder`, for as far as they apply."""
    allowed = stat.S_IMODE(folder.stat().st_mode)
    for each in (path, *path.rglob("*")):
        each.chmod(allowed if each.is_dir() else allowed & 0o666)


def _write(path: Path, content: bytes) -> None:
    """Write a file so that another process sees all of it or nothing; who may read the folder may read it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem[:16], suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        share(Path(temporary), path.parent)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


# --- taking turns -----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def turn(entry: str) -> Iterator[None]:
    """Wait until no other process or thread makes this entry, and keep others waiting meanwhile.

    The lock saves work and nothing else: entries are whole without it. So where it cannot be had, or after `PATIENCE`
    seconds, work goes on without it.
    """
    lock = _lock(entry)
    try:
        yield
    finally:
        if lock is not None:
            path, handle = lock
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(handle)


def _lock(entry: str) -> tuple[Path, int] | None:
    """Return the path and the handle of the entry's lock file, locked, or None if that cannot be done."""
    for place in _places():
        path = place / f"{entry}.lock"
        try:
            make_folder(path.parent)
            handle = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        except OSError:
            continue
        if _locked(handle):
            return path, handle
        os.close(handle)
        return None
    return None


def _locked(handle: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    pause = 0.001
    while time.monotonic() < deadline:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        except OSError:  # a file system without locks
            return False
        else:
            return True
    return False
