"""The functions of the CUDA driver API that the virtual device has, by the names and arguments of its documentation.

Each turns C's arguments into Python's and calls the module that does the work. There is one device and one context at a
time that matters: contexts are told apart only by their handles.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gpubp.emulator.driver import allocations, devices, images, library, linking, modules, pools, results, streams
from gpubp.emulator.driver.calls import (
    ENUM,
    EXPORTS,
    FLOAT,
    HANDLE,
    INT,
    LOCATION,
    POINTER,
    SIZE,
    TEXT,
    UINT,
    UINT8,
    UINT16,
    UINT64,
    add,
    export,
    find,
    is_known,
    to,
)
from gpubp.emulator.driver.contexts import CONTEXTS as _contexts
from gpubp.emulator.driver.contexts import PRIMARY
from gpubp.emulator.driver.contexts import stack as _stack
from gpubp.emulator.driver.results import DriverError
from gpubp.emulator.limits import current as current_limits
from gpubp.emulator.limits import limits as set_limits


def _text(address: int) -> str:
    return ctypes.string_at(address).decode()


def _required(address: int, name: str) -> int:
    """Return an address that must not be null."""
    if not address:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"{name} is a null pointer")
    return address


def _write(address: int, kind: Any, value: Any) -> None:
    """Write a value at an address of the program's, unless that is null."""
    if address:
        kind.from_address(address).value = value


# --- errors and versions ----------------------------------------------------------------------------------------------
_texts: dict[str, ctypes.Array[ctypes.c_char]] = {}
"""What was returned as a pointer: it must stay."""


def _lasting(text: str) -> int:
    """Return the address of a text that stays as long as the process."""
    if text not in _texts:
        _texts[text] = ctypes.create_string_buffer(text.encode())
    return ctypes.addressof(_texts[text])


@export("cuGetErrorString", 6000, ENUM, to(POINTER))
def _(error: int, text: Any) -> None:
    if error not in results.NAMES:
        text[0] = 0
        raise DriverError("CUDA_ERROR_INVALID_VALUE")
    text[0] = _lasting(results.explain(error))


@export("cuGetErrorName", 6000, ENUM, to(POINTER))
def _(error: int, text: Any) -> None:
    if error not in results.NAMES:
        text[0] = 0
        raise DriverError("CUDA_ERROR_INVALID_VALUE")
    text[0] = _lasting(results.NAMES[error])


@export("cuInit", 2000, UINT)
def _(flags: int) -> None:
    if flags:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"Flags is {flags}: it must be 0")


@export("cuDriverGetVersion", 2020, to(INT))
def _(version: Any) -> None:
    version[0] = devices.DRIVER_VERSION


_FOUND, _NOT_FOUND, _TOO_OLD = 0, 1, 2
_LEGACY_STREAM, _PER_THREAD_STREAM = 1, 2


def _procedure(name: bytes, address: Any, version: int, flags: int) -> int:
    address[0] = 0
    if version > devices.DRIVER_VERSION:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"cudaVersion is {version}: it is {devices.DRIVER_VERSION} here")
    if flags not in (0, _LEGACY_STREAM, _PER_THREAD_STREAM):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0, 1 or 2")
    base = name.decode()
    found = find(base, version, flags == _PER_THREAD_STREAM)
    if found is None:
        return _TOO_OLD if is_known(base) else _NOT_FOUND
    address[0] = library.address(found.name)
    return _FOUND


@export("cuGetProcAddress", 11030, TEXT, to(POINTER), INT, UINT64)
def _(name: bytes, address: Any, version: int, flags: int) -> None:
    if _procedure(name, address, version, flags) != _FOUND:
        raise DriverError("CUDA_ERROR_NOT_FOUND", f"the virtual device has no {name.decode()} of CUDA {version}")


@export("cuGetProcAddress_v2", 12000, TEXT, to(POINTER), INT, UINT64, POINTER)
def _(name: bytes, address: Any, version: int, flags: int, status: int) -> None:
    """As documented, a name that is not found is no error of this one: the address is null, and the status says so."""
    _write(status, INT, _procedure(name, address, version, flags))


@export("cuGetExportTable", 3000, to(POINTER), POINTER)
def _(table: Any, identity: int) -> None:
    """Only what is documented is served; these tables are private."""
    table[0] = 0
    raise DriverError("CUDA_ERROR_NOT_FOUND", "the virtual device has no private tables of functions")


# --- devices ----------------------------------------------------------------------------------------------------------
@export("cuDeviceGet", 2000, to(INT), INT)
def _(device: Any, ordinal: int) -> None:
    device[0] = devices.check_ordinal(ordinal)


@export("cuDeviceGetCount", 2000, to(INT))
def _(count: Any) -> None:
    count[0] = 1


def _write_text(text: str, address: int, nbytes: int) -> None:
    if nbytes < 1:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"len is {nbytes}: it must be at least 1")
    data = text.encode()[: nbytes - 1] + b"\0"
    ctypes.memmove(_required(address, "the text"), data, len(data))


@export("cuDeviceGetName", 2000, POINTER, INT, INT)
def _(name: int, length: int, device: int) -> None:
    devices.check_ordinal(device)
    _write_text(devices.name(), name, length)


@export("cuDeviceGetUuid", 9020, POINTER, INT)
@export("cuDeviceGetUuid_v2", 11040, POINTER, INT)
def _(uuid: int, device: int) -> None:
    devices.check_ordinal(device)
    ctypes.memmove(_required(uuid, "uuid"), devices.UUID, 16)


@export("cuDeviceTotalMem_v2", 3020, to(SIZE), INT)
def _(nbytes: Any, device: int) -> None:
    devices.check_ordinal(device)
    nbytes[0] = allocations.free_and_total()[1]


@export("cuDeviceGetAttribute", 2000, to(INT), ENUM, INT)
def _(value: Any, attribute: int, device: int) -> None:
    devices.check_ordinal(device)
    value[0] = devices.attribute(attribute)


@export("cuDeviceComputeCapability", 2000, to(INT), to(INT), INT)
def _(major: Any, minor: Any, device: int) -> None:
    devices.check_ordinal(device)
    major[0], minor[0] = devices.capability()


@export("cuDeviceGetPCIBusId", 4010, POINTER, INT, INT)
def _(text: int, length: int, device: int) -> None:
    devices.check_ordinal(device)
    _write_text(devices.PCI_BUS_ID, text, length)


@export("cuDeviceGetByPCIBusId", 4010, to(INT), TEXT)
def _(device: Any, text: bytes) -> None:
    if text.decode() != devices.PCI_BUS_ID:
        raise DriverError("CUDA_ERROR_INVALID_DEVICE", f"pciBusId is {text.decode()!r}: it is {devices.PCI_BUS_ID!r}")
    device[0] = 0


@export("cuDeviceCanAccessPeer", 4000, to(INT), INT, INT)
def _(can: Any, device: int, peer: int) -> None:
    devices.check_ordinal(device)
    devices.check_ordinal(peer)
    can[0] = 0


# --- contexts ---------------------------------------------------------------------------------------------------------
_primary = {"retained": 0, "flags": 0}


def _current() -> int:
    if not _stack():
        raise DriverError("CUDA_ERROR_INVALID_CONTEXT", "no context is current in this thread")
    return _stack()[-1]


@export("cuDevicePrimaryCtxRetain", 7000, to(HANDLE), INT)
def _(context: Any, device: int) -> None:
    devices.check_ordinal(device)
    _primary["retained"] += 1
    context[0] = PRIMARY


@export("cuDevicePrimaryCtxRelease", 7000, INT)
@export("cuDevicePrimaryCtxRelease_v2", 11000, INT)
def _(device: int) -> None:
    devices.check_ordinal(device)
    if not _primary["retained"]:
        raise DriverError("CUDA_ERROR_INVALID_CONTEXT", "the primary context is not retained")
    _primary["retained"] -= 1


@export("cuDevicePrimaryCtxReset", 7000, INT)
@export("cuDevicePrimaryCtxReset_v2", 11000, INT)
def _(device: int) -> None:
    devices.check_ordinal(device)


@export("cuDevicePrimaryCtxGetState", 7000, INT, to(UINT), to(INT))
def _(device: int, flags: Any, active: Any) -> None:
    devices.check_ordinal(device)
    flags[0], active[0] = _primary["flags"], int(_primary["retained"] > 0)


@export("cuDevicePrimaryCtxSetFlags", 7000, INT, UINT)
@export("cuDevicePrimaryCtxSetFlags_v2", 11000, INT, UINT)
def _(device: int, flags: int) -> None:
    devices.check_ordinal(device)
    _primary["flags"] = flags


_CONTEXT_FLAGS = 0xFF


@export("cuCtxCreate_v2", 3020, to(HANDLE), UINT, INT)
def _create_context(context: Any, flags: int, device: int) -> None:
    devices.check_ordinal(device)
    if flags & ~_CONTEXT_FLAGS:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags:#x}: it must be of {_CONTEXT_FLAGS:#x}")
    context[0] = _contexts.add(flags)
    _stack().append(context[0])


@export("cuCtxCreate_v3", 11040, to(HANDLE), POINTER, INT, UINT, INT)
def _(context: Any, affinities: int, count: int, flags: int, device: int) -> None:
    if count:
        raise DriverError("CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", "a context of the virtual device has all of it")
    _create_context(context, flags, device)


class ContextParams(ctypes.Structure):
    """CUctxCreateParams of the documentation."""

    _fields_ = (("execAffinityParams", POINTER), ("numExecAffinityParams", INT), ("cigParams", POINTER))


@export("cuCtxCreate_v4", 12050, to(HANDLE), POINTER, UINT, INT)
def _(context: Any, params: int, flags: int, device: int) -> None:
    given = ContextParams.from_address(params) if params else ContextParams()
    if given.execAffinityParams or given.numExecAffinityParams:
        raise DriverError("CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY", "a context of the virtual device has all of it")
    if given.cigParams:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device shares no context with a graphics API")
    _create_context(context, flags, device)


@export("cuCtxDestroy_v2", 4000, HANDLE)
def _(context: int) -> None:
    if context == PRIMARY:
        raise DriverError("CUDA_ERROR_INVALID_CONTEXT", "ctx is the primary context: it is released, not destroyed")
    _contexts.remove(context)
    if _stack() and _stack()[-1] == context:
        _stack().pop()


@export("cuCtxPushCurrent_v2", 4000, HANDLE)
def _(context: int) -> None:
    _contexts[context]
    _stack().append(context)


@export("cuCtxPopCurrent_v2", 4000, POINTER)
def _(context: int) -> None:
    popped = _current()
    _stack().pop()
    _write(context, HANDLE, popped)


@export("cuCtxSetCurrent", 4000, HANDLE)
def _(context: int) -> None:
    if context:
        _contexts[context]
    if _stack():
        _stack().pop()
    if context:
        _stack().append(context)


@export("cuCtxGetCurrent", 4000, to(HANDLE))
def _(context: Any) -> None:
    context[0] = _stack()[-1] if _stack() else 0


@export("cuCtxGetDevice", 2000, to(INT))
def _(device: Any) -> None:
    _current()
    device[0] = 0


@export("cuCtxGetDevice_v2", 13000, to(INT), HANDLE)
def _(device: Any, context: int) -> None:
    _contexts[context or _current()]
    device[0] = 0


@export("cuCtxGetFlags", 7000, to(UINT))
def _(flags: Any) -> None:
    flags[0] = _primary["flags"] if _current() == PRIMARY else _contexts[_current()]


@export("cuCtxGetId", 12000, HANDLE, to(UINT64))
def _(context: int, number: Any) -> None:
    _contexts[context or _current()]
    number[0] = context or _current()


@export("cuCtxGetApiVersion", 3020, HANDLE, to(UINT))
def _(context: int, version: Any) -> None:
    _contexts[context or _current()]
    version[0] = 3020


@export("cuCtxSynchronize", 2000)
def _synchronize_all() -> None:
    _current()
    streams.check_not_capturing("the device is synchronized")


@export("cuCtxSynchronize_v2", 13000, HANDLE)
def _(context: int) -> None:
    _contexts[context or _current()]
    streams.check_not_capturing("the device is synchronized")


_LIMIT_NAMES = {0: "stack", 2: "heap"}  # CU_LIMIT_STACK_SIZE, CU_LIMIT_MALLOC_HEAP_SIZE
_hints = {1: 1 << 20, 4: 2048, 5: 64, 6: 0}
"""Limits that change nothing here: the buffer of printf, launches that wait, and two of caches."""


@export("cuCtxGetLimit", 3010, to(SIZE), ENUM)
def _(value: Any, limit: int) -> None:
    value[0] = _hints[limit] if limit in _hints else getattr(current_limits(), _limit_name(limit))


@export("cuCtxSetLimit", 3010, ENUM, SIZE)
def _(limit: int, value: int) -> None:
    if limit in _hints:
        _hints[limit] = value
    else:
        set_limits(**{_limit_name(limit): value})


def _limit_name(limit: int) -> str:
    if limit not in _LIMIT_NAMES:
        raise DriverError(
            "CUDA_ERROR_UNSUPPORTED_LIMIT", f"limit is {limit}: the virtual device has those of stack and heap"
        )
    return _LIMIT_NAMES[limit]


@export("cuCtxGetCacheConfig", 3020, to(INT))
@export("cuCtxGetSharedMemConfig", 4020, to(INT))
def _(config: Any) -> None:
    config[0] = 0


@export("cuCtxSetCacheConfig", 3020, ENUM)
@export("cuCtxSetSharedMemConfig", 4020, ENUM)
def _(config: int) -> None:
    """A preference, which changes nothing here."""


@export("cuCtxGetStreamPriorityRange", 5050, POINTER, POINTER)
def _(least: int, greatest: int) -> None:
    _write(least, INT, 0)
    _write(greatest, INT, -5)


@export("cuCtxEnablePeerAccess", 4000, HANDLE, UINT)
@export("cuCtxDisablePeerAccess", 4000, HANDLE)
def _(*_arguments: int) -> None:
    raise DriverError("CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "there is one device")


@export("cuProfilerStart", 4000)
@export("cuProfilerStop", 4000)
def _() -> None:
    """There is no profiler to start."""


# --- modules, libraries, kernels --------------------------------------------------------------------------------------
def _log_error(options: Mapping[int, int], error: DriverError) -> None:
    """Write what went wrong to the buffer that the options of a loading or linking name."""
    buffer, nbytes = options.get(linking.ERROR_LOG), options.get(linking.ERROR_LOG_BYTES, 0) & 0xFFFF_FFFF
    if buffer and nbytes:
        _write_text(str(error), buffer, nbytes)


def _load(make: Any, source: Any, count: int = 0, options: Any = None, values: Any = None) -> int:
    """Load an image; what is wrong with it is written to the buffer that the options name."""
    try:
        return modules.load(make(source))
    except DriverError as error:
        _log_error({options[i]: values[i] for i in range(count)}, error)
        raise


@export("cuModuleLoad", 2000, to(HANDLE), TEXT)
def _(module: Any, path: bytes) -> None:
    module[0] = _load(images.of_file, path.decode())


@export("cuModuleLoadData", 2000, to(HANDLE), POINTER)
@export("cuModuleLoadFatBinary", 2000, to(HANDLE), POINTER)
def _(module: Any, image: int) -> None:
    module[0] = _load(images.at, image)


@export("cuModuleLoadDataEx", 2010, to(HANDLE), POINTER, UINT, to(INT), to(POINTER))
def _(module: Any, image: int, count: int, options: Any, values: Any) -> None:
    module[0] = _load(images.at, image, count, options, values)


@export("cuModuleUnload", 2000, HANDLE)
@export("cuLibraryUnload", 12000, HANDLE)
def _(module: int) -> None:
    modules.unload(module)


@export("cuModuleGetLoadingMode", 11070, to(INT))
def _(mode: Any) -> None:
    mode[0] = 2  # CU_MODULE_LAZY_LOADING


@export("cuModuleGetFunction", 2000, to(HANDLE), HANDLE, TEXT)
@export("cuLibraryGetKernel", 12000, to(HANDLE), HANDLE, TEXT)
def _(function: Any, module: int, name: bytes) -> None:
    function[0] = modules.function(module, name.decode())


@export("cuModuleGetFunctionCount", 12040, to(UINT), HANDLE)
@export("cuLibraryGetKernelCount", 12040, to(UINT), HANDLE)
def _(count: Any, module: int) -> None:
    count[0] = len(modules.names(module))


@export("cuModuleEnumerateFunctions", 12040, to(HANDLE), UINT, HANDLE)
@export("cuLibraryEnumerateKernels", 12040, to(HANDLE), UINT, HANDLE)
def _(functions: Any, most: int, module: int) -> None:
    for index, name in enumerate(modules.names(module)[:most]):
        functions[index] = modules.function(module, name)


@export("cuModuleGetGlobal_v2", 3020, POINTER, POINTER, HANDLE, TEXT)
@export("cuLibraryGetGlobal", 12000, POINTER, POINTER, HANDLE, TEXT)
@export("cuLibraryGetManaged", 12000, POINTER, POINTER, HANDLE, TEXT)
def _(address: int, nbytes: int, module: int, name: bytes) -> None:
    found, size = modules.variable(module, name.decode())
    _write(address, UINT64, found)
    _write(nbytes, SIZE, size)


@export("cuLibraryLoadData", 12000, to(HANDLE), POINTER, to(INT), to(POINTER), UINT, to(INT), to(POINTER), UINT)
def _(lib: Any, code: int, options: Any, values: Any, count: int, _lo: Any, _lv: Any, _count: int) -> None:
    lib[0] = _load(images.at, code, count, options, values)


@export("cuLibraryLoadFromFile", 12000, to(HANDLE), TEXT, to(INT), to(POINTER), UINT, to(INT), to(POINTER), UINT)
def _(lib: Any, path: bytes, options: Any, values: Any, count: int, _lo: Any, _lv: Any, _count: int) -> None:
    lib[0] = _load(images.of_file, path.decode(), count, options, values)


@export("cuLibraryGetModule", 12000, to(HANDLE), HANDLE)
def _(module: Any, lib: int) -> None:
    modules.names(lib)
    module[0] = lib


@export("cuKernelGetFunction", 12000, to(HANDLE), HANDLE)
def _(function: Any, kernel: int) -> None:
    modules.name_of(kernel)
    function[0] = kernel


@export("cuKernelGetLibrary", 12050, to(HANDLE), HANDLE)
@export("cuFuncGetModule", 11000, to(HANDLE), HANDLE)
def _(module: Any, function: int) -> None:
    module[0] = modules.module_of(function)


@export("cuKernelGetName", 12030, to(POINTER), HANDLE)
@export("cuFuncGetName", 12030, to(POINTER), HANDLE)
def _(name: Any, function: int) -> None:
    name[0] = _lasting(modules.name_of(function))


@export("cuKernelGetParamInfo", 12040, HANDLE, SIZE, to(SIZE), POINTER)
@export("cuFuncGetParamInfo", 12040, HANDLE, SIZE, to(SIZE), POINTER)
def _(function: int, index: int, offset: Any, nbytes: int) -> None:
    offset[0], size = modules.parameter(function, index)
    _write(nbytes, SIZE, size)


@export("cuKernelGetParamCount", 13020, HANDLE, to(SIZE))
@export("cuFuncGetParamCount", 13020, HANDLE, to(SIZE))
def _(function: int, count: Any) -> None:
    count[0] = len(modules.parameters(function))


@export("cuFuncGetAttribute", 2020, to(INT), ENUM, HANDLE)
def _(value: Any, attribute: int, function: int) -> None:
    value[0] = modules.attribute(function, attribute)


@export("cuFuncSetAttribute", 9000, HANDLE, ENUM, INT)
def _(function: int, attribute: int, value: int) -> None:
    modules.set_attribute(function, attribute, value)


@export("cuKernelGetAttribute", 12000, to(INT), ENUM, HANDLE, INT)
def _(value: Any, attribute: int, kernel: int, device: int) -> None:
    value[0] = modules.attribute(kernel, attribute)


@export("cuKernelSetAttribute", 12000, ENUM, INT, HANDLE, INT)
def _(attribute: int, value: int, kernel: int, device: int) -> None:
    modules.set_attribute(kernel, attribute, value)


@export("cuFuncSetCacheConfig", 3000, HANDLE, ENUM)
@export("cuFuncSetSharedMemConfig", 4020, HANDLE, ENUM)
def _(function: int, config: int) -> None:
    modules.name_of(function)


@export("cuKernelSetCacheConfig", 12000, HANDLE, ENUM, INT)
def _(kernel: int, config: int, device: int) -> None:
    modules.name_of(kernel)


@export("cuFuncLoad", 12040, HANDLE)
def _(function: int) -> None:
    modules.name_of(function)


@export("cuFuncIsLoaded", 12040, to(INT), HANDLE)
def _(state: Any, function: int) -> None:
    modules.name_of(function)
    state[0] = 1


# --- linking ----------------------------------------------------------------------------------------------------------
@export("cuLinkCreate_v2", 6050, UINT, to(INT), to(POINTER), to(HANDLE))
def _(count: int, options: Any, values: Any, state: Any) -> None:
    state[0] = linking.create({options[i]: values[i] for i in range(count)})


@contextmanager
def _logged(state: int) -> Iterator[None]:
    """Write what goes wrong to the buffer that the linking's options name."""
    try:
        yield
    except DriverError as error:
        _log_error(linking.options(state), error)
        raise


@export("cuLinkAddData_v2", 6050, HANDLE, ENUM, POINTER, SIZE, POINTER, UINT, to(INT), to(POINTER))
def _(state: int, kind: int, data: int, nbytes: int, name: int, count: int, options: Any, values: Any) -> None:
    with _logged(state):
        linking.add(state, kind, ctypes.string_at(_required(data, "data"), nbytes), _text(name) if name else "")


@export("cuLinkAddFile_v2", 6050, HANDLE, ENUM, TEXT, UINT, to(INT), to(POINTER))
def _(state: int, kind: int, path: bytes, count: int, options: Any, values: Any) -> None:
    with _logged(state):
        linking.add_file(state, kind, path.decode())


@export("cuLinkComplete", 5050, HANDLE, to(POINTER), POINTER)
def _(state: int, code: Any, nbytes: int) -> None:
    with _logged(state):
        code[0], size = linking.complete(state)
    _write(nbytes, SIZE, size)


@export("cuLinkDestroy", 5050, HANDLE)
def _(state: int) -> None:
    linking.destroy(state)


# --- memory -----------------------------------------------------------------------------------------------------------
@export("cuMemGetInfo_v2", 3020, to(SIZE), to(SIZE))
def _(free: Any, total: Any) -> None:
    free[0], total[0] = allocations.free_and_total()


@export("cuMemAlloc_v2", 3020, to(UINT64), SIZE)
def _(address: Any, nbytes: int) -> None:
    address[0] = allocations.allocate(nbytes)


_PITCH = 512


@export("cuMemAllocPitch_v2", 3020, to(UINT64), to(SIZE), SIZE, SIZE, UINT)
def _(address: Any, pitch: Any, width: int, height: int, itemsize: int) -> None:
    if itemsize not in (4, 8, 16):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"ElementSizeBytes is {itemsize}: it must be 4, 8 or 16")
    pitch[0] = -(-width // _PITCH) * _PITCH
    address[0] = allocations.allocate(pitch[0] * height)


@export("cuMemAllocManaged", 6000, to(UINT64), SIZE, UINT)
def _(address: Any, nbytes: int, flags: int) -> None:
    address[0] = allocations.allocate_managed(nbytes, flags)


@export("cuMemAllocHost_v2", 3020, to(UINT64), SIZE)
def _(address: Any, nbytes: int) -> None:
    address[0] = allocations.allocate_host(nbytes)


@export("cuMemHostAlloc", 2020, to(UINT64), SIZE, UINT)
def _(address: Any, nbytes: int, flags: int) -> None:
    address[0] = allocations.allocate_host(nbytes, flags)


@export("cuMemFree_v2", 3020, UINT64)
def _(address: int) -> None:
    allocations.free(address)


@export("cuMemFreeHost", 2000, UINT64)
def _(address: int) -> None:
    allocations.free(address, (allocations.HOST,))


@export("cuMemHostRegister_v2", 6050, UINT64, SIZE, UINT)
def _(address: int, nbytes: int, flags: int) -> None:
    allocations.register(address, nbytes, flags)


@export("cuMemHostUnregister", 4000, UINT64)
def _(address: int) -> None:
    allocations.unregister(address)


@export("cuMemHostGetDevicePointer_v2", 3020, to(UINT64), UINT64, UINT)
def _(device: Any, host: int, flags: int) -> None:
    if flags:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"Flags is {flags}: it must be 0")
    device[0] = allocations.device_pointer(host)


@export("cuMemHostGetFlags", 2030, to(UINT), UINT64)
def _(flags: Any, host: int) -> None:
    flags[0] = allocations.host_flags(host)


@export("cuMemGetAddressRange_v2", 3020, POINTER, POINTER, UINT64)
def _(base: int, nbytes: int, address: int) -> None:
    start, size = allocations.extent(address)
    _write(base, UINT64, start)
    _write(nbytes, SIZE, size)


def _check_managed(address: int, nbytes: int) -> None:
    """Check that bytes are managed memory: to say where it should lie changes nothing here."""
    start, size = allocations.extent(address)
    if allocations.kind_of(address) != allocations.MANAGED or address + nbytes > start + size:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"devPtr is {address:#x}: {nbytes} bytes there must be managed")


@export("cuMemAdvise", 8000, UINT64, SIZE, ENUM, INT)
@export("cuMemAdvise_v2", 12020, UINT64, SIZE, ENUM, LOCATION)
def _(address: int, nbytes: int, advice: int, location: int) -> None:
    _check_managed(address, nbytes)


@export("cuMemPrefetchAsync", 8000, UINT64, SIZE, INT, HANDLE)
def _(address: int, nbytes: int, device: int, stream: int) -> None:
    _check_managed(address, nbytes)
    streams.stream(stream)


@export("cuMemPrefetchAsync_v2", 12020, UINT64, SIZE, LOCATION, UINT, HANDLE)
def _(address: int, nbytes: int, location: int, flags: int, stream: int) -> None:
    if flags:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0")
    _check_managed(address, nbytes)
    streams.stream(stream)


_CONTEXT, _MEMORY_TYPE, _DEVICE_POINTER, _HOST_POINTER = 1, 2, 3, 4
_SYNC, _BUFFER_ID, _IS_MANAGED, _ORDINAL = 6, 7, 8, 9
_START, _RANGE_SIZE, _MAPPED = 11, 12, 13
_HOST_TYPE, _DEVICE_TYPE = 1, 2


def _pointer_attribute(attribute: int, address: int) -> tuple[Any, int]:
    kind = allocations.kind_of(address)
    if not kind:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"ptr is {address:#x}: it is no memory of the driver's")
    start, size = allocations.extent(address)
    is_host = kind == allocations.HOST
    values = {
        _CONTEXT: (HANDLE, PRIMARY),
        _MEMORY_TYPE: (UINT, _HOST_TYPE if is_host else _DEVICE_TYPE),
        _DEVICE_POINTER: (UINT64, address),
        _HOST_POINTER: (UINT64, 0 if kind == allocations.DEVICE else address),
        _SYNC: (INT, 0),
        _BUFFER_ID: (UINT64, start),
        _IS_MANAGED: (INT, int(kind == allocations.MANAGED)),
        _ORDINAL: (INT, 0),
        _START: (UINT64, start),
        _RANGE_SIZE: (SIZE, size),
        _MAPPED: (INT, 1),
    }
    if attribute not in values:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", f"attribute is {attribute}: the virtual device does not know it")
    return values[attribute]


@export("cuPointerGetAttribute", 4000, POINTER, ENUM, UINT64)
def _(data: int, attribute: int, address: int) -> None:
    kind, value = _pointer_attribute(attribute, address)
    _write(_required(data, "data"), kind, value)


@export("cuPointerGetAttributes", 7000, UINT, to(INT), to(POINTER), UINT64)
def _(count: int, attributes: Any, data: Any, address: int) -> None:
    """As documented, a pointer that is none of the driver's is no error: its attributes are 0."""
    known = allocations.kind_of(address)
    for index in range(count):
        kind, value = _pointer_attribute(attributes[index], address) if known else (UINT, 0)
        if not known and attributes[index] in (
            _DEVICE_POINTER,
            _HOST_POINTER,
            _CONTEXT,
            _BUFFER_ID,
            _START,
            _RANGE_SIZE,
        ):
            kind = UINT64
        if not known and attributes[index] == _ORDINAL:
            kind, value = INT, -2  # CU_DEVICE_INVALID
        _write(data[index], kind, value)


def _copy(name: str, since: int, *devices: str) -> None:
    """Export a copy and its asynchronous twin, whose last argument is a stream; `devices`: which sides must be."""

    @export(name, since, UINT64, UINT64, SIZE)
    @export(_async(name), since, UINT64, UINT64, SIZE, HANDLE)
    def _(target: int, source: int, nbytes: int, stream: int = 0) -> None:
        if nbytes:
            if "dst" in devices:
                allocations.check_device(target, "dstDevice")
            if "src" in devices:
                allocations.check_device(source, "srcDevice")
        allocations.copy(target, source, nbytes, stream)


def _async(name: str) -> str:
    """Return the name of the asynchronous twin of a function: "cuMemcpyHtoDAsync_v2" for "cuMemcpyHtoD_v2"."""
    base, version, number = name.partition("_v")
    return f"{base}Async{version}{number}"


_copy("cuMemcpy", 4000)
_copy("cuMemcpyHtoD_v2", 3020, "dst")
_copy("cuMemcpyDtoH_v2", 3020, "src")
_copy("cuMemcpyDtoD_v2", 3020, "dst", "src")


@export("cuMemcpyPeer", 4000, UINT64, HANDLE, UINT64, HANDLE, SIZE)
@export("cuMemcpyPeerAsync", 4000, UINT64, HANDLE, UINT64, HANDLE, SIZE, HANDLE)
def _(target: int, _to: int, source: int, _from: int, nbytes: int, stream: int = 0) -> None:
    allocations.copy(target, source, nbytes, stream)


class Copy2D(ctypes.Structure):
    """CUDA_MEMCPY2D of the documentation."""

    _fields_ = (
        ("srcXInBytes", SIZE),
        ("srcY", SIZE),
        ("srcMemoryType", INT),
        ("srcHost", POINTER),
        ("srcDevice", UINT64),
        ("srcArray", HANDLE),
        ("srcPitch", SIZE),
        ("dstXInBytes", SIZE),
        ("dstY", SIZE),
        ("dstMemoryType", INT),
        ("dstHost", POINTER),
        ("dstDevice", UINT64),
        ("dstArray", HANDLE),
        ("dstPitch", SIZE),
        ("WidthInBytes", SIZE),
        ("Height", SIZE),
    )


@export("cuMemcpy2D_v2", 3020, to(Copy2D))
@export("cuMemcpy2DUnaligned_v2", 3020, to(Copy2D))
@export("cuMemcpy2DAsync_v2", 3020, to(Copy2D), HANDLE)
def _(what: Any, stream: int = 0) -> None:
    given = what[0]

    def place(side: str) -> tuple[int, int]:
        kind = getattr(given, f"{side}MemoryType")
        if kind == 3:  # CU_MEMORYTYPE_ARRAY
            raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device has no CUDA arrays")
        base = getattr(given, f"{side}Host" if kind == _HOST_TYPE else f"{side}Device")
        column = getattr(given, f"{side}XInBytes")
        pitch = getattr(given, f"{side}Pitch") or given.WidthInBytes
        if given.Height > 1 and pitch < given.WidthInBytes + column:
            raise DriverError(
                "CUDA_ERROR_INVALID_VALUE",
                f"{side}Pitch is {pitch}: it must be at least {side}XInBytes + WidthInBytes, "
                f"{given.WidthInBytes + column}",
            )
        return base + getattr(given, f"{side}Y") * pitch + column, pitch

    allocations.copy_rows(*place("dst"), *place("src"), given.WidthInBytes, given.Height, stream)


def _fills() -> None:
    for itemsize, kind in ((1, UINT8), (2, UINT16), (4, UINT)):
        bits = 8 * itemsize

        @export(f"cuMemsetD{bits}_v2", 3020, UINT64, kind, SIZE)
        @export(f"cuMemsetD{bits}Async", 3020, UINT64, kind, SIZE, HANDLE)
        def _(address: int, value: int, count: int, stream: int = 0, itemsize: int = itemsize) -> None:
            allocations.fill(address, value, itemsize, count, stream)

        @export(f"cuMemsetD2D{bits}_v2", 3020, UINT64, SIZE, kind, SIZE, SIZE)
        @export(f"cuMemsetD2D{bits}Async", 3020, UINT64, SIZE, kind, SIZE, SIZE, HANDLE)
        def _(
            address: int, pitch: int, value: int, width: int, height: int, stream: int = 0, itemsize: int = itemsize
        ) -> None:
            allocations.fill_rows(address, pitch, value, itemsize, width, height, stream)


_fills()


# --- pools of memory --------------------------------------------------------------------------------------------------
@export("cuDeviceGetDefaultMemPool", 11020, to(HANDLE), INT)
def _(pool: Any, device: int) -> None:
    devices.check_ordinal(device)
    pool[0] = pools.DEFAULT


@export("cuDeviceGetMemPool", 11020, to(HANDLE), INT)
def _(pool: Any, device: int) -> None:
    devices.check_ordinal(device)
    pool[0] = pools.current()


@export("cuDeviceSetMemPool", 11020, INT, HANDLE)
def _(device: int, pool: int) -> None:
    devices.check_ordinal(device)
    pools.set_current(pool)


class PoolProperties(ctypes.Structure):
    """CUmemPoolProps of the documentation, without what is reserved."""

    _fields_ = (
        ("allocType", INT),
        ("handleTypes", INT),
        ("locationType", INT),
        ("locationId", INT),
        ("win32SecurityAttributes", POINTER),
        ("maxSize", SIZE),
    )


@export("cuMemPoolCreate", 11020, to(HANDLE), to(PoolProperties))
def _(pool: Any, properties: Any) -> None:
    given = properties[0]
    if given.handleTypes:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device shares no memory with other processes")
    pool[0] = pools.create(given.locationType, given.locationId, given.maxSize)


@export("cuMemPoolDestroy", 11020, HANDLE)
def _(pool: int) -> None:
    pools.destroy(pool)


@export("cuMemPoolTrimTo", 11020, HANDLE, SIZE)
def _(pool: int, nbytes: int) -> None:
    pools.attribute(pool, pools.USED)


@export("cuMemPoolGetAttribute", 11020, HANDLE, ENUM, POINTER)
def _(pool: int, attribute: int, value: int) -> None:
    kind = UINT64 if attribute in pools.LONG else INT
    _write(_required(value, "value"), kind, pools.attribute(pool, attribute))


@export("cuMemPoolSetAttribute", 11020, HANDLE, ENUM, POINTER)
def _(pool: int, attribute: int, value: int) -> None:
    kind = UINT64 if attribute in pools.LONG else INT
    pools.set_attribute(pool, attribute, kind.from_address(_required(value, "value")).value)


@export("cuMemPoolSetAccess", 11020, HANDLE, POINTER, SIZE)
def _(pool: int, descriptors: int, count: int) -> None:
    """There is one device, and it can always reach its own memory."""
    pools.attribute(pool, pools.USED)


@export("cuMemAllocAsync", 11020, to(UINT64), SIZE, HANDLE)
def _(address: Any, nbytes: int, stream: int) -> None:
    address[0] = pools.allocate(pools.current(), nbytes, stream)


@export("cuMemAllocFromPoolAsync", 11020, to(UINT64), SIZE, HANDLE, HANDLE)
def _(address: Any, nbytes: int, pool: int, stream: int) -> None:
    address[0] = pools.allocate(pool, nbytes, stream)


@export("cuMemFreeAsync", 11020, UINT64, HANDLE)
def _(address: int, stream: int) -> None:
    allocations.free_in(stream, address)


# --- streams and events -----------------------------------------------------------------------------------------------
@export("cuStreamCreate", 2000, to(HANDLE), UINT)
def _(stream: Any, flags: int) -> None:
    stream[0] = streams.create_stream(flags)


@export("cuStreamCreateWithPriority", 5050, to(HANDLE), UINT, INT)
def _(stream: Any, flags: int, priority: int) -> None:
    stream[0] = streams.create_stream(flags, priority)


@export("cuStreamDestroy_v2", 4000, HANDLE)
def _(stream: int) -> None:
    streams.destroy_stream(stream)


@export("cuStreamSynchronize", 2000, HANDLE)
def _(stream: int) -> None:
    streams.synchronize(stream)


@export("cuStreamQuery", 2000, HANDLE)
def _(stream: int) -> None:
    streams.query(stream)


@export("cuStreamGetFlags", 5050, HANDLE, to(UINT))
def _(stream: int, flags: Any) -> None:
    flags[0] = streams.stream(stream).flags


@export("cuStreamGetPriority", 5050, HANDLE, to(INT))
def _(stream: int, priority: Any) -> None:
    priority[0] = streams.stream(stream).priority


@export("cuStreamGetId", 12000, HANDLE, to(UINT64))
def _(stream: int, number: Any) -> None:
    streams.stream(stream)
    number[0] = stream


@export("cuStreamGetCtx", 9020, HANDLE, to(HANDLE))
def _context_of(stream: int, context: Any) -> None:
    streams.stream(stream)
    context[0] = _stack()[-1] if _stack() else PRIMARY


@export("cuStreamGetCtx_v2", 12050, HANDLE, POINTER, POINTER)
def _(stream: int, context: int, green: int) -> None:
    """No stream belongs to a green context here."""
    _context_of(stream, ctypes.pointer(HANDLE.from_address(_required(context, "pCtx"))))
    _write(green, HANDLE, 0)


@export("cuStreamGetDevice", 12080, HANDLE, to(INT))
def _(stream: int, device: Any) -> None:
    streams.stream(stream)
    device[0] = 0


@export("cuStreamWaitEvent", 3020, HANDLE, HANDLE, UINT)
def _(stream: int, event: int, flags: int) -> None:
    streams.wait_event(stream, event, flags)


_HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_STREAM_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


@export("cuLaunchHostFunc", 10000, HANDLE, POINTER, POINTER)
def _call_host(stream: int, function: int, data: int) -> None:
    _required(function, "fn")
    streams.call_host(stream, lambda: _HOST_FUNCTION(function)(data))


@export("cuLaunchHostFunc_v2", 13010, HANDLE, POINTER, POINTER, UINT)
def _(stream: int, function: int, data: int, mode: int) -> None:
    """How the device waits for the function, the last argument, changes nothing here."""
    _call_host(stream, function, data)


@export("cuStreamAddCallback", 5000, HANDLE, POINTER, POINTER, UINT)
def _(stream: int, function: int, data: int, flags: int) -> None:
    _required(function, "callback")
    streams.call_host(stream, lambda: _STREAM_CALLBACK(function)(stream, 0, data))


@export("cuEventCreate", 2000, to(HANDLE), UINT)
def _(event: Any, flags: int) -> None:
    event[0] = streams.create_event(flags)


@export("cuEventDestroy_v2", 4000, HANDLE)
def _(event: int) -> None:
    streams.destroy_event(event)


@export("cuEventRecord", 2000, HANDLE, HANDLE)
def _(event: int, stream: int) -> None:
    streams.record_event(event, stream)


@export("cuEventRecordWithFlags", 11010, HANDLE, HANDLE, UINT)
def _(event: int, stream: int, flags: int) -> None:
    streams.record_event(event, stream, flags)


@export("cuEventQuery", 2000, HANDLE)
def _(event: int) -> None:
    streams.query_event(event)


@export("cuEventSynchronize", 2000, HANDLE)
def _(event: int) -> None:
    streams.synchronize_event(event)


@export("cuEventElapsedTime", 2000, to(FLOAT), HANDLE, HANDLE)
@export("cuEventElapsedTime_v2", 12080, to(FLOAT), HANDLE, HANDLE)
def _(milliseconds: Any, start: int, end: int) -> None:
    milliseconds[0] = streams.elapsed(start, end)


# --- graphs -----------------------------------------------------------------------------------------------------------
@export("cuStreamBeginCapture_v2", 10010, HANDLE, ENUM)
def _(stream: int, mode: int) -> None:
    streams.begin_capture(stream, mode)


@export("cuStreamEndCapture", 10000, HANDLE, to(HANDLE))
def _(stream: int, graph: Any) -> None:
    graph[0] = 0
    graph[0] = streams.end_capture(stream)


@export("cuStreamIsCapturing", 10000, HANDLE, to(INT))
def _(stream: int, status: Any) -> None:
    status[0] = streams.capture_status(stream)[0]


@export("cuStreamGetCaptureInfo", 10010, HANDLE, to(INT), POINTER)
@export("cuStreamGetCaptureInfo_v2", 11030, HANDLE, to(INT), POINTER, POINTER, POINTER, POINTER)
@export("cuStreamGetCaptureInfo_v3", 12030, HANDLE, to(INT), POINTER, POINTER, POINTER, POINTER, POINTER)
def _(stream: int, status: Any, number: int, graph: int = 0, *rest: int) -> None:
    """The dependencies are none: a graph here is work in the order in which it was recorded."""
    status[0], found = streams.capture_status(stream)
    _write(number, UINT64, found)
    capture = streams.capture_of(stream)
    if capture is not None and graph:
        _write(graph, HANDLE, streams.graph_handle(capture.graph))
    for address in rest:
        _write(address, UINT64, 0)


@export("cuThreadExchangeStreamCaptureMode", 10010, to(INT))
def _(mode: Any) -> None:
    mode[0] = streams.exchange_mode(mode[0])


@export("cuGraphCreate", 10000, to(HANDLE), UINT)
def _(graph: Any, flags: int) -> None:
    graph[0] = streams.create_graph()


@export("cuGraphDestroy", 10000, HANDLE)
def _(graph: int) -> None:
    streams.destroy_graph(graph)


@export("cuGraphClone", 10000, to(HANDLE), HANDLE)
def _(clone: Any, graph: int) -> None:
    clone[0] = streams.clone_graph(graph)


@export("cuGraphGetNodes", 10000, HANDLE, POINTER, to(SIZE))
def _(graph: int, nodes: int, count: Any) -> None:
    if nodes:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device gives no handles of a graph's nodes")
    count[0] = len(streams.graph(graph).work)


@export("cuGraphInstantiate", 10000, to(HANDLE), HANDLE, POINTER, POINTER, SIZE)
@export("cuGraphInstantiate_v2", 11000, to(HANDLE), HANDLE, POINTER, POINTER, SIZE)
def _(executable: Any, graph: int, node: int, log: int, nbytes: int) -> None:
    _write(node, HANDLE, 0)
    executable[0] = streams.instantiate(graph)


@export("cuGraphInstantiateWithFlags", 11040, to(HANDLE), HANDLE, UINT64)
def _(executable: Any, graph: int, flags: int) -> None:
    executable[0] = streams.instantiate(graph, flags)


class InstantiateParams(ctypes.Structure):
    """CUDA_GRAPH_INSTANTIATE_PARAMS of the documentation."""

    _fields_ = (("flags", UINT64), ("hUploadStream", HANDLE), ("hErrNode_out", HANDLE), ("result_out", INT))


@export("cuGraphInstantiateWithParams", 12000, to(HANDLE), HANDLE, to(InstantiateParams))
def _(executable: Any, graph: int, params: Any) -> None:
    executable[0] = streams.instantiate(graph, params[0].flags)
    params[0].hErrNode_out, params[0].result_out = 0, 0


@export("cuGraphLaunch", 10000, HANDLE, HANDLE)
def _(executable: int, stream: int) -> None:
    streams.launch_graph(executable, stream)


@export("cuGraphUpload", 11010, HANDLE, HANDLE)
def _(executable: int, stream: int) -> None:
    streams.upload_graph(executable, stream)


@export("cuGraphExecDestroy", 10000, HANDLE)
def _(executable: int) -> None:
    streams.destroy_executable(executable)


@export("cuGraphExecUpdate_v2", 12000, HANDLE, HANDLE, POINTER)
def _(executable: int, graph: int, info: int) -> None:
    success, error, topology_changed = 0, 1, 2
    _write(_required(info, "resultInfo"), INT, error)
    try:
        streams.update_executable(executable, graph)
    except DriverError as failure:
        if failure.result == "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE":
            _write(info, INT, topology_changed)
        raise
    _write(info, INT, success)


@export("cuUserObjectCreate", 11030, to(HANDLE), POINTER, POINTER, UINT, UINT)
def _(thing: Any, data: int, destroy: int, references: int, flags: int) -> None:
    _required(destroy, "destroy")
    thing[0] = streams.create_object(lambda: _HOST_FUNCTION(destroy)(data), references)


@export("cuUserObjectRetain", 11030, HANDLE, UINT)
def _(thing: int, count: int) -> None:
    streams.retain_object(thing, count)


@export("cuUserObjectRelease", 11030, HANDLE, UINT)
def _(thing: int, count: int) -> None:
    streams.release_object(thing, count)


@export("cuGraphRetainUserObject", 11030, HANDLE, HANDLE, UINT, UINT)
def _(graph: int, thing: int, count: int, flags: int) -> None:
    moves = 1  # CU_GRAPH_USER_OBJECT_MOVE
    if flags & ~moves:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0 or 1")
    streams.keep_object(graph, thing, count, bool(flags & moves))


@export("cuGraphReleaseUserObject", 11030, HANDLE, HANDLE, UINT)
def _(graph: int, thing: int, count: int) -> None:
    streams.drop_object(graph, thing, count)


# --- launches ---------------------------------------------------------------------------------------------------------
_BUFFER_POINTER, _BUFFER_SIZE = 1, 2


def _params(function: int, pointers: int, extra: int) -> list[bytes]:
    """Return the bytes of each parameter, from pointers to them or from one buffer."""
    wanted = modules.parameters(function)
    if pointers:
        array = (UINT64 * len(wanted)).from_address(pointers) if wanted else ()
        return [
            ctypes.string_at(_required(address, f"kernelParams[{index}]"), each.size)
            for index, (address, each) in enumerate(zip(array, wanted, strict=True))
        ]
    if not extra:
        return []
    pairs: dict[int, int] = {}
    for index in itertools.count(0, 2):
        key, value = UINT64.from_address(extra + 8 * index).value, UINT64.from_address(extra + 8 * index + 8).value
        if not key:
            break
        pairs[key] = value
    for key in (_BUFFER_POINTER, _BUFFER_SIZE):
        if not pairs.get(key):
            raise DriverError("CUDA_ERROR_INVALID_VALUE", "extra has no buffer: pairs 1, its address, and 2, its bytes")
    data = ctypes.string_at(pairs[_BUFFER_POINTER], SIZE.from_address(pairs[_BUFFER_SIZE]).value)
    places = [modules.parameter(function, index) for index in range(len(wanted))]
    return [data[at : at + size] for at, size in places]


@export("cuLaunchKernel", 4000, HANDLE, UINT, UINT, UINT, UINT, UINT, UINT, UINT, HANDLE, POINTER, POINTER)
def _(
    function: int,
    gx: int,
    gy: int,
    gz: int,
    bx: int,
    by: int,
    bz: int,
    shared: int,
    stream: int,
    pointers: int,
    extra: int,
) -> None:
    modules.run(function, (gx, gy, gz), (bx, by, bz), _params(function, pointers, extra), shared, stream)


@export("cuLaunchCooperativeKernel", 9000, HANDLE, UINT, UINT, UINT, UINT, UINT, UINT, UINT, HANDLE, POINTER)
def _(
    function: int, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, shared: int, stream: int, pointers: int
) -> None:
    params = _params(function, pointers, 0)
    modules.run(function, (gx, gy, gz), (bx, by, bz), params, shared, stream, cooperative=True)


class LaunchConfig(ctypes.Structure):
    """CUlaunchConfig of the documentation."""

    _fields_ = (
        ("gridDimX", UINT),
        ("gridDimY", UINT),
        ("gridDimZ", UINT),
        ("blockDimX", UINT),
        ("blockDimY", UINT),
        ("blockDimZ", UINT),
        ("sharedMemBytes", UINT),
        ("hStream", HANDLE),
        ("attrs", POINTER),
        ("numAttrs", UINT),
    )


_ATTRIBUTE_BYTES, _VALUE_AT = 72, 8
_COOPERATIVE, _CLUSTER = 2, 4
_HINTS = (0, 1, 3, 5, 6, 8, 9, 10, 11, 14, 16)
"""Attributes of a launch that change no result here: policies of access and of scheduling, priorities, domains of
synchronization, the carveout, and the order of a stream's launches, of which each has ended before the next begins."""


@export("cuLaunchKernelEx", 11060, to(LaunchConfig), HANDLE, POINTER, POINTER)
def _(config: Any, function: int, pointers: int, extra: int) -> None:
    given, cooperative = config[0], False
    for index in range(given.numAttrs):
        at = given.attrs + index * _ATTRIBUTE_BYTES
        attribute = INT.from_address(at).value
        if attribute == _COOPERATIVE:
            cooperative = INT.from_address(at + _VALUE_AT).value != 0
        elif attribute == _CLUSTER and all(UINT.from_address(at + _VALUE_AT + 4 * i).value == 1 for i in range(3)):
            pass
        elif attribute not in _HINTS:
            raise DriverError("CUDA_ERROR_NOT_SUPPORTED", f"launch attribute {attribute} is not emulated")
    grid = given.gridDimX, given.gridDimY, given.gridDimZ
    block = given.blockDimX, given.blockDimY, given.blockDimZ
    params = _params(function, pointers, extra)
    modules.run(function, grid, block, params, given.sharedMemBytes, given.hStream, cooperative)


# --- occupancy --------------------------------------------------------------------------------------------------------
@export("cuOccupancyMaxActiveBlocksPerMultiprocessor", 6050, to(INT), HANDLE, INT, SIZE)
@export("cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags", 7000, to(INT), HANDLE, INT, SIZE, UINT)
def _(count: Any, function: int, threads: int, shared: int, flags: int = 0) -> None:
    if threads < 1:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"blockSize is {threads}: it must be at least 1")
    count[0] = modules.resident_blocks(function, threads, shared)


_SHARED_OF_BLOCK = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int)


@export("cuOccupancyMaxPotentialBlockSize", 6050, to(INT), to(INT), HANDLE, POINTER, SIZE, INT)
@export("cuOccupancyMaxPotentialBlockSizeWithFlags", 7000, to(INT), to(INT), HANDLE, POINTER, SIZE, INT, UINT)
def _(blocks: Any, threads: Any, function: int, shared_of: int, shared: int, most: int, flags: int = 0) -> None:
    needed = _SHARED_OF_BLOCK(shared_of) if shared_of else lambda _: shared
    limit = modules.attribute(function, modules.MAX_THREADS_PER_BLOCK)
    best = 0
    for size in range(32 * ((min(limit, most) if most else limit) // 32), 0, -32):
        resident = modules.resident_blocks(function, size, needed(size))
        if resident * size > best:
            best, threads[0], blocks[0] = resident * size, size, resident * devices.attribute(16)
    if not best:
        raise DriverError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "no block of the kernel fits a multiprocessor")


# --- the default stream of each thread --------------------------------------------------------------------------------
_TAKE_A_STREAM = re.compile(
    r"cu(Mem(cpy|set)\w*|Mem\w*Async(_v2)?|Launch\w+|EventRecord\w*|Graph(Launch|Upload)"
    r"|GraphInstantiateWithParams|Stream(?!Create|Destroy)\w+)"
)


def _per_thread_twins() -> None:
    """Export the functions that use a stream once more, under the names of those to which stream 0 is the thread's."""
    for each in list(EXPORTS.values()):
        if _TAKE_A_STREAM.fullmatch(each.name):
            waits = "Async" not in each.name and re.match("cuMem(cpy|set)", each.name)
            name = each.name + ("_ptds" if waits else "_ptsz")
            add(dataclasses.replace(each, name=name, function=_per_thread(each.function)))


def _per_thread(function: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        with streams.per_thread_default():
            function(*arguments)

    return call


_per_thread_twins()
