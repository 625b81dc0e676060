"""Source lines in what numba-cuda compiles, so that the emulator can name them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from gpubp.emulator.driver.imports import after_import
from gpubp.emulator.numba.lines import line_of, location_of


def install() -> None:
    """Let numba-cuda compile every kernel with its lines, as with `jit(lineinfo=True)`."""
    after_import("numba.cuda.lowering", _name_lines)
    after_import("numba.cuda.debuginfo", _name_files)
    after_import("numba.cuda.dispatcher", _ask_for_lines)


def _name_lines(module: ModuleType) -> None:
    module.Lower._adjust_line_if_prologue = line_of


def _name_files(module: ModuleType) -> None:
    module.DIBuilder._di_location = location_of


def _ask_for_lines(module: ModuleType) -> None:
    plain = module.CUDADispatcher.__init__

    def __init__(self: Any, py_func: Any, targetoptions: dict[str, Any], *arguments: Any, **options: Any) -> None:
        if not targetoptions.get("debug"):  # which has the lines too, and excludes this
            targetoptions = {**targetoptions, "lineinfo": True}
        plain(self, py_func, targetoptions, *arguments, **options)

    module.CUDADispatcher.__init__ = __init__
