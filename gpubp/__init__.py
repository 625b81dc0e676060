"""Fully connected networks trained by backpropagation, every step of the algorithm its own GPU kernel."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpubp.network import Evaluation as Evaluation
    from gpubp.network import Gradients as Gradients
    from gpubp.network import Network as Network
    from gpubp.precision import LossScaling as LossScaling

_HOMES = {"Network": "network", "Gradients": "network", "Evaluation": "network", "LossScaling": "precision"}
"""The public names and their modules, which load when a name is first used: the command line starts fast."""

__all__ = ["Evaluation", "Gradients", "LossScaling", "Network"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
