"""Versions, the device and its limits."""

from __future__ import annotations

from typing import Any

from gpubp.emulator.driver import allocations, contexts, devices, streams
from gpubp.emulator.driver.cupy.runtime.serving import CUPY, refuse, serve, serve_python
from gpubp.emulator.driver.results import DriverError
from gpubp.emulator.limits import current as current_limits
from gpubp.emulator.limits import limits


@serve()
def check_status(status: int) -> None:
    """Raise the error of a status that is not 0."""
    if status:
        raise CUPY[0].CUDARuntimeError(status)


@serve()
def driverGetVersion() -> int:
    """Return the driver's CUDA version."""
    return devices.DRIVER_VERSION


@serve()
def runtimeGetVersion() -> int:
    """Return the CUDA version that CuPy was built with."""
    from cupy_backends.cuda.api import driver

    return driver.get_build_version()


@serve()
def _getCUDAMajorVersion() -> int:
    return runtimeGetVersion() // 1000


@serve_python
def _getLocalRuntimeVersion() -> int:
    return runtimeGetVersion()


@serve()
def getDevice() -> int:
    """Return the number of the current device."""
    return 0


@serve()
def getDeviceCount() -> int:
    """Return how many devices there are: one."""
    return 1


@serve()
def setDevice(device: int) -> None:
    """Make a device the current one, and its context."""
    devices.check_ordinal(device)
    contexts.make_primary_current()


@serve()
def _ensure_context() -> None:
    contexts.make_primary_current()


@serve()
def deviceGetAttribute(attrib: int, device: int) -> int:
    """Return an attribute; the runtime numbers them as the driver does."""
    devices.check_ordinal(device)
    return devices.attribute(attrib)


@serve()
def deviceGetPCIBusId(device: int) -> str:
    """Return the address of a device on its bus."""
    devices.check_ordinal(device)
    return devices.PCI_BUS_ID


@serve()
def deviceGetByPCIBusId(pci_bus_id: str) -> int:
    """Return the device at an address."""
    if pci_bus_id != devices.PCI_BUS_ID:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"pci_bus_id is {pci_bus_id!r}: it is {devices.PCI_BUS_ID!r}")
    return 0


@serve()
def deviceSynchronize() -> None:
    """Wait for the device's work: it is done."""
    contexts.make_primary_current()
    streams.check_not_capturing("the device is synchronized")


_LIMITS = {0: "stack", 2: "heap"}  # cudaLimitStackSize, cudaLimitMallocHeapSize


def _limit(number: int) -> str:
    if number not in _LIMITS:
        raise DriverError(
            "CUDA_ERROR_NOT_SUPPORTED", f"limit is {number}: the virtual device has those of stack and heap"
        )
    return _LIMITS[number]


@serve(sentinel="-1")
def deviceGetLimit(limit: int) -> int:
    """Return a limit, in bytes."""
    return int(getattr(current_limits(), _limit(limit)))


@serve()
def deviceSetLimit(limit: int, value: int) -> None:
    """Set a limit, in bytes."""
    limits(**{_limit(limit): value})


@serve()
def deviceCanAccessPeer(device: int, peerDevice: int) -> int:
    """Return 0: there is one device."""
    devices.check_ordinal(device)
    devices.check_ordinal(peerDevice)
    return 0


refuse("second device", "deviceEnablePeerAccess", "_deviceEnsurePeerAccess")
_PROPERTIES = {
    "sharedMemPerBlock": 8,
    "regsPerBlock": 12,
    "warpSize": 10,
    "maxThreadsPerBlock": 1,
    "clockRate": 13,
    "totalConstMem": 9,
    "textureAlignment": 14,
    "texturePitchAlignment": 51,
    "multiProcessorCount": 16,
    "kernelExecTimeoutEnabled": 17,
    "integrated": 18,
    "canMapHostMemory": 19,
    "computeMode": 20,
    "maxTexture1D": 21,
    "concurrentKernels": 31,
    "ECCEnabled": 32,
    "pciBusID": 33,
    "pciDeviceID": 34,
    "pciDomainID": 50,
    "tccDriver": 35,
    "memoryClockRate": 36,
    "memoryBusWidth": 37,
    "l2CacheSize": 38,
    "maxThreadsPerMultiProcessor": 39,
    "isMultiGpuBoard": 84,
    "cooperativeLaunch": 95,
    "maxTexture1DMipmap": 77,
    "maxTextureCubemap": 52,
    "maxSurface1D": 55,
    "maxSurfaceCubemap": 66,
    "surfaceAlignment": 30,
    "asyncEngineCount": 40,
    "unifiedAddressing": 41,
    "streamPrioritiesSupported": 78,
    "globalL1CacheSupported": 79,
    "localL1CacheSupported": 80,
    "sharedMemPerMultiprocessor": 81,
    "regsPerMultiprocessor": 82,
    "managedMemory": 83,
    "multiGpuBoardGroupID": 85,
    "hostNativeAtomicSupported": 86,
    "pageableMemoryAccess": 88,
    "concurrentManagedAccess": 89,
    "computePreemptionSupported": 90,
    "canUseHostPointerForRegisteredMem": 91,
    "sharedMemPerBlockOptin": 97,
    "pageableMemoryAccessUsesHostPageTables": 100,
    "directManagedMemAccessFromHost": 101,
    "persistingL2CacheMaxSize": 108,
    "maxBlocksPerMultiProcessor": 106,
    "accessPolicyMaxWindowSize": 109,
    "reservedSharedMemPerBlock": 111,
    "deviceOverlap": 15,
    "maxTexture1DLinear": 69,
    "singleToDoublePrecisionPerfRatio": 87,
}
"""The properties that are attributes, by the numbers of the documentation's enum cudaDeviceAttr."""
_SIZES = {
    "maxTexture2D": (22, 23),
    "maxTexture3D": (24, 25, 26),
    "maxTexture1DLayered": (42, 43),
    "maxTexture2DMipmap": (73, 74),
    "maxTexture2DLinear": (70, 71, 72),
    "maxTexture2DLayered": (27, 28, 29),
    "maxTexture2DGather": (45, 46),
    "maxTexture3DAlt": (47, 48, 49),
    "maxTextureCubemapLayered": (53, 54),
    "maxSurface1DLayered": (61, 62),
    "maxSurface2D": (56, 57),
    "maxSurface2DLayered": (63, 64, 65),
    "maxSurface3D": (58, 59, 60),
    "maxThreadsDim": (2, 3, 4),
    "maxGridSize": (5, 6, 7),
}


@serve()
def getDeviceProperties(device: int) -> dict[str, Any]:
    """Return what CuPy says of a device. What it does not have, such as a clock, is 0."""
    devices.check_ordinal(device)
    major, minor = devices.capability()
    return {
        "name": devices.name().encode(),
        "totalGlobalMem": allocations.free_and_total()[1],
        "major": major,
        "minor": minor,
        "cooperativeMultiDeviceLaunch": False,
        "uuid": devices.UUID,
        "luid": b"",
        "luidDeviceNodeMask": 0,
        **{name: devices.attribute(number) for name, number in _PROPERTIES.items()},
        **{name: tuple(devices.attribute(number) for number in numbers) for name, numbers in _SIZES.items()},
    }


@serve()
def profilerStart() -> None:
    """Do nothing: there is no profiler to start."""


@serve()
def profilerStop() -> None:
    """Do nothing: there is no profiler to stop."""
