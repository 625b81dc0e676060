"""The switch between array libraries: one module a backend, and the protocol (`base`) that they all meet."""

from __future__ import annotations

from gpubp.backends.base import Backend
from gpubp.errors import ArgumentError, BackendError, unknown_name

BACKENDS = {"numpy": ("cpu",), "cupy": ("gpu", "emulator"), "numba": ("gpu", "emulator")}
"""Every backend by its name, with the devices that it can run on."""


def get(name: str = "auto", device: str | None = None) -> Backend:
    """Make the backend with this name on this device; None: the device that the backend runs on first of all.

    "auto" is the fastest that works here. A backend that was named and cannot run raises BackendError, which says what
    is missing; nothing else is taken in its place.
    """
    if name == "auto":
        if device not in (None, "cpu"):
            raise ArgumentError("device", device, "left out, or 'cpu', with backend 'auto'")
        name = "numpy"
    if name not in BACKENDS:
        raise unknown_name("backend", name, ("auto", *BACKENDS))
    devices = BACKENDS[name]
    device = device or devices[0]
    if device not in devices:
        raise ArgumentError("device", device, f"one of {', '.join(devices)} with backend {name!r}")
    if name == "numpy":
        from gpubp.backends.numpy_backend import NumpyBackend

        return NumpyBackend()
    raise BackendError(f"backend {name!r} is not part of this version of gpubp; use 'numpy'")
