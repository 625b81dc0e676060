"""What the tests of data share: small files of each format."""

import gzip
import struct

import numpy as np

from gpubp.data import idx
from gpubp.data.loading import load_inputs


def inputs_of(*arguments, **options):
    return load_inputs(*arguments, **options)[0]


def idx_bytes(values: np.ndarray) -> bytes:
    code = {np.dtype(dtype).newbyteorder("="): code for code, dtype in idx.IDX_DTYPES.items()}[values.dtype]
    header = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


def write_idx_folder(folder, *, compress=False, train=12, test=6, **changed):
    """Write a small set in MNIST's layout; `changed` replaces the arrays of single files."""
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (train, 4, 3), dtype=np.uint8),
        "train-labels-idx1-ubyte": (np.arange(train) % 3).astype(np.uint8),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (test, 4, 3), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(test) % 3).astype(np.uint8),
    }
    arrays.update({name.replace("_", "-"): values for name, values in changed.items()})
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in arrays.items():
        if compress:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
        else:
            (folder / name).write_bytes(idx_bytes(values))
    return arrays


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def write_csv(path, text):
    path.write_text(text, encoding="utf-8")
    return path


IRIS = """sepal,petal,species
5.1,1.4,setosa
4.9,1.4,setosa
6.4,4.5,versicolor
6.9,4.9,versicolor
5.9,5.1,virginica
6.3,5.6,virginica
"""
