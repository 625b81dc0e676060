"""NumPy archives (.npz), the bundled digits, which are one, and NumPy files (.npy) that lie side by side.

Large arrays that are not compressed stay in their file: they are mapped into memory.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from gpubp.data.idx import DIGIT_CLASSES, MOST_AXES
from gpubp.data.rows import Unchanged
from gpubp.data.source import Labels, Source, reason, require_room
from gpubp.data.spool import Spool, is_wanted, mapped_files
from gpubp.errors import DataError, listed, shown, shown_path
from gpubp.files import open_regular

INPUTS = ("x", "images", "data", "features", "inputs")
LABELS = ("y", "labels", "label", "target", "targets")
"""What inputs and labels are called in an archive: the first name that is there, in any case (X), is taken."""

LEAST_MAPPED = 2**26
"""Bytes from which on an array is mapped: a smaller one is read, and its file may then change."""
MAPPED_AT_ONCE = 2**24
"""Bytes of a mapped array whose checksum is computed at once."""

_PART = re.compile(r"^train_|_train$", re.IGNORECASE)


def read_digits() -> Source:
    """Read the bundled handwritten digits, 8×8, values 0 to 16."""
    with resources.as_file(resources.files("gpubp.data.digits") / "digits.npz") as path:
        found = read_npz(path)
    return Source("digits", found.x, found.y, found.x_test, found.y_test, class_names=DIGIT_CLASSES, value_range=16)


def read_npz(
    path: Path, weight: str | None = None, *, weight_is_optional: bool = False, stream: bool | None = False
) -> Source:
    """Read an archive with x and y (or x_train, train_images, ...), and perhaps x_test and y_test; y may be missing.

    Args:
        path: the file.
        weight: the array with the weights of the training part's examples, such as w or w_train. If there is a test
            part, its weights are w_test.
        weight_is_optional: that array may be missing.
        stream: put inputs that are compressed into a file in place of the memory, as `spool.is_wanted` takes it.

    Nothing but these arrays is read, and none whose member is not as large as its header announces: a few megabytes of
    an archive can unpack to any size.

    Raises DataError for a file that cannot be read or is damaged, for Python objects, and for other arrays.
    """
    name = shown_path(path)
    try:
        file = open_regular(path)
    except OSError as error:
        raise DataError(f"{name}: it cannot be read: {reason(error)}") from None
    with file:
        try:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{name}: it is not a whole .npz archive (numpy.savez makes them)")
            with zipfile.ZipFile(file) as archive:
                arrays = {
                    info.filename.removesuffix(".npy"): _Member(path, archive, info) for info in archive.infolist()
                }
                return _read_arrays(name, arrays, weight, weight_is_optional=weight_is_optional, stream=stream)
        except DataError:
            raise
        except Exception as error:  # zipfile's, zlib's, tokenize's, ...: damage surfaces wherever the parsers meet it
            raise DataError(f"{name}: the archive is damaged: {shown(reason(error))}") from None


def npy_files(spec: str | os.PathLike[str]) -> dict[str, Path]:
    """Return the .npy files of a folder by the names of their arrays; {} if none of them is called as inputs are."""
    try:
        names = [name for name in os.listdir(spec) if name.endswith(".npy")]
    except OSError:
        return {}
    found = {name.removesuffix(".npy"): Path(spec, name) for name in sorted(names)}
    return {} if _member(found, INPUTS, "train") is None else found


def read_npy(path: Path, weight: str | None = None, *, weight_is_optional: bool = False) -> Source:
    """Read x.npy and y.npy, and what else may be in an archive, from a folder; arguments and errors as for `read_npz`.

    path: the folder, or the file of inputs in it: x.npy, or images_train.npy.
    """
    name = shown_path(path)
    is_folder = os.path.isdir(path)
    files = npy_files(path if is_folder else path.parent)
    bases: tuple[str, ...] = INPUTS
    if not is_folder:
        bases = (_PART.sub("", path.stem.lower()),)
        if path.stem not in files or bases[0] not in INPUTS or _member(files, bases, "train") != path.stem:
            raise DataError(
                f"{name}: of files with one array, this must be the one with the inputs, called x.npy; its "
                "labels are in y.npy beside it"
            )
    arrays = {each: _File(file) for each, file in files.items()}
    try:
        return _read_arrays(name, arrays, weight, weight_is_optional=weight_is_optional, inputs=bases)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{name}: it cannot be read: {reason(error)}") from None
    except Exception as error:
        raise DataError(f"{name}: it is damaged: {shown(reason(error))}") from None


class _Member:
    """An array in an archive."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        self.path, self.archive, self.info, self.size = path, archive, info, info.file_size

    def open(self) -> IO[bytes]:
        """Open the member as a .npy file."""
        return self.archive.open(self.info)

    @property
    def start(self) -> int | None:
        """The place of the .npy file in the archive; None if it is compressed."""
        if self.info.compress_type != zipfile.ZIP_STORED:
            return None
        with open_regular(self.path) as file:
            file.seek(self.info.header_offset)
            header = file.read(30)  # the lengths of the name and of the extra field are its last
        return self.info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))

    def check(self, contents: np.ndarray) -> None:
        """Raise DataError unless the bytes of the .npy file are those that the archive has the checksum of."""
        checksum = 0
        for start in range(0, len(contents), MAPPED_AT_ONCE):
            checksum = zlib.crc32(contents[start : start + MAPPED_AT_ONCE].data, checksum)
        if checksum != self.info.CRC:
            raise DataError(
                f"{shown_path(self.path)}: the archive is damaged: Bad CRC-32 of {shown(self.info.filename)}"
            )


class _File:
    """An array in a file of its own."""

    start = 0

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        return os.path.getsize(self.path)

    def open(self) -> IO[bytes]:
        """Open the file."""
        return open_regular(self.path)

    def check(self, contents: np.ndarray) -> None:
        """Do nothing: a .npy file has no checksum."""


def _read_arrays(
    name: str,
    members: Mapping[str, _Member | _File],
    weight: str | None,
    *,
    weight_is_optional: bool,
    stream: bool | None = False,
    inputs: Sequence[str] = INPUTS,
) -> Source:
    """Return the arrays of a data set by their usual names; `inputs`: those of the inputs."""
    x_name, x_test_name = (_member(members, inputs, part) for part in ("train", "test"))
    y_name, y_test_name = (_member(members, LABELS, part) for part in ("train", "test"))
    if x_name is None:
        raise DataError(f"{name}: it holds {listed(members) or 'nothing'}; it must hold x and y")
    if y_name is not None and (x_test_name is None) != (y_test_name is None):
        raise DataError(f"{name}: x_test and y_test must come together")
    w_name, w_test_name = (None, None) if weight is None else _weights(name, members, weight, x_test_name)
    notes = []
    if weight is not None and w_name is None:
        if not weight_is_optional:
            raise DataError(f"{name}: there is no array '{shown(weight)}' with weights; it holds {listed(members)}")
        notes.append(f"no weights: the array '{shown(weight, 40)}' of the training is not there")

    def read(member: str | None, kinds: str, must: str, *, mapped: bool = False) -> Any:
        if member is None:
            return None
        what = f"{name}: {shown(member)}"
        return _read_array(what, members[member], kinds, must, mapped=mapped, stream=mapped and stream)

    before = Unchanged({each.path for each in members.values()})
    x, x_test = (read(each, "uifb", "it must hold real numbers", mapped=True) for each in (x_name, x_test_name))
    y, y_test = (read(each, "uifbUS", "class labels must be whole numbers or text") for each in (y_name, y_test_name))
    w, w_test = (read(each, "uifb", "weights must be real numbers") for each in (w_name, w_test_name))
    others = {x_name: "x", y_name: "y"}
    unusual = [
        f"{role} is {shown(each, 30)}" for each, role in others.items() if each and each.lower().split("_")[0] != role
    ]
    return Source(
        name,
        x,
        None if y is None else Labels(y, y_name or "y"),
        x_test,
        None if y_test is None else Labels(y_test, y_test_name or "y_test"),
        None if w_name is None else Labels(w, f"the weights '{shown(w_name, 40)}'"),
        None if w_test_name is None else Labels(w_test, f"the weights '{shown(w_test_name, 40)}'"),
        # Rows of 8-bit numbers may be a table; three axes and more are images.
        value_range=255 if x.dtype == np.uint8 and x.ndim > 2 else None,
        weight_column=weight if w_name is not None else None,
        notes=(*([", ".join(unusual)] if unusual else []), *notes),
        files=mapped_files(before, x, x_test),
    )


def _member(members: Mapping[str, Any], bases: Iterable[str], part: str) -> str | None:
    """Return the array of a part by its usual names: x, x_train, train_x or X_train; None if it is not there."""
    for base in bases:
        for wanted in ([base] if part == "train" else []) + [f"{base}_{part}", f"{part}_{base}"]:
            if wanted in members:
                return wanted
            for each in members:
                if each.lower() == wanted.lower():
                    return each
    return None


def _weights(
    name: str, members: Mapping[str, Any], weight: str, x_test_name: str | None
) -> tuple[str | None, str | None]:
    """Return the array with the weights of the training part, None if it is not there, and that of the test part.

    Raises DataError if the test part alone has no weights.
    """
    base = _PART.sub("", weight)
    found = weight if weight in members else _member(members, [base], "train")
    if found is None or x_test_name is None:
        return found, None
    of_test = _member(members, [base], "test")
    if of_test is None:
        raise DataError(
            f"{name}: the examples of {shown(x_test_name)} have no weights; beside '{shown(found)}' it must hold "
            f"'{shown(base)}_test'"
        )
    return found, of_test


def _read_array(
    what: str, member: _Member | _File, kinds: str, must: str, *, mapped: bool, stream: bool | None
) -> np.ndarray:
    """Return an array whose dtype is one of these kinds; everything that its header says is checked beforehand.

    Args:
        what: to call it in messages.
        mapped: map it if it is large and not compressed.
        stream: if it is compressed, unpack it into a file and map that, as `spool.is_wanted` takes it.
    """
    with member.open() as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{what} holds a table of several types; {must}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        begin = file.tell()
    kept = "archive" if isinstance(member, _Member) else "file"
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects; it must hold arrays of numbers or text")
    if dtype.kind not in kinds:
        raise DataError(f"{what} holds {shown(dtype)}; {must}")
    if any(side < 0 for side in shape) or len(shape) > MOST_AXES:
        raise DataError(f"{what}: the {kept} is damaged: its shape is {shown(shape)}")
    if not shape:
        raise DataError(f"{what} is a single value; it must have one row an example")
    if math.prod(max(side, 1) for side in shape) * max(dtype.itemsize, 1) >= 2**62:
        raise DataError(f"{what}: the {kept} is damaged: no array can have the shape {shown(shape)}")
    size, held = math.prod(shape) * dtype.itemsize, member.size - begin
    if size != held:
        raise DataError(f"{what}: the {kept} is damaged: its header announces {size:,} bytes and it has {held:,}")
    start = member.start
    if mapped and size >= LEAST_MAPPED and start is not None:
        member.check(np.memmap(member.path, np.uint8, "r", start, (member.size,)))
        return np.memmap(member.path, dtype, "r", start + begin, shape, "F" if is_fortran else "C")
    if start is None and is_wanted(stream, size):
        with member.open() as file, Spool(what, in_file=True, size=size) as spool:
            file.read(begin)
            while block := file.read(MAPPED_AT_ONCE):  # at its end, the archive compares the checksum
                spool.append(block)
            if spool.size != size:
                raise DataError(f"{what}: the {kept} is damaged: it has {spool.size:,} bytes of {size:,}")
            return spool.array(dtype, shape, "F" if is_fortran else "C")
    require_room(what, size)
    with member.open() as file:
        return npy.read_array(file, allow_pickle=False)
