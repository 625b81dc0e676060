"""Source lines for the kernels of Numba's packages, which leave them out unless a program asks: messages name them."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gpubp.emulator.driver.imports import after_import
from gpubp.emulator.numba.lines import line_of, location_of


def install() -> None:
    """Let both packages compile each function with its lines, as with `lineinfo=True`, which changes no instruction."""
    after_import("numba.cuda.lowering", _name_lines)
    after_import("numba.cuda.debuginfo", _name_files)
    after_import("numba.cuda.dispatcher", lambda module: _ask_for_lines(module.CUDADispatcher))
    after_import("numba_cuda_mlir.descriptor", lambda module: _ask_for_lines(module.MLIRDispatcher))


def _name_lines(module: ModuleType) -> None:
    module.Lower._adjust_line_if_prologue = line_of


def _name_files(module: ModuleType) -> None:
    module.DIBuilder._di_location = location_of
    plain = module.DIBuilder._var_type

    def _var_type(self: Any, kind: Any, size: int, datamodel: Any = None) -> Any:
        """Describe a tuple of empty things as no bytes: Numba would divide by the size of one."""
        if isinstance(kind, module.ir.ArrayType) and not self.cgctx.get_abi_sizeof(kind.element):
            kind, datamodel = module.ir.ArrayType(module.ir.IntType(8), 0), None
        return plain(self, kind, size, datamodel=datamodel)

    module.DIBuilder._var_type = _var_type


def _ask_for_lines(dispatcher: Any) -> None:
    plain = dispatcher.__init__

    def __init__(
        self: Any, py_func: Callable[..., Any], targetoptions: dict[str, Any] | None = None, *others: Any, **more: Any
    ) -> None:
        targetoptions = targetoptions or {}
        # Numba warns of functions whose file is not there; with `debug` there are lines anyway.
        if not targetoptions.get("debug") and linecache.getline(py_func.__code__.co_filename, 1):
            targetoptions = {**targetoptions, "lineinfo": True}
        plain(self, py_func, targetoptions, *others, **more)

    dispatcher.__init__ = __init__
