"""The folder that keeps compiled code: entries are written whole, made once, and checked by whoever reads them.

An entry has a name that stands for all that its content depends on, such as "cuda/<hash>". It lies in the cache folder
(`directory`). Where that folder cannot be written, this process and its children keep their entries in a temporary
folder instead, and one warning says so.
"""

from __future__ import annotations

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

from gpubp.errors import CacheError, CacheWarning

T = TypeVar("T")

SPARE = "GPUBP_SPARE_CACHE"
"""The environment variable that tells child processes of the temporary folder in use."""

PATIENCE = 30.0
"""Seconds to wait for another process that makes the same entry, before making it here too."""


PROBE_BYTES = 1 << 16
"""Bytes that must fit into a cache folder for it to count as one that can be written."""


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
    """Return the entry that `read` finds. If there is none, make and store it.

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
    """Return what `read` finds at the entry's path, or None. A folder that may not be read holds nothing."""
    for place in _places():
        with contextlib.suppress(OSError):
            found = read(place / entry)
            if found is not None:
                return found
    return None


def _places() -> Iterator[Path]:
    """Yield the folders in which entries may lie."""
    with contextlib.suppress(OSError):  # nobody's home, or one that cannot be named: the spare folder is left
        yield directory()
    spare = _spare()
    if spare is not None:
        yield spare


def _spare() -> Path | None:
    """Return the temporary folder in use, if there is one and if it is this user's."""
    path = Path(os.environ.get(SPARE) or "/nowhere")
    try:
        return path if path.is_dir() and path.stat().st_uid == os.geteuid() else None
    except OSError:
        return None


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


def keep(entry: str, contents: Mapping[str, bytes]) -> None:
    """Do what `store` does, for an entry that can be done without: warn, once, if there is no place for it."""
    try:
        store(entry, contents)
    except CacheError as error:
        warnings.warn(str(error), CacheWarning, stacklevel=2)


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
    spare = _spare()
    if spare is not None:
        with contextlib.suppress(OSError):  # full or gone: the next place is tried
            return _build_in(spare, entry, write)
    for parent in (tempfile.gettempdir, lambda: "/dev/shm"):  # the latter is memory, for where all disks are full
        with contextlib.suppress(OSError):  # the next place is tried; after the last one CacheError tells
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
    from multiprocessing.util import Finalize

    # Unlike atexit's functions, it is also called at the end of a process that multiprocessing started.
    Finalize(None, _remove, (spare, os.getpid()), exitpriority=0)
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

    For a process that is about to start others: each of them would warn by itself. Raises CacheError as `build` does.
    """

    def write_and_remove(path: Path) -> None:
        _write(path, bytes(PROBE_BYTES))
        path.unlink()

    build(f".probe-{os.getpid()}", write_and_remove)


def _build_in(place: Path, entry: str, write: Callable[[Path], None]) -> Path:
    path = place / entry
    make_folder(path.parent)
    write(path)
    return path


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each with the permissions of the one above, so that a shared cache is shared.

    What lies in the cache is executed, so nobody but owner and group gets the right to write to it. Below a folder like
    /tmp, which many use without sharing (its sticky bit says so), a new one has the permissions of the umask.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
        if not path.parent.stat().st_mode & stat.S_ISVTX:
            share(path, path.parent)


def share(path: Path, folder: Path) -> None:
    """Give a file, or a folder and all that is in it, the permissions of `folder`, without everybody's to write.

    A file system that has no permissions is left as it is.
    """
    allowed = stat.S_IMODE(folder.stat().st_mode) & ~stat.S_IWOTH
    for each in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
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
        with contextlib.suppress(OSError):  # it may not be there; what went wrong is raised below
            os.unlink(temporary)
        raise


# --- taking turns -----------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def turn(entry: str) -> Iterator[None]:
    """Wait until no other process or thread makes this entry, and keep others waiting meanwhile.

    The lock saves work and nothing else: entries are whole without it. So where it cannot be had, or after `PATIENCE`
    seconds, work goes on without it.
    """
    path, handle = _open_lock(entry)
    locked = False
    try:
        locked = handle is not None and _lock(handle)
        yield
    finally:
        if handle is not None:
            with contextlib.suppress(OSError):  # somebody has emptied the cache
                if locked:
                    path.unlink()
                fcntl.flock(handle, fcntl.LOCK_UN)  # closing is not enough where a fork has the handle too
            os.close(handle)


def _open_lock(entry: str) -> tuple[Path, int | None]:
    """Return path and handle of the entry's lock file, in the first folder that can be written; None: there is none."""
    for place in _places():
        path = place / f"{entry}.lock"
        with contextlib.suppress(OSError):  # it cannot be written: the next place is tried
            make_folder(path.parent)
            return path, os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
    return Path(), None


def _lock(handle: int) -> bool:
    """Wait for the lock, for as long as `PATIENCE`, and return whether it was had."""
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
