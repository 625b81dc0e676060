"""Gives a process the virtual device. The runner copies this file, as the `sitecustomize` of the program's processes.

The device comes with the first import of something beside Python's own library, or when ctypes loads a driver: nothing
else can ask for one. So a program's environment variables are set by then, and a process that needs none pays nothing.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Finder:
    """Sets up the device at the first import that matters; finds only what has been loaded by that."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Set up the device, if there is such a module and it may ask for a driver."""
        if name.partition(".")[0] in sys.stdlib_module_names:
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        if not any(finder.find_spec(name, path, target) for finder in others):
            return None  # as in a module of Python's library that asks whether it is Jython
        begin()
        module = sys.modules.get(name)
        if module is None:
            return None
        # Python takes the spec of a module that has appeared during the search, so the module gets this one meanwhile.
        module.__spec__ = ModuleSpec(name, Loaded(module))  # type: ignore[arg-type]
        return module.__spec__


class Loaded:
    """Loads a module that is there already."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module back what the import has changed."""
        module.__spec__ = self._spec


_finder = Finder()
_ctypes: Any = ctypes
_dlopen = _ctypes._dlopen


def begin() -> None:
    """Set up the device, once."""
    if _finder not in sys.meta_path:
        return
    sys.meta_path.remove(_finder)
    _ctypes._dlopen = _dlopen
    if not os.environ.get("GPUBP_EMULATOR"):
        return
    if importlib.util.find_spec("gpubp") is None:
        print(f"gpubp is not installed for {sys.executable}: it has no virtual device", file=sys.stderr)
        return
    try:
        from gpubp.emulator.run import process
    except ImportError as error:  # which programs may take for that of the module that they look for
        raise RuntimeError(f"the virtual device cannot be set up: {error}") from error
    process.begin()


def load(name: Any, *arguments: Any) -> int:
    """Load a library for ctypes; set up the device before, if it is a driver."""
    if "libcuda.so" in str(name):
        begin()
    return _dlopen(name, *arguments)


def install() -> None:
    """Wait until the device is needed; before, run the sitecustomize that this one hides, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if folder != here]
    this = sys.modules.pop("sitecustomize")
    try:
        importlib.import_module("sitecustomize")
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", this)
    sys.meta_path.insert(0, _finder)
    _ctypes._dlopen = load


if __name__ == "sitecustomize":
    install()
