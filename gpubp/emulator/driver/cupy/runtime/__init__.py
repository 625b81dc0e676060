"""CuPy's runtime module, `cupy_backends.cuda.api.runtime`, on the virtual device.

That module has NVIDIA's CUDA runtime inside, which accepts no driver but NVIDIA's. So its functions are replaced by
those below, of the same names and arguments, which do the work as the driver does it. CuPy's compiled modules find them
where Cython keeps C functions for others, Python code as attributes of the module.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from gpubp.emulator.driver.cupy.runtime import device, graphs, memory, missing, serving, streams
from gpubp.emulator.driver.cupy.runtime.serving import PYTHON_ONLY, SERVED, error_class
from gpubp.emulator.driver.cupy.thunks import name_of, replace
from gpubp.emulator.errors import EmulatorError

__all__ = ["device", "graphs", "install", "memory", "missing", "streams"]
"""The functions, by theme: each notes itself in `serving`."""

TESTED = "14.2."
"""The CuPy versions that this was tested with: what their functions are and take is no interface for others."""

_KEPT = {"make_Extent", "make_PitchedPtr", "make_Pos"}
"""Functions that only fill a structure."""


def install(module: Any) -> None:
    """Serve CuPy's runtime module, which nobody has imported yet.

    Raises:
        EmulatorError: this version of CuPy is not known.
    """
    version = _version(module)
    of = f"CuPy {version}"
    if not version.startswith(TESTED):
        raise EmulatorError(
            f"{of} is not known to the virtual device, which serves CuPy {TESTED}x: install cupy-cuda13x=={TESTED}0"
        )
    capsules = module.__pyx_capi__
    known = SERVED.keys() | _KEPT
    unknown = sorted(name for name in capsules if name not in known and name_of(capsules[name]) != "int")
    if unknown:
        raise EmulatorError(f"{of}: the virtual device does not know the functions {', '.join(unknown)}")
    replace(capsules, SERVED, of)
    module.CUDARuntimeError = error_class(module.CUDARuntimeError)
    serving.CUPY[:] = [module]
    for name, function in {**{name: each.function for name, each in SERVED.items()}, **PYTHON_ONLY}.items():
        if hasattr(module, name):  # not the functions that only C code calls
            setattr(module, name, function)


def _version(module: ModuleType) -> str:
    """Return CuPy's version, from the file that says so: the package is being imported."""
    found: dict[str, str] = {}
    path = Path(module.__file__ or "").parents[3] / "cupy" / "_version.py"
    try:
        exec(path.read_text(), found)
    except OSError as error:
        raise EmulatorError(f"CuPy's version is not known: {error}") from None
    return found["__version__"]
