"""The switch between array libraries: one module a backend, and the protocol (`base`) that they all meet."""

from __future__ import annotations

from importlib import import_module

from gpubp.backends.base import Backend
from gpubp.errors import ArgumentError, BackendError, unknown_name

BACKENDS = {
    "numpy": ("cpu",),
    "cpu": ("cpu",),
    "cupy": ("gpu", "emulator", "virtual"),
    "numba": ("gpu", "emulator", "virtual"),
}
"""Every backend by its name, with the devices that it can run on, the usual one first."""

EMULATED = ("emulator", "virtual")
"""The devices whose kernels the emulator executes: through its own interface, and through a driver library of its own,
which the real CuPy and numba-cuda call."""

MEASURED = ("gpu", "virtual")
"""The devices on which `cupy` takes plans that `gpubp tune` measured, through the real CuPy."""

_HOMES = {
    "numpy": "numpy_backend:NumpyBackend",
    "cpu": "cpu_backend:CpuBackend",
    "cupy": "cupy_backend:CupyBackend",
    "numba": "numba_backend:NumbaBackend",
}


def get(name: str = "auto", device: str | None = None) -> Backend:
    """Return the backend with this name on this device; None: the first of the backend's devices in `BACKENDS`.

    "auto" is `cupy` on a GPU that has run a tiny kernel, else `numba` likewise, else `cpu`; never the emulated
    device.

    Device "virtual" gives this process a driver library of its own, for good. On a GPU `cupy` takes the plans that
    `gpubp tune` measured on it (see `gpubp.backends.tuned`).

    Raises:
        ArgumentError: the name is unknown, or the backend does not run on such a device.
        BackendError: the backend cannot run, with what is missing and how to install it. Nothing else is taken in its
            place.
    """
    from gpubp.backends import detection

    if name == "auto":
        name, device = _automatic(device)
    if name not in BACKENDS:
        raise unknown_name("backend", name, ("auto", *BACKENDS))
    devices = BACKENDS[name]
    device = device or devices[0]
    if device not in devices:
        raise ArgumentError("device", device, f"one of {', '.join(devices)} with backend {name!r}")
    if device == "virtual":
        detection.use_virtual_device()
    found = detection.probe(name, device)
    if not found.works:
        without = "; without a GPU there is device 'emulator'" if device == "gpu" else ""
        raise BackendError(f"backend {name!r} cannot run on device {device!r}: {found}{without}")
    module, kind = _HOMES[name].split(":")
    made = getattr(import_module(f"{__name__}.{module}"), kind)(device)
    if name == "cupy" and device in MEASURED:
        from gpubp.backends import tuned

        made.tuned = tuned.load(made.conditions)
    return made


def _automatic(device: str | None) -> tuple[str, str]:
    """Return the backend and device that "auto" stands for; `device` limits the choice."""
    from gpubp.backends import detection

    if device not in (None, "cpu", "gpu"):
        raise ArgumentError("device", device, "'cpu', 'gpu' or left out, with backend 'auto'")
    faults = []
    if device != "cpu":
        for name in ("cupy", "numba"):
            found = detection.probe(name, "gpu")
            if found.works:
                return name, "gpu"
            faults.append(f"{name}: {found}")
    if device == "gpu":
        raise BackendError("no backend can run on device 'gpu': " + "; ".join(faults))
    return "cpu", "cpu"
