"""CuPy's runtime module, `cupy_backends.cuda.api.runtime`, on the virtual device.

That module has NVIDIA's CUDA runtime inside, which accepts no driver but NVIDIA's. So its functions are replaced by
those below, of the same names and arguments, which do the work as the driver does it. CuPy's compiled modules find them
where Cython keeps C functions for others, Python code as attributes of the module.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from gpubp.emulator.driver import allocations, contexts, devices, pools, results, streams
from gpubp.emulator.driver.cupy_thunks import INT, Served, name_of, replace
from gpubp.emulator.driver.results import DriverError, driver_error
from gpubp.emulator.errors import EmulatorError
from gpubp.emulator.limits import current as current_limits
from gpubp.emulator.limits import limits

TESTED = "14.2."
"""The CuPy versions that this was tested with: what their functions are and take is no interface for others."""

_SERVED: dict[str, Served] = {}
_PYTHON_ONLY: dict[str, Callable[..., Any]] = {}
_KEPT = {"make_Extent", "make_PitchedPtr", "make_Pos"}
"""Functions that only fill a structure."""

_cupy: list[ModuleType] = []
"""CuPy's module, once it is there."""


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
    known = _SERVED.keys() | _KEPT
    unknown = sorted(name for name in capsules if name not in known and name_of(capsules[name]) != "int")
    if unknown:
        raise EmulatorError(f"{of}: the virtual device does not know the functions {', '.join(unknown)}")
    replace(capsules, _SERVED, of)
    module.CUDARuntimeError = _error_class(module.CUDARuntimeError)
    _cupy[:] = [module]
    for name, function in {**{name: each.function for name, each in _SERVED.items()}, **_PYTHON_ONLY}.items():
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


# --- errors -----------------------------------------------------------------------------------------------------------
_RUNTIME_NAMES = {
    2: "cudaErrorMemoryAllocation",
    3: "cudaErrorInitializationError",
    4: "cudaErrorCudartUnloading",
    200: "cudaErrorInvalidKernelImage",
    201: "cudaErrorDeviceUninitialized",
    209: "cudaErrorNoKernelImageForDevice",
    218: "cudaErrorInvalidPtx",
    400: "cudaErrorInvalidResourceHandle",
    500: "cudaErrorSymbolNotFound",
    719: "cudaErrorLaunchFailure",
}
"""Results that the runtime calls other than the driver, by the documentation's enum cudaError."""


def _runtime_name(status: int) -> str:
    """Return the runtime's name of a result: "cudaErrorInvalidValue" for CUDA_ERROR_INVALID_VALUE."""
    if status in _RUNTIME_NAMES:
        return _RUNTIME_NAMES[status]
    words = results.NAMES.get(status, "CUDA_ERROR_UNKNOWN").split("_")
    return words[0].lower() + "".join(word.capitalize() for word in words[1:])


def _error_class(original: type[RuntimeError]) -> type[RuntimeError]:
    """Return CuPy's class of errors, with the emulator's whole message; the original asks NVIDIA's runtime."""

    class CUDARuntimeError(original):  # type: ignore[misc,valid-type]
        """An error of a CUDA runtime function; `status` is its number."""

        def __init__(self, status: int, message: str = "") -> None:
            self.status = int(status)
            self.message = message or results.explain(self.status)
            RuntimeError.__init__(self, f"{_runtime_name(self.status)}: {self.message}")

        def __reduce__(self) -> tuple[Any, ...]:
            return type(self), (self.status, self.message)

    CUDARuntimeError.__module__ = original.__module__
    CUDARuntimeError.__qualname__ = original.__qualname__
    return CUDARuntimeError


def _raise(error: BaseException) -> None:
    """Raise what CuPy expects for an error of the driver's or the emulator's."""
    found = driver_error(error)
    results.remember(found)
    raise _cupy[0].CUDARuntimeError(found.number) from None


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that raises CuPy's errors."""

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except (DriverError, EmulatorError) as error:
            return _raise(error)

    return call


def serve(sentinel: str = "", optional: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Serve a function of CuPy's runtime, to C code and to Python; see `Served`."""

    def note(function: Callable[..., Any]) -> Callable[..., Any]:
        guarded = _guarded(function)
        _SERVED[function.__name__] = Served(guarded, sentinel, *([optional] if optional else []))
        return guarded

    return note


def _serve_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """Serve a function that only Python code calls."""
    _PYTHON_ONLY[function.__name__] = _guarded(function)
    return function


def _refuse(what: str, *names: str, python_only: bool = False) -> None:
    """Serve functions by an error that says what the virtual device does not have."""
    note = _serve_python if python_only else serve()
    for name in names:

        def refused(*arguments: Any, _name: str = name, **named: Any) -> None:
            raise DriverError("CUDA_ERROR_NOT_SUPPORTED", f"{_name}: the virtual device has no {what}")

        refused.__name__ = refused.__qualname__ = name
        note(refused)


# --- versions and the device ------------------------------------------------------------------------------------------
@serve()
def check_status(status: int) -> None:
    """Raise the error of a status that is not 0."""
    if status:
        raise _cupy[0].CUDARuntimeError(status)


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


@_serve_python
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


_refuse("second device", "deviceEnablePeerAccess", "_deviceEnsurePeerAccess")
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


# --- memory -----------------------------------------------------------------------------------------------------------
@serve()
def malloc(size: int) -> int:
    """Return the address of new device memory; 0 for no bytes."""
    contexts.make_primary_current()
    return allocations.allocate(size) if size else 0


@serve()
def mallocManaged(size: int, flags: int = 1) -> int:
    """Return the address of new managed memory."""
    contexts.make_primary_current()
    return allocations.allocate_managed(size, flags)


@serve()
def hostAlloc(size: int, flags: int) -> int:
    """Return the address of new pinned memory; 0 for no bytes."""
    contexts.make_primary_current()
    return allocations.allocate_host(size, flags) if size else 0


@serve()
def mallocAsync(size: int, stream: int) -> int:
    """Return the address of new memory of the device's pool."""
    return pools.allocate(pools.current(), size, stream)


@serve()
def mallocFromPoolAsync(size: int, pool: int, stream: int) -> int:
    """Return the address of new memory of a pool."""
    return pools.allocate(pool, size, stream)


@serve()
def free(ptr: int) -> None:
    """Free device or managed memory."""
    allocations.free(ptr)


@serve()
def freeAsync(ptr: int, stream: int) -> None:
    """Free memory in a stream, whose work so far is done."""
    allocations.free_in(stream, ptr)


@serve()
def freeHost(ptr: int) -> None:
    """Free pinned memory."""
    allocations.free(ptr, (allocations.HOST,))


@serve()
def hostRegister(ptr: int, size: int, flags: int) -> None:
    """Note memory of the host as page-locked."""
    allocations.register(ptr, size, flags)


@serve()
def hostUnregister(ptr: int) -> None:
    """Forget that memory of the host was registered."""
    allocations.unregister(ptr)


@serve()
def memGetInfo() -> tuple[int, int]:
    """Return the bytes that can still be allocated, and all bytes."""
    contexts.make_primary_current()
    return allocations.free_and_total()


HOST_TO_HOST, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, DEFAULT = range(5)
"""Where a copy leads, by the numbers of the documentation's enum cudaMemcpyKind."""


def _check_kind(dst: int, src: int, kind: int) -> None:
    """Refuse a copy whose kind is not that of its pointers."""
    if kind == DEFAULT:
        return
    if not 0 <= kind < DEFAULT:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"kind is {kind}: it must be 0 to 4")
    for name, address, is_device in (
        ("dst", dst, kind in (HOST_TO_DEVICE, DEVICE_TO_DEVICE)),
        ("src", src, kind in (DEVICE_TO_HOST, DEVICE_TO_DEVICE)),
    ):
        found = allocations.kind_of(address)
        if is_device and not allocations.is_device(address):
            raise DriverError("CUDA_ERROR_INVALID_VALUE", f"kind is {kind}, and {name}, {address:#x}, is of the host")
        if not is_device and found == allocations.DEVICE:
            raise DriverError("CUDA_ERROR_INVALID_VALUE", f"kind is {kind}, and {name}, {address:#x}, is device memory")


@serve()
def memcpy(dst: int, src: int, size: int, kind: int) -> None:
    """Copy bytes."""
    memcpyAsync(dst, src, size, kind, 0)


@serve()
def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    """Copy bytes in a stream."""
    if size:
        _check_kind(dst, src, kind)
    allocations.copy(dst, src, size, stream)


@serve()
def memcpyPeer(dst: int, dstDevice: int, src: int, srcDevice: int, size: int) -> None:
    """Copy bytes from a device to itself."""
    memcpyPeerAsync(dst, dstDevice, src, srcDevice, size, 0)


@serve()
def memcpyPeerAsync(dst: int, dstDevice: int, src: int, srcDevice: int, size: int, stream: int) -> None:
    """Copy bytes from a device to itself, in a stream."""
    devices.check_ordinal(dstDevice)
    devices.check_ordinal(srcDevice)
    allocations.copy(dst, src, size, stream)


@serve()
def memcpy2D(dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: int) -> None:
    """Copy rows."""
    memcpy2DAsync(dst, dpitch, src, spitch, width, height, kind, 0)


@serve()
def memcpy2DAsync(
    dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: int, stream: int
) -> None:
    """Copy rows in a stream."""
    if width and height:
        _check_kind(dst, src, kind)
    allocations.copy_rows(dst, dpitch, src, spitch, width, height, stream)


@serve()
def memset(ptr: int, value: int, size: int) -> None:
    """Set bytes."""
    allocations.fill(ptr, value, 1, size)


@serve()
def memsetAsync(ptr: int, value: int, size: int, stream: int) -> None:
    """Set bytes in a stream."""
    allocations.fill(ptr, value, 1, size, stream)


_CPU = -1  # cudaCpuDeviceId


@serve()
def memPrefetchAsync(devPtr: int, count: int, dstDevice: int, stream: int) -> None:
    """Do nothing to memory that there is: it is where it is used."""
    _check_place(dstDevice)
    streams.stream(stream)
    allocations.extent(devPtr)


@serve()
def memAdvise(devPtr: int, count: int, advice: int, device: int) -> None:
    """Do nothing to memory that there is."""
    _check_place(device)
    if not 1 <= advice <= 6:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"advice is {advice}: it must be 1 to 6")
    allocations.extent(devPtr)


def _check_place(device: int) -> None:
    if device != _CPU:
        devices.check_ordinal(device)


_UNREGISTERED, _HOST_MEMORY, _DEVICE_MEMORY, _MANAGED_MEMORY = range(4)
_TYPES = {
    "": _UNREGISTERED,
    allocations.HOST: _HOST_MEMORY,
    allocations.DEVICE: _DEVICE_MEMORY,
    allocations.MANAGED: _MANAGED_MEMORY,
}
_NO_DEVICE = -2  # cudaInvalidDeviceId


@serve()
def pointerGetAttributes(ptr: int) -> Any:
    """Return what is known of a pointer: nothing of memory of the host that is not pinned."""
    kind = allocations.kind_of(ptr)
    host = 0 if kind == allocations.DEVICE else ptr
    return _cupy[0].PointerAttributes(0 if kind else _NO_DEVICE, ptr if kind else 0, host, _TYPES[kind])


@serve()
def pointerGetMemoryType(ptr: int) -> int:
    """Return the type of the memory that a pointer leads to."""
    return _TYPES[allocations.kind_of(ptr)]


@serve()
def deviceGetDefaultMemPool(device: int) -> int:
    """Return the handle of the pool that a device has from the start."""
    devices.check_ordinal(device)
    return pools.DEFAULT


@serve()
def deviceGetMemPool(device: int) -> int:
    """Return the handle of the pool that `mallocAsync` takes memory from."""
    devices.check_ordinal(device)
    return pools.current()


@serve()
def deviceSetMemPool(device: int, pool: int) -> None:
    """Set the pool that `mallocAsync` takes memory from."""
    devices.check_ordinal(device)
    pools.set_current(pool)


@serve()
def memPoolCreate(props: Any) -> int:
    """Return the handle of a new pool."""
    return pools.create()


@serve()
def memPoolDestroy(pool: int) -> None:
    """Forget a pool; what was allocated from it stays."""
    pools.destroy(pool)


@serve()
def memPoolTrimTo(pool: int, size: int) -> None:
    """Do nothing to a pool that there is: freed memory is given back at once."""
    pools.attribute(pool, pools.USED)


@serve()
def memPoolGetAttribute(pool: int, attr: int) -> int:
    """Return an attribute of a pool."""
    return pools.attribute(pool, attr)


@serve()
def memPoolSetAttribute(pool: int, attr: int, value: int) -> None:
    """Set an attribute of a pool."""
    pools.set_attribute(pool, attr, value)


# --- streams and events -----------------------------------------------------------------------------------------------
@serve()
def streamCreate() -> int:
    """Return the handle of a new stream."""
    return streamCreateWithPriority(0, 0)


@serve()
def streamCreateWithFlags(flags: int) -> int:
    """Return the handle of a new stream."""
    return streamCreateWithPriority(flags, 0)


@serve()
def streamCreateWithPriority(flags: int, priority: int) -> int:
    """Return the handle of a new stream."""
    contexts.make_primary_current()
    return streams.create_stream(flags, priority)


@serve()
def streamGetFlags(stream: int) -> int:
    """Return the flags of a stream."""
    return streams.stream(stream).flags


@serve(sentinel="0")
def streamGetPriority(stream: int) -> int:
    """Return the priority of a stream."""
    return streams.stream(stream).priority


@serve()
def streamDestroy(stream: int) -> None:
    """Forget a stream."""
    streams.destroy_stream(stream)


@serve()
def streamSynchronize(stream: int) -> None:
    """Wait for a stream's work: it is done."""
    streams.synchronize(stream)


def _status(query: Callable[[int], None], handle: int) -> int:
    """Return what a question about work returns: a number, and no error."""
    try:
        query(handle)
    except DriverError as error:
        results.remember(error)
        return error.number
    return 0


@serve()
def streamQuery(stream: int) -> int:
    """Return 0: a stream's work is done. Otherwise the number of an error."""
    return _status(streams.query, stream)


@serve()
def streamWaitEvent(stream: int, event: int, flags: int = 0) -> None:
    """Let a stream wait for an event."""
    streams.wait_event(stream, event, flags)


def _call_back(function: Callable[..., Any], *arguments: Any) -> None:
    """Call a function of the program's. Its exceptions are shown and go no further, as it is a stream that calls."""
    try:
        function(*arguments)
    except Exception:
        sys.excepthook(*sys.exc_info())


@serve()
def streamAddCallback(stream: int, callback: Callable[..., Any], arg: Any, flags: int = 0) -> None:
    """Call `callback(stream, 0, arg)` after a stream's work."""
    streams.check_not_capturing("a callback is added")
    streams.call_host(stream, functools.partial(_call_back, callback, stream, 0, arg))


@serve()
def launchHostFunc(stream: int, callback: Callable[..., Any], arg: Any) -> None:
    """Call `callback(arg)` after a stream's work."""
    streams.call_host(stream, functools.partial(_call_back, callback, arg))


@serve()
def _launchHostFuncUnmanaged(stream: int, func_arg: tuple[Callable[..., Any], Any]) -> None:
    launchHostFunc(stream, *func_arg)


@serve(optional=INT)
def streamBeginCapture(stream: int, mode: int = streams.CAPTURE_MODE_RELAXED) -> None:
    """Record a stream's work from here on."""
    streams.begin_capture(stream, mode)


@serve()
def streamEndCapture(stream: int) -> int:
    """Return the handle of the graph that a stream has recorded."""
    return streams.end_capture(stream)


@serve()
def streamIsCapturing(stream: int) -> bool:
    """Return True if a stream is capturing.

    Raises:
        RuntimeError: an error has spoilt the capture.
    """
    status, _ = streams.capture_status(stream)
    if status == 2:
        raise RuntimeError("the stream was capturing, but an error has invalidated the capture sequence")
    return bool(status)


@serve()
def eventCreate() -> int:
    """Return the handle of a new event."""
    return eventCreateWithFlags(0)


@serve()
def eventCreateWithFlags(flags: int) -> int:
    """Return the handle of a new event."""
    contexts.make_primary_current()
    return streams.create_event(flags)


@serve()
def eventDestroy(event: int) -> None:
    """Forget an event."""
    streams.destroy_event(event)


@serve()
def eventElapsedTime(start: int, end: int) -> float:
    """Refuse to measure time.

    Raises:
        CUDARuntimeError: always.
    """
    return streams.elapsed(start, end)


@serve()
def eventQuery(event: int) -> int:
    """Return 0: an event has happened. Otherwise the number of an error."""
    return _status(streams.query_event, event)


@serve()
def eventRecord(event: int, stream: int) -> None:
    """Record an event in a stream."""
    streams.record_event(event, stream)


@serve()
def eventSynchronize(event: int) -> None:
    """Wait for an event: it has happened."""
    streams.synchronize_event(event)


# --- graphs -----------------------------------------------------------------------------------------------------------
@serve()
def graphDestroy(graph: int) -> None:
    """Forget a graph."""
    streams.destroy_graph(graph)


@serve()
def graphExecDestroy(graphExec: int) -> None:
    """Forget an executable graph."""
    streams.destroy_executable(graphExec)


@serve()
def graphInstantiate(graph: int) -> int:
    """Return the handle of an executable copy of a graph."""
    return streams.instantiate(graph)


@serve()
def graphLaunch(graphExec: int, stream: int) -> None:
    """Do the work of an executable graph."""
    streams.launch_graph(graphExec, stream)


@serve()
def graphUpload(graphExec: int, stream: int) -> None:
    """Do nothing to an executable graph that there is."""
    streams.upload_graph(graphExec, stream)


# --- what the virtual device does not have ----------------------------------------------------------------------------
_refuse("pictures of graphs", "graphDebugDotPrint")
_refuse(
    "CUDA arrays",
    "malloc3DArray",
    "mallocArray",
    "freeArray",
    "memcpy2DFromArray",
    "memcpy2DFromArrayAsync",
    "memcpy2DToArray",
    "memcpy2DToArrayAsync",
    "memcpy3D",
    "memcpy3DAsync",
    "getChannelDesc",
)
_refuse(
    "textures and surfaces",
    "createTextureObject",
    "destroyTextureObject",
    "getTextureObjectResourceDesc",
    "getTextureObjectTextureDesc",
    "createSurfaceObject",
    "destroySurfaceObject",
)
_refuse(
    "memory shared between processes",
    "ipcCloseMemHandle",
    "ipcGetEventHandle",
    "ipcGetMemHandle",
    "ipcOpenEventHandle",
    "ipcOpenMemHandle",
    python_only=True,
)
_refuse("second device", "deviceDisablePeerAccess", python_only=True)
