"""The functions of `cupy.cuda.runtime` that kernel code calls, on the emulated device."""

from __future__ import annotations

from gpubp.emulator.chip import Device, check_device_id, current_chip
from gpubp.emulator.cupy.streams import get_current_stream

streamCaptureModeGlobal = 0
streamCaptureModeThreadLocal = 1
streamCaptureModeRelaxed = 2


def deviceSynchronize() -> None:
    """Wait for the device; launches have ended when they return."""
    get_current_stream().check_not_capturing("deviceSynchronize")


def getDeviceCount() -> int:
    """Return 1."""
    return 1


def getDevice() -> int:
    """Return 0."""
    return 0


def getDeviceProperties(device: int) -> dict[str, object]:
    """Return the properties of the emulated chip that kernel code asks for; sizes in bytes."""
    check_device_id(device)
    attributes = Device(device).attributes
    return {
        "name": f"emulated {current_chip().example}".encode(),
        "major": attributes["ComputeCapabilityMajor"],
        "minor": attributes["ComputeCapabilityMinor"],
        "multiProcessorCount": attributes["MultiProcessorCount"],
        "maxThreadsPerBlock": attributes["MaxThreadsPerBlock"],
        "maxThreadsPerMultiProcessor": attributes["MaxThreadsPerMultiProcessor"],
        "regsPerBlock": attributes["MaxRegistersPerBlock"],
        "sharedMemPerBlock": attributes["MaxSharedMemoryPerBlock"],
        "sharedMemPerBlockOptin": attributes["MaxSharedMemoryPerBlockOptin"],
        "sharedMemPerMultiprocessor": attributes["MaxSharedMemoryPerMultiprocessor"],
        "warpSize": attributes["WarpSize"],
    }
