"""Fully connected networks trained by backpropagation, every step of the algorithm its own GPU kernel.

PYTEST_DONT_REWRITE: pytest, for which gpubp has a plugin, may find it imported, and would warn of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpubp.lazy import names_from

if TYPE_CHECKING:
    from gpubp.nn.network import Evaluation as Evaluation
    from gpubp.nn.network import Gradients as Gradients
    from gpubp.nn.network import Network as Network
    from gpubp.nn.precision import LossScaling as LossScaling
    from gpubp.nn.trainer import Trainer as Trainer

__all__ = ["Evaluation", "Gradients", "LossScaling", "Network", "Trainer"]

__getattr__, __dir__ = names_from(
    __name__,
    {
        "Evaluation": "nn.network",
        "Gradients": "nn.network",
        "LossScaling": "nn.precision",
        "Network": "nn.network",
        "Trainer": "nn.trainer",
    },
)
