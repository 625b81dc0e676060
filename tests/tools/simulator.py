"""Run Python kernels in Numba's simulator: `python simulator.py` with NUMBA_ENABLE_CUDASIM=1 prints JSON.

For each planted bug with a Python text: what the wrong and the right kernel's run ended in, as [message, line], null
if it ended well, or "hangs".
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import sys
import tempfile
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numba import cuda  # noqa: F401  before the processes fork, so that each need not import it
from planted_bugs import PLANTED, Planted, marked_lines, variant

HEADER = "from {package} import cuda\n\n\n@cuda.jit\ndef kernel(x, y, far):\n    t = cuda.threadIdx.x\n"


def module_of(planted: Planted, wrong: bool, folder: Path, package: str) -> tuple[ModuleType, set[int]]:
    """Return a module with the kernel in Python, for `numba` or what stands in for it, and its marked lines."""
    body = variant(planted.python, wrong)
    text = HEADER.format(package=package) + "".join(f"    {line}\n" for line in body.splitlines())
    path = folder / "twin.py"
    path.write_text(text)
    sys.dont_write_bytecode, keep = True, sys.dont_write_bytecode
    try:
        spec = importlib.util.spec_from_file_location("twin", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = keep
    return module, marked_lines(text)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Return x and y as every kernel gets them."""
    return np.arange(64, dtype=np.int32), np.zeros(256, np.int32)


def outcome(planted: Planted, wrong: bool, folder: Path) -> Any:
    """Run a kernel and return [message, line within the kernel's file, whether it is marked], or None."""
    module, marked = module_of(planted, wrong, folder, "numba")
    x, y = arrays()
    try:
        module.kernel[planted.blocks, planted.threads](x, y, 4096)
    except Exception as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith("twin.py")
        ]
        return [f"{type(error).__name__}: {error}", bool(lines) and lines[-1] in marked]
    return None


def in_a_process(planted: Planted, wrong: bool, folder: Path) -> Any:
    """Run a kernel in a process of its own, because a thread of the simulator cannot be stopped."""
    end, start = os.pipe()
    child = os.fork()
    if not child:
        os.write(start, json.dumps(outcome(planted, wrong, folder)).encode())
        os._exit(0)
    os.close(start)
    ready, _, _ = select.select([end], [], [], 3 if planted.endless and wrong else 60)
    answer = json.loads(os.read(end, 1 << 20)) if ready else "hangs"
    os.close(end)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return answer


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: [in_a_process(planted, wrong, Path(folder)) for wrong in (True, False)]
            for name, planted in PLANTED.items()
            if planted.python
        }
    print(json.dumps(found))
