"""A training run: settings, model, loop, checkpoints, the run's folder, and what is shown of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpubp.lazy import names_from

if TYPE_CHECKING:
    from gpubp.training.config import TrainingConfig as TrainingConfig
    from gpubp.training.loop import fit as fit
    from gpubp.training.lr_finder import find_learning_rate as find_learning_rate
    from gpubp.training.model import Model as Model

__all__ = ["Model", "TrainingConfig", "find_learning_rate", "fit"]

__getattr__, __dir__ = names_from(
    __name__, {"TrainingConfig": "config", "fit": "loop", "Model": "model", "find_learning_rate": "lr_finder"}
)
