"""NVVM IR to PTX, with no driver: how the Python kernels are compiled.

NVVM runs in a process of its own, so that the same modules give the same PTX, whatever was compiled before (see
`process.reproducible`). The PTX is kept on disk (see `cache`) under a key that its frontend gives, because a frontend
knows what the PTX depends on before it has made the IR.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from gpubp.toolchain import cache, process
from gpubp.toolchain.process import CompileError

WHEELS = ("nvidia-nvvm", "nvidia-cuda-nvcc-cu12")
"""The packages that bring NVVM, for CUDA 13 and for CUDA 12."""


def compile_modules(modules: Sequence[str], library: bytes, options: Sequence[str]) -> tuple[bytes, str]:
    """Return the PTX and the log of NVVM IR modules that are linked with each other.

    Args:
        modules: IR as text.
        library: bitcode that is linked for what the modules lack, such as libdevice.
        options: of NVVM, such as "-arch=compute_90".

    Raises:
        CompileError: NVVM refuses the modules; carries the log.
        RuntimeError: NVVM is missing.
    """
    try:
        return process.call(
            "nvvm",
            "compile_modules",
            modules=[module.encode() for module in modules],
            library=library,
            options=list(options),
        )
    except process.Refused as error:
        raise CompileError(f"NVVM refuses the kernel ({error.reason}):", error.log) from error


def wheel_versions() -> list[str]:
    """Return the versions of the packages in `WHEELS` that are installed."""
    versions = []
    for name in WHEELS:
        with contextlib.suppress(metadata.PackageNotFoundError):  # NVVM is another wheel's, or a toolkit's
            versions.append(metadata.version(name))
    return versions


def obtain_ptx(entry: str, make: Callable[[], str]) -> str:
    """Return the PTX that the cache keeps under this name; if there is none, make it and keep it."""

    def make_and_keep() -> str:
        ptx = make()
        cache.keep(entry, {".json": json.dumps({"ptx": ptx, "checksum": _checksum(ptx)}).encode()})
        return ptx

    return cache.obtain(entry, lambda path: _read(path.with_suffix(".json")), make_and_keep)


def _read(path: Path) -> str | None:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return entry["ptx"] if entry["checksum"] == _checksum(entry["ptx"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _checksum(ptx: str) -> str:
    return hashlib.sha256(json.dumps(ptx).encode()).hexdigest()
