"""What the tests of the command line share: a short training, and small files of data."""

import csv
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

FAST = ("--layers", "16", "--epochs", "2", "--batch-size", "64")


def contents():
    """Every file below the current folder, with what it holds."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_npz(path):
    with np.load(path) as file:
        return dict(file)


def history(folder):
    return read_csv(Path(folder) / "history.csv")


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_idx_set(start, **parts):
    """IDX files of 3×4 images, of three classes, whose names begin like this."""
    os.makedirs(os.path.dirname(start))
    rng = np.random.default_rng(0)
    for part, rows in parts.items():
        images = rng.integers(0, 256, (rows, 3, 4), dtype=np.uint8)
        for what, values in (("images-idx3", images), ("labels-idx1", (np.arange(rows) % 3).astype(np.uint8))):
            head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            Path(f"{start}-{part}-{what}-ubyte").write_bytes(head + values.tobytes())


def table(rows=60, seed=0):
    """Rows of a CSV file: two numbers and a class that they decide."""
    values = np.random.default_rng(seed).normal(size=(rows, 2))
    return [[f"{a:.3f}", f"{b:.3f}", "left" if a + b < 0 else "right"] for a, b in values]


def write_lines(path, rows, delimiter=",", encoding="utf-8"):
    Path(path).write_bytes("".join(delimiter.join(row) + "\n" for row in rows).encode(encoding))


def program(*arguments, **options):
    """The program in a process of its own."""
    command = [sys.executable, "-c", "from gpubp.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, **options)


def judged(result):
    """The data that an evaluation names, and how many examples it has."""
    text = " ".join(result.stdout.split())
    return re.search(r"data (.*): ([\d,]+) examples", text).groups()
