"""Data sets: the bundled digits, IDX files (MNIST, Fashion-MNIST), .npz and CSV, their split and their scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpubp.lazy import names_from

if TYPE_CHECKING:
    from gpubp.data.dataset import TASKS as TASKS
    from gpubp.data.dataset import Dataset as Dataset
    from gpubp.data.loading import load as load
    from gpubp.data.preparation import InputRules as InputRules
    from gpubp.data.preparation import Preparation as Preparation
    from gpubp.data.scaler import Scaler as Scaler
    from gpubp.data.splitting import split as split
    from gpubp.data.table import TableFormat as TableFormat

__all__ = ["TASKS", "Dataset", "InputRules", "Preparation", "Scaler", "TableFormat", "load", "split"]

__getattr__, __dir__ = names_from(
    __name__,
    {
        "TASKS": "dataset",
        "Dataset": "dataset",
        "InputRules": "preparation",
        "Preparation": "preparation",
        "Scaler": "scaler",
        "TableFormat": "table",
        "load": "loading",
        "split": "splitting",
    },
)
