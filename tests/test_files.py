"""Reading files: regular ones alone, and no more of them than was asked for."""

import os
from pathlib import Path

import pytest

from gpubp import files


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
