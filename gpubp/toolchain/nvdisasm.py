"""Machine code to text by nvdisasm, NVIDIA's disassembler."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from gpubp.errors import BackendError

MISSING = "nvdisasm is missing: pip install nvidia-cuda-nvdisasm"


def find() -> Path | None:
    """Return the path of nvdisasm: that of the wheel, else the one on the PATH, else None."""
    try:
        for file in files("nvidia-cuda-nvdisasm") or ():
            if Path(file).stem == "nvdisasm" and (path := Path(str(file.locate()))).is_file():
                return path
    except PackageNotFoundError:
        pass
    found = shutil.which("nvdisasm")
    return Path(found) if found else None


@functools.lru_cache(maxsize=16)
def disassemble(cubin: bytes) -> str:
    """Return the text of all kernels in a cubin.

    Raises:
        BackendError: nvdisasm is missing or cannot read the machine code.
    """
    program = find()
    if program is None:
        raise BackendError(MISSING)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([program, "-c", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(f"nvdisasm cannot read the machine code: {done.stderr.strip()}")
    return done.stdout
