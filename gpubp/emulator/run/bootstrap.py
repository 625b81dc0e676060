"""Gives a process the virtual device. The runner copies this file, as the `sitecustomize` of the program's processes.

The device comes with the first import of something beside Python's own library, or of ctypes: nothing else can ask for
a driver. So a program's environment variables are set by then, and a process that does without pays nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class Finder:
    """Sets up the device at the first search that matters; finds only what that has loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        """Set up the device if the module may ask for it. Return the module's spec if it has been loaded meanwhile."""
        if name not in ("ctypes", "_ctypes") and name.partition(".")[0] in sys.stdlib_module_names:
            return None
        begin(self)
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


def begin(finder: Finder) -> None:
    """Set up the device, once."""
    if finder not in sys.meta_path:
        return
    sys.meta_path.remove(finder)
    if os.environ.get("GPUBP_EMULATOR"):
        from gpubp.emulator.run import process

        process.begin()


def install() -> None:
    """Wait for the first import; before, run the sitecustomize that this one hides, if there is one."""
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
    finder = Finder()
    sys.meta_path.insert(0, finder)
    if "ctypes" in sys.modules:
        begin(finder)


if __name__ == "sitecustomize":
    install()
