"""IDX files, in the layout of MNIST: four files in a folder, each plain or gzip."""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gpubp.data.rows import Unchanged
from gpubp.data.source import Labels, Source, reason, require_room
from gpubp.data.spool import Spool, is_large, is_wanted, mapped_files
from gpubp.errors import DataError, listed, shown, shown_path
from gpubp.files import open_regular

DIGIT_CLASSES = tuple("0123456789")
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
IDX_SETS = {"fashion-mnist": FASHION_CLASSES, "mnist": DIGIT_CLASSES}
"""The classes of each set of IDX files that is known by name."""

IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

MOST_AXES = 32
"""Axes that an array can have in every release of NumPy that is allowed."""

DATA_FOLDERS = ("data", "/usr/share/datasets")
"""Where sets known by name are looked for, after $GPUBP_DATA: beside the user, and where Debian's packages put them."""

BLOCK = 2**20
"""Bytes that are read at once."""

_PARTS = (
    ("train", "images-idx3"), ("train", "labels-idx1"), ("t10k", "images-idx3"), ("t10k", "labels-idx1"),
)  # fmt: skip
_FILE = re.compile(r"(?:(?P<prefix>.+)-)?(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx\d-ubyte(\.gz)?")
"""The name of a file: MNIST's, or EMNIST's, which puts the set in front and calls the test part test."""


def find_idx_folder(name: str) -> Path:
    """Return the folder of a set known by name: under $GPUBP_DATA or one of `DATA_FOLDERS`."""
    places = [Path(root) / name for root in (os.environ.get("GPUBP_DATA"), *DATA_FOLDERS) if root]
    for place in places:
        if os.path.isdir(place):
            return place
    package = "install Debian's package dataset-fashion-mnist, or " if name == "fashion-mnist" else ""
    files = ", ".join(f"{part}-{what}-ubyte.gz" for part, what in _PARTS)
    raise DataError(
        f"{name} is not on this machine: there is no folder {', '.join(map(shown_path, places))}. To get it, {package}"
        f"put the files {files} into data/{name} or into a folder of your own, named in place of {name!r}"
    )


def is_idx_set(path: Path) -> bool:
    """True if the path is a folder, or the start of the names of IDX files in one: data/emnist-letters."""
    return os.path.isdir(path) or (os.path.isdir(path.parent) and path.name in _prefixes(path.parent))


def _prefixes(folder: Path) -> list[str]:
    try:
        found = {match["prefix"] or "" for name in os.listdir(folder) if (match := _FILE.fullmatch(name))}
    except OSError as error:
        raise DataError(f"{shown_path(folder)}: it cannot be read: {reason(error)}") from None
    return sorted(found)


def read_idx_set(path: Path, name: str, *, stream: bool | None = False) -> Source:
    """Read the four files of a set: those of a folder, or those in its parent whose names begin with its own.

    stream: leave inputs in their files, those of gzip unpacked, as `spool.is_wanted` takes it.

    Raises DataError if one is missing, damaged or no regular file, and if a folder holds several sets.
    """
    folder, prefix = (path, "") if os.path.isdir(path) else (path.parent, path.name)
    if os.path.isdir(path):
        prefixes = _prefixes(folder)
        if len(prefixes) > 1 and "" not in prefixes:
            raise DataError(
                f"{shown_path(folder)}: it holds several sets ({listed(prefixes)}); take one by name: "
                f"{shown_path(folder / prefixes[0])}"
            )
        prefix = prefixes[0] if prefixes and "" not in prefixes else ""
    paths = [_find_part(folder, prefix, part, what) for part, what in _PARTS]
    before = Unchanged(paths)
    images, labels, test_images, test_labels = (
        read_idx(path, stream=stream if what.startswith("images") else False)
        for path, (_, what) in zip(paths, _PARTS, strict=True)
    )
    return Source(
        name,
        images,
        Labels(labels, "y"),
        test_images,
        Labels(test_labels, "y_test"),
        class_names=IDX_SETS.get(name, ()),
        value_range=255 if images.dtype == np.uint8 else None,
        files=mapped_files(before, images, test_images),
    )


def _find_part(folder: Path, prefix: str, part: str, what: str) -> Path:
    front = f"{prefix}-" if prefix else ""
    # Some copies have a dot in front of "idx".
    stems = [
        f"{front}{each}-{what.replace('-', dash)}-ubyte"
        for each in ((part, "test") if part == "t10k" else (part,))
        for dash in "-."
    ]
    for stem in stems:
        for path in (folder / stem, folder / f"{stem}.gz"):
            if os.path.exists(path):
                return path
    raise DataError(
        f"{shown_path(folder)}: there is no file {shown(stems[0])} or {shown(stems[0])}.gz; a folder must hold the "
        "four IDX files"
    )


def read_idx(path: Path, *, stream: bool | None = False) -> np.ndarray:
    """Read one IDX file, plain or gzip (told by its first bytes), as an array in the machine's byte order; one that is
    mapped has the file's.

    The format: two zero bytes, a code for the type, the number of axes, each axis' length as a big-endian 32-bit
    integer, then the values, big-endian, in C order (Y. LeCun, "The MNIST database of handwritten digits"). What the
    header announces is read, and no more: a small gzip file can unpack to any size.

    stream: map the values, those of gzip from a `Spool`; None: if they are large for the memory.
    """
    try:
        with open_regular(path) as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not is_gzip:
                return _read_values(path, file, stream)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read_values(path, unpacked, stream)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise DataError(f"{shown_path(path)}: it cannot be read: {reason(error)}") from None


def _read_values(path: Path, file: BinaryIO, stream: bool | None) -> np.ndarray:
    name = shown_path(path)
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in IDX_DTYPES:
        raise DataError(f"{name}: it is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}")
    dtype, axes = np.dtype(IDX_DTYPES[magic[2]]), magic[3]
    if axes > MOST_AXES:
        raise DataError(f"{name}: the header announces {axes} axes; at most {MOST_AXES} can be read")
    sides = file.read(4 * axes)
    if axes == 0 or len(sides) < 4 * axes:
        raise DataError(f"{name}: the header is cut off or announces no axes")
    shape = struct.unpack(f">{axes}I", sides)
    announced = math.prod(shape) * dtype.itemsize
    if math.prod(max(side, 1) for side in shape) * dtype.itemsize >= 2**62:
        raise DataError(f"{name}: no array can have the shape {shown(shape)}; the file is cut off or damaged")
    damage = f"{name}: the header announces {announced:,} bytes of values for shape {shown(shape)}"
    if not isinstance(file, gzip.GzipFile):
        held = os.fstat(file.fileno()).st_size - 4 - len(sides)
        if held != announced:
            raise DataError(f"{damage}, the file has {held:,}; it is cut off or damaged")
    stays = is_large(announced) if stream is None else stream
    if stays and announced and not isinstance(file, gzip.GzipFile):
        return np.memmap(path, dtype, "r", file.tell(), shape)
    in_file = is_wanted(stream, announced)
    if not in_file:
        require_room(name, announced)
    with Spool(name, in_file=in_file, size=announced) as spool:
        while spool.size < announced:
            block = file.read(min(BLOCK, announced - spool.size))
            if not block:
                raise DataError(f"{damage}, the file has {spool.size:,}; it is cut off or damaged")
            spool.append(block)
        if file.read(1):  # the end of a gzip file has its checksum, which this compares
            raise DataError(f"{damage}, the file has more; it is cut off or damaged")
        values = spool.array(dtype, shape)
    return values if in_file else values.astype(dtype.newbyteorder("="), copy=False)
