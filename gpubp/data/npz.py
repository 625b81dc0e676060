"""NumPy archives (.npz), and the bundled digits, which are one."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from gpubp.data.idx import DIGIT_CLASSES, MOST_AXES
from gpubp.data.source import Labels, Source, reason, require_room
from gpubp.errors import DataError, listed, shown, shown_path
from gpubp.files import open_regular

INPUTS = ("x", "images", "data", "features", "inputs")
LABELS = ("y", "labels", "label", "target", "targets")
"""What inputs and labels are called in an archive: the first name that is there, in any case (X), is taken."""


def read_digits() -> Source:
    """Read the bundled handwritten digits, 8×8, values 0 to 16."""
    with resources.as_file(resources.files("gpubp.data.digits") / "digits.npz") as path:
        found = read_npz(path)
    return Source("digits", found.x, found.y, found.x_test, found.y_test, class_names=DIGIT_CLASSES, value_range=16)


def read_npz(path: Path) -> Source:
    """Read an archive with x and y (or x_train, train_images, ...), and perhaps x_test and y_test; y may be missing.

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
                return _read_members(name, archive)
        except DataError:
            raise
        except Exception as error:  # zipfile's, zlib's, tokenize's, ...: damage surfaces wherever the parsers meet it
            raise DataError(f"{name}: the archive is damaged: {shown(reason(error))}") from None


def _read_members(name: str, archive: zipfile.ZipFile) -> Source:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    x_name, x_test_name = (_member(members, INPUTS, part) for part in ("train", "test"))
    y_name, y_test_name = (_member(members, LABELS, part) for part in ("train", "test"))
    if x_name is None:
        raise DataError(f"{name}: it holds {listed(members) or 'nothing'}; it must hold x and y")
    if y_name is not None and (x_test_name is None) != (y_test_name is None):
        raise DataError(f"{name}: x_test and y_test must come together")

    def read(member: str | None, kinds: str, must: str) -> Any:
        return None if member is None else _read_array(name, archive, member, members[member], kinds, must)

    x, x_test = (read(each, "uifb", "it must hold real numbers") for each in (x_name, x_test_name))
    y, y_test = (read(each, "uifbUS", "class labels must be whole numbers or text") for each in (y_name, y_test_name))
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
        # Rows of 8-bit numbers may be a table; three axes and more are images.
        value_range=255 if x.dtype == np.uint8 and x.ndim > 2 else None,
        notes=(", ".join(unusual),) if unusual else (),
    )


def _member(members: Mapping[str, Any], bases: Iterable[str], part: str) -> str | None:
    """Return the array of a part by its usual names: x, x_train, train_x or X_train; None if it is not there."""
    for base in bases:
        for wanted in ([base] if part == "train" else []) + [f"{base}_{part}", f"{part}_{base}"]:
            if wanted in members:
                return wanted
            for each in members:
                if each.lower() == wanted:
                    return each
    return None


def _read_array(
    name: str, archive: zipfile.ZipFile, member: str, info: zipfile.ZipInfo, kinds: str, must: str
) -> np.ndarray:
    """Return an array whose dtype is one of these kinds; everything that its header says is checked beforehand."""
    what = f"{name}: {shown(member)}"
    with archive.open(info) as file:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise DataError(f"{what} holds a table of several types; {must}")
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read_header(file)
        start = file.tell()
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects; it must hold arrays of numbers or text")
    if dtype.kind not in kinds:
        raise DataError(f"{what} holds {shown(dtype)}; {must}")
    if any(side < 0 for side in shape) or len(shape) > MOST_AXES:
        raise DataError(f"{what}: the archive is damaged: its shape is {shown(shape)}")
    if not shape:
        raise DataError(f"{what} is a single value; it must have one row an example")
    if math.prod(max(side, 1) for side in shape) * max(dtype.itemsize, 1) >= 2**62:
        raise DataError(f"{what}: the archive is damaged: no array can have the shape {shown(shape)}")
    size, held = math.prod(shape) * dtype.itemsize, info.file_size - start
    if size != held:
        raise DataError(f"{what}: the archive is damaged: its header announces {size:,} bytes and it has {held:,}")
    require_room(what, size)
    with archive.open(info) as file:
        return npy.read_array(file, allow_pickle=False)
