"""The cache of compiled code: whole entries, made once, with the permissions of the folder, or kept elsewhere."""

import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

from gpubp.toolchain import cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A cache folder of its own for every test, and no temporary one that an earlier test fell back to."""
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv(cache.SPARE, "")
    yield tmp_path / "cache"
    shutil.rmtree(os.environ.get(cache.SPARE) or tmp_path / "none", ignore_errors=True)


def read(path):
    file = path.with_suffix(".txt")
    return file.read_text() if file.is_file() else None


def obtain(text="made", entry="kind/key"):
    def make():
        cache.store(entry, {".txt": text.encode()})
        return text

    return cache.obtain(entry, read, make)


@pytest.fixture
def unwritable(folder):
    """The cache folder is a file, so that not even root can write to it."""
    folder.write_text("")
    return folder


# --- entries ----------------------------------------------------------------------------------------------------------
def test_an_entry_is_made_once_and_then_found(folder):
    assert obtain("first") == "first"
    assert obtain("second") == "first"
    assert (folder / "kind" / "key.txt").read_text() == "first"
    assert [path.name for path in (folder / "kind").iterdir()] == ["key.txt"]


def test_what_is_damaged_is_made_again(folder):
    obtain("first")
    (folder / "kind" / "key.txt").unlink()
    assert obtain("second") == "second"


def test_a_failure_leaves_nothing_and_keeps_nobody_waiting(folder):
    def fail():
        raise ValueError("does not compile")

    for _ in range(2):
        with pytest.raises(ValueError, match="does not compile"):
            cache.obtain("kind/key", read, fail)
    assert list((folder / "kind").iterdir()) == []
    assert obtain() == "made"


def test_a_file_that_cannot_be_finished_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        obtain()
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def make_slowly(folder, started, results):
    """In a process of its own: take the entry, and note whether it was made here."""
    os.environ["GPUBP_CACHE_DIR"] = folder
    made = []

    def make():
        made.append(True)
        time.sleep(0.2)
        cache.store("kind/key", {".txt": b"made"})
        return "made"

    started.wait()
    results.put((cache.obtain("kind/key", read, make), bool(made)))


def test_processes_that_want_the_same_entry_make_it_once(folder):
    context = multiprocessing.get_context("fork")
    started, results = context.Event(), context.Queue()
    workers = [context.Process(target=make_slowly, args=(str(folder), started, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    started.set()
    found = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert [text for text, _ in found] == ["made"] * 4
    assert sum(made for _, made in found) == 1


def test_threads_that_want_the_same_entry_make_it_once():
    made = []

    def make():
        made.append(True)
        time.sleep(0.1)
        cache.store("kind/key", {".txt": b"made"})
        return "made"

    threads = [threading.Thread(target=cache.obtain, args=("kind/key", read, make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_who_has_died_is_not_waited_for(folder):
    """The lock file of a process that was killed lies there, and nobody holds it."""
    (folder / "kind").mkdir(parents=True)
    (folder / "kind" / "key.lock").write_text("")
    assert obtain() == "made"


def test_patience_ends(folder, monkeypatch):
    monkeypatch.setattr(cache, "PATIENCE", 0.05)
    with cache.turn("kind/key"):
        assert obtain() == "made"


def test_a_fork_that_has_the_lock_keeps_nobody_waiting(folder):
    with cache.turn("kind/key"):
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
    try:
        handle = os.open(folder / "kind" / "key.lock", os.O_RDONLY | os.O_CREAT)
        started = time.monotonic()
        assert obtain() == "made"
        assert time.monotonic() - started < cache.PATIENCE / 2
        os.close(handle)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


# --- where it lies ----------------------------------------------------------------------------------------------------
def test_the_folder_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("GPUBP_CACHE_DIR")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.directory() == tmp_path / "gpubp"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.directory() == tmp_path / ".cache" / "gpubp"


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o2775])
def test_what_is_made_has_the_permissions_of_the_folder(folder, mode):
    folder.mkdir()
    folder.chmod(mode)
    umask = os.umask(0o077)
    try:
        obtain(entry="kind/deeper/key")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((folder / "kind").stat().st_mode) == mode
    assert stat.S_IMODE((folder / "kind" / "deeper").stat().st_mode) == mode
    assert stat.S_IMODE((folder / "kind" / "deeper" / "key.txt").stat().st_mode) == mode & 0o666


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_nobody_else_may_write_what_is_executed(tmp_path, monkeypatch, mode):
    tmp_path.chmod(mode)
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / "mine"))
    obtain()
    assert [path for path in tmp_path.rglob("*") if path.stat().st_mode & stat.S_IWOTH] == []


def test_a_file_system_without_permissions_is_good_enough(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    assert obtain("first") == "first"
    assert obtain("second") == "first"


def test_a_folder_that_may_not_be_read_holds_nothing(monkeypatch):
    obtain("first")
    original = Path.is_file

    def refuse(path):
        if path.name.startswith("key"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert obtain("second") == "second"


def test_a_temporary_folder_of_somebody_else_is_not_used(unwritable, tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    monkeypatch.setenv(cache.SPARE, str(tmp_path / "theirs"))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.warns(cache.CacheWarning):
        obtain()
    assert list((tmp_path / "theirs").iterdir()) == []


# --- where it cannot be written ---------------------------------------------------------------------------------------
def test_without_a_folder_that_can_be_written_one_warning_and_a_temporary_one(unwritable):
    with pytest.warns(cache.CacheWarning, match=rf"not kept: {unwritable} cannot .*Not a directory.*GPUBP_CACHE_DIR"):
        assert obtain("first") == "first"
    spare = Path(os.environ[cache.SPARE])
    assert (spare / "kind" / "key.txt").read_text() == "first"
    assert obtain("second") == "first"
    assert obtain("other", "kind/other") == "other"  # and no second warning, which would be an error here


def test_children_use_the_temporary_folder_and_do_not_warn(unwritable):
    with pytest.warns(cache.CacheWarning):
        obtain()
    code = "from gpubp.toolchain import cache; cache.store('kind/other', {'.txt': b'from a child'})"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert obtain("here", "kind/other") == "from a child"


def store_and_tell(results):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results.put(str(cache.store("kind/key", {".txt": b"made"})))


def test_the_temporary_folder_goes_with_a_process_of_multiprocessing(unwritable):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    worker = context.Process(target=store_and_tell, args=(results,))
    worker.start()
    path = Path(results.get(timeout=60))
    worker.join()
    assert not path.parents[1].exists()


def test_the_temporary_folder_goes_with_the_process(unwritable):
    code = """
import os
from gpubp.toolchain import cache
print(cache.store("kind/key", {".txt": b"made"}))
"""
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "CacheWarning" in result.stderr
    assert not Path(result.stdout.strip()).parents[1].exists()


def test_a_folder_that_can_only_be_read_serves_what_it_has(folder, monkeypatch):
    obtain("first")
    folder.chmod(0o555)
    (folder / "kind").chmod(0o555)
    try:
        assert obtain("second") == "first"
    finally:
        folder.chmod(0o755)


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("GPUBP_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(cache.CacheWarning, match=r"user's cache folder cannot be written \(this user has no home"):
        assert obtain() == "made"


def full_disk(places):
    """Writing below these places fails as on a full disk."""
    original = cache._write

    def write(path, content):
        if any(path.is_relative_to(place) for place in places):
            raise OSError(28, "No space left on device", str(path))
        original(path, content)

    return write


def test_a_full_disk_is_told_and_the_temporary_folder_is_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(cache, "_write", full_disk([tmp_path]))
    with pytest.warns(cache.CacheWarning, match="No space left on device"):
        obtain()
    assert os.environ[cache.SPARE].startswith("/dev/shm/")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_where_nothing_can_be_written_one_error_says_so(folder, monkeypatch):
    monkeypatch.setattr(cache, "_write", full_disk(["/"]))
    with pytest.raises(cache.CacheError, match=rf"neither to {folder} \(No space left.*GPUBP_CACHE_DIR"):
        obtain()
    with pytest.warns(cache.CacheWarning, match=rf"neither to {folder} \(No space left.*GPUBP_CACHE_DIR"):
        cache.keep("kind/key", {".txt": b"can be made again"})
    assert os.environ[cache.SPARE] == ""


def test_a_process_that_starts_others_warns_for_them(unwritable):
    with pytest.warns(cache.CacheWarning):
        cache.ensure_writable()
    assert os.environ[cache.SPARE]
    cache.ensure_writable()


def test_a_folder_that_can_be_written_is_left_as_it_was(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache.ensure_writable()
    assert list(folder.iterdir()) == []
