"""The functions of `cupy.cuda.runtime` that kernel code calls, on the emulated device."""

from __future__ import annotations

from gpubp.emulator.chip import CHIPS, Device, check_device_id, compute_capability, current_arch
from gpubp.emulator.cupy.streams import get_current_stream

streamCaptureModeGlobal = 0
streamCaptureModeThreadLocal = 1
streamCaptureModeRelaxed = 2


def deviceSynchronize() -> None:
    """Wait for the device; launches have ended when they return."""
    get_current_stream().check_not_capturing("deviceSynchronize")


def getDeviceCount() -> int:
    """One."""
    return 1


def getDevice() -> int:
    """Number 0."""
    return 0


def getDeviceProperties(device: int) -> dict[str, object]:
    """The properties of the emulated chip that kernel code asks for; sizes in bytes."""
    check_device_id(device)
    chip, (major, minor) = CHIPS[current_arch()], compute_capability(current_arch())
    attributes = Device(device).attributes
    return {
        "name": f"emulated {chip.name}".encode(),
        "major": major,
        "minor": minor,
        "multiProcessorCount": chip.multiprocessors,
        "maxThreadsPerBlock": attributes["MaxThreadsPerBlock"],
        "maxThreadsPerMultiProcessor": chip.threads_per_multiprocessor,
        "regsPerBlock": attributes["MaxRegistersPerBlock"],
        "sharedMemPerBlock": attributes["MaxSharedMemoryPerBlock"],
        "sharedMemPerBlockOptin": attributes["MaxSharedMemoryPerBlockOptin"],
        "sharedMemPerMultiprocessor": chip.shared_per_multiprocessor,
        "warpSize": attributes["WarpSize"],
    }
