"""Calls a function when a module has been imported, whoever imports it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

Action = Callable[[ModuleType], None]

_actions: dict[str, list[Action]] = {}
_stand_ins: dict[str, Action] = {}


def after_import(name: str, action: Action) -> None:
    """Call `action(module)` each time that a module has been executed, before anyone sees it; now if it is there.

    An exception of the action is one of the import.
    """
    _actions.setdefault(name, []).append(action)
    _look_first()
    if name in sys.modules:
        action(sys.modules[name])


def in_place_of(name: str, fill: Action) -> None:
    """Let an import of a module, whether it is installed or not, give an empty module that `fill(module)` fills.

    An exception of `fill` is one of the import.
    """
    _stand_ins[name] = fill
    _look_first()


def _look_first() -> None:
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules that have actions, as the other finders do."""

    def __init__(self) -> None:
        self._searching = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what the other finders find, with a loader that calls the actions."""
        if name in _stand_ins:
            return ModuleSpec(name, _StandIn())
        searching: set[str] = self._searching.__dict__.setdefault("names", set())
        if name not in _actions or name in searching:  # the latter where another finder asks all finders as well
            return None
        searching.add(name)
        try:
            others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
            found = (finder.find_spec(name, path, target) for finder in others)
            spec = next(filter(None, found), None)
        finally:
            searching.remove(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads one module, then calls its actions; steps back before, so that the module has its usual loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module that the usual loader makes."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module and call its actions."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        for action in _actions[module.__name__]:
            action(module)


class _StandIn(Loader):
    """Fills a module that stands in for another."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill the module."""
        _stand_ins[module.__name__](module)
