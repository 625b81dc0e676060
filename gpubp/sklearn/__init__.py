"""Estimators with scikit-learn's interface: `MLPClassifier` and `MLPRegressor`. They need the extra `sklearn`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpubp.lazy import names_from

if TYPE_CHECKING:
    from gpubp.sklearn.classifier import MLPClassifier as MLPClassifier
    from gpubp.sklearn.regressor import MLPRegressor as MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]

_load, __dir__ = names_from(__name__, {"MLPClassifier": "classifier", "MLPRegressor": "regressor"})


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == "sklearn":
            raise ImportError(
                "gpubp.sklearn needs scikit-learn, which is not installed; pip install 'gpubp[sklearn]'"
            ) from error
        raise
