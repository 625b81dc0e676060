"""Gives a process the virtual device. The runner copies this file, as the `sitecustomize` of the program's processes.

The device comes with the first import of something beside Python's own library, or when ctypes loads a driver: nothing
else can ask for one. So a program's environment variables are set by then, and a process that needs none pays nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class Finder:
    """Sets up the device at the first import that matters; finds what that has loaded, and else what others find."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Set up the device, if there is such a module and it may ask for a driver."""
        if name.partition(".")[0] in sys.stdlib_module_names:
            return None
        others = [finder.find_spec for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (find(name, path, target) for find in others)), None)
        if spec is None:  # as in a module of Python that asks whether it is Jython
            return None
        begin()
        module = sys.modules.get(name)
        if module is None:
            return spec
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


def begin() -> None:
    """Set up the device, once."""
    if _finder not in sys.meta_path:
        return
    sys.meta_path.remove(_finder)
    if not os.environ.get("GPUBP_EMULATOR"):
        return
    try:
        import gpubp  # noqa: F401
    except ImportError:
        print(f"gpubp is not installed for {sys.executable}: it has no virtual device", file=sys.stderr)
        return
    try:
        from gpubp.emulator.run import process
    except ImportError as error:  # which programs may take for that of the module that they look for
        raise RuntimeError(f"the virtual device cannot be set up: {error}") from error
    process.begin()


def listen(event: str, arguments: tuple[Any, ...]) -> None:
    """Set up the device if ctypes is about to load a driver."""
    if event == "ctypes.dlopen" and "libcuda.so" in str(arguments[0]):
        begin()


def install() -> None:
    """Wait until the device is needed; before, run the sitecustomize that this one hides, if there is one."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [folder for folder in sys.path if folder != here]
    this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", this)
    sys.meta_path.insert(0, _finder)
    sys.addaudithook(listen)


if __name__ == "sitecustomize":
    install()
