"""Files: what is read, what is written, and what is said beforehand."""

import errno
import os
from pathlib import Path

import pytest

from gpubp import files
from gpubp.errors import ArgumentError


def test_a_regular_file_is_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"contents")
    (tmp_path / "link").symlink_to("file")
    with files.open_regular(tmp_path / "link") as file:
        assert file.read() == b"contents"
    assert files.read_bytes(tmp_path / "link", most=8) == b"contents"


def test_what_would_block_or_never_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(OSError, match="it is not a regular file"):
            files.open_regular(path)
    with pytest.raises(OSError, match="it is a folder"):
        files.open_regular(tmp_path)


@pytest.mark.parametrize("path", ["a\0b", "n" * 256, "missing", "\ud800"])
def test_a_path_of_no_file_is_an_error_of_the_system(path: str, tmp_path: Path) -> None:
    with pytest.raises(OSError):
        files.open_regular(tmp_path / path)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(9))
    with pytest.raises(OSError, match="it is larger than 8 bytes"):
        files.read_bytes(tmp_path / "file", most=8)


def test_nothing_at_a_path_is_another_thing_than_what_may_not_be_looked_at(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "dangling").symlink_to("nothing")
    for name in ("missing", "file/below", "dangling", "n" * 256, "a\0b", "\ud800"):
        assert files.is_missing(tmp_path / name)
    assert not files.is_missing(tmp_path / "file")
    assert not files.is_missing(tmp_path)

    def forbidden(path: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "stat", forbidden)
    assert not files.is_missing(tmp_path / "file")


# --- writing ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_whatever_stops_a_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch, error: type, step: str
) -> None:
    def stop(*_: object) -> None:
        raise error

    (tmp_path / "file").write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, stop)
        with pytest.raises(error):
            files.write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_path_can_be_written_through_a_link_if_its_target_can(tmp_path: Path) -> None:
    (tmp_path / "link.md").symlink_to("/proc/x.md")
    with pytest.raises(ArgumentError, match="in a folder that can be written"):
        files.check_path("out", tmp_path / "link.md", ".md", replace=False)


def test_a_folder_is_looked_at_up_to_where_it_begins(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("", "new", "new/and/more"):
        files.check_folder("out", tmp_path / name)
    for path, message in (
        (tmp_path / "file", "out was .*file'; it must be a folder, and .*file is none"),
        (tmp_path / "file" / "new", "a folder, and .*file is none"),
        (Path("/proc/new/more"), "in a folder that can be written"),
        (tmp_path / ("n" * 256), "File name too long"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(ArgumentError, match=message):
            files.check_folder("out", path)
    assert os.listdir(tmp_path) == ["file"]


def test_a_toml_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.toml").write_bytes(mark + b"[a]\nb = 1\n")
        assert files.read_toml(tmp_path / "a.toml") == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"a = " + b"[" * 20000, "it is nested too deeply"),
        (b"a = " + b"{a=" * 20000, "it is nested too deeply"),
        (b"a = " + b"9" * 5000, "4300 digits"),
        (b"\xff\xfea\0", "it is not UTF-8"),
        (b"a = \x1b", "line 1"),
    ],
)
def test_what_is_no_toml_is_a_value_error(contents: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        files.read_toml(tmp_path / "a.toml")


def test_a_toml_file_has_an_end(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"#" * (files.MOST_TOML + 1))
    with pytest.raises(OSError, match="larger than"):
        files.read_toml(tmp_path / "a.toml")
