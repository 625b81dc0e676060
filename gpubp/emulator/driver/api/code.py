"""Code: modules, libraries, kernels and their attributes, linking, occupancy."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from gpubp.emulator.driver import devices, images, linking, modules
from gpubp.emulator.driver.api.values import lasting, required, text_at, write, write_text
from gpubp.emulator.driver.calls import (
    ENUM,
    HANDLE,
    INT,
    POINTER,
    SIZE,
    TEXT,
    UINT,
    UINT64,
    export,
    to,
)
from gpubp.emulator.driver.results import DriverError


def _log_error(options: Mapping[int, int], error: DriverError) -> None:
    """Write what went wrong to the buffer that the options of a loading or linking name."""
    buffer, nbytes = options.get(linking.ERROR_LOG), options.get(linking.ERROR_LOG_BYTES, 0) & 0xFFFF_FFFF
    if buffer and nbytes:
        write_text(str(error), buffer, nbytes)


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
    write(address, UINT64, found)
    write(nbytes, SIZE, size)


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
    name[0] = lasting(modules.name_of(function))


@export("cuKernelGetParamInfo", 12040, HANDLE, SIZE, to(SIZE), POINTER)
@export("cuFuncGetParamInfo", 12040, HANDLE, SIZE, to(SIZE), POINTER)
def _(function: int, index: int, offset: Any, nbytes: int) -> None:
    offset[0], size = modules.parameter(function, index)
    write(nbytes, SIZE, size)


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
        linking.add(state, kind, ctypes.string_at(required(data, "data"), nbytes), text_at(name) if name else "")


@export("cuLinkAddFile_v2", 6050, HANDLE, ENUM, TEXT, UINT, to(INT), to(POINTER))
def _(state: int, kind: int, path: bytes, count: int, options: Any, values: Any) -> None:
    with _logged(state):
        linking.add_file(state, kind, path.decode())


@export("cuLinkComplete", 5050, HANDLE, to(POINTER), POINTER)
def _(state: int, code: Any, nbytes: int) -> None:
    with _logged(state):
        code[0], size = linking.complete(state)
    write(nbytes, SIZE, size)


@export("cuLinkDestroy", 5050, HANDLE)
def _(state: int) -> None:
    linking.destroy(state)


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
