"""The functions of `cupy.cuda.runtime` that kernel code calls, on the emulated device."""

from __future__ import annotations

from gpubp.emulator.chip import Device, check_device_id, current_chip
from gpubp.emulator.cupy.streams import get_current_stream
from gpubp.emulator.errors import EmulatorError
from gpubp.emulator.limits import current, limits

cudaLimitStackSize = 0
cudaLimitMallocHeapSize = 2
_LIMITS = {cudaLimitStackSize: "stack", cudaLimitMallocHeapSize: "heap"}
streamCaptureModeGlobal = 0
streamCaptureModeThreadLocal = 1
streamCaptureModeRelaxed = 2


def deviceSynchronize() -> None:
    """Wait for the device; launches have ended when they return."""
    get_current_stream().check_not_capturing("deviceSynchronize")


def deviceSetLimit(limit: int, value: int) -> None:
    """Set the bytes of a thread's stack or of the heap, as `emulator.limits` does.

    Raises:
        EmulatorError: the limit is another one.
    """
    limits(**{_limit(limit): value})


def deviceGetLimit(limit: int) -> int:
    """Return the bytes of a thread's stack or of the heap."""
    return int(getattr(current(), _limit(limit)))


def _limit(limit: int) -> str:
    if limit not in _LIMITS:
        raise EmulatorError(f"limit is {limit}: the emulated device has cudaLimitStackSize and cudaLimitMallocHeapSize")
    return _LIMITS[limit]


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
