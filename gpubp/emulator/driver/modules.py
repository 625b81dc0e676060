"""The driver's modules and kernels: images loaded, functions and variables found, launches."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpubp.chips import MAX_THREADS, STATIC_SHARED
from gpubp.emulator import launch
from gpubp.emulator.chip import current_arch, current_chip
from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.driver import allocations, devices, images, streams
from gpubp.emulator.driver.handles import Handles
from gpubp.emulator.driver.results import DriverError, driver_error
from gpubp.emulator.errors import EmulatorError, LaunchError
from gpubp.toolchain.nvjitlink import assemble
from gpubp.toolchain.process import CompileError
from gpubp.toolchain.ptxas import Resources

MAX_THREADS_PER_BLOCK, SHARED_BYTES, CONST_BYTES, LOCAL_BYTES, REGISTERS, PTX_VERSION, BINARY_VERSION = range(7)
CACHE_MODE, MAX_DYNAMIC_SHARED, CARVEOUT = 7, 8, 9
CLUSTER_SIDES = (11, 12, 13)
LARGE_CLUSTERS, CLUSTER_ORDER = 14, 15
_COUNT = 18
"""The attributes of a function, by the numbers of the documentation's enum CUfunction_attribute."""


@dataclass(eq=False)
class Module:
    """A loaded image.

    Attributes:
        loaded: with its variables in memory.
        functions: handles of its kernels, by name.
    """

    loaded: launch.LoadedModule
    image: images.Image
    functions: dict[str, int] = field(default_factory=dict)


@dataclass(eq=False)
class Function:
    """A kernel of a module, and what was set for it."""

    module: Module
    kernel: launch.Kernel
    dynamic_limit: int | None = None
    settings: dict[int, int] = field(default_factory=dict)

    @functools.cached_property
    def resources(self) -> Resources:
        """Return what ptxas makes of the kernel."""
        image = self.module.image
        known = image.resources.get(self.kernel.name)
        return known or _assembled(image)[self.kernel.name]


def _assembled(image: images.Image) -> Mapping[str, Resources]:
    """Return what ptxas makes of an image's kernels. It takes no PTX before 3.1, which later ones include.

    Raises:
        DriverError: CUDA_ERROR_INVALID_PTX.
    """
    ptx = re.sub(r"(?m)^(\s*\.version\s+)([12]\.\d+|3\.0)\b", r"\g<1>3.1", image.ptx, count=1)
    try:
        return assemble(ptx, current_arch().rstrip("af") + image.suffix).resources
    except CompileError as error:
        raise DriverError("CUDA_ERROR_INVALID_PTX", str(error)) from None


_modules: Handles[Module] = Handles("module")
_functions: Handles[Function] = Handles("function")


def load(image: images.Image) -> int:
    """Return the handle of a module that an image was loaded into.

    Raises:
        DriverError: the image is none, or was built for another architecture.
    """
    streams.check_not_capturing("a module is loaded")
    try:
        module = Module(launch.load(image.ptx, image.source), image)
        module.loaded.addresses.update(image.addresses)
    except EmulatorError as error:
        raise driver_error(error) from None
    return _modules.add(module)


def unload(handle: int) -> None:
    """Forget a module and its functions, and free its variables."""
    module = _modules.remove(handle)
    for function in module.functions.values():
        _functions.remove(function)
    for address in set(module.loaded.addresses.values()) - set(module.image.addresses.values()):
        if allocations.kind_of(address):
            MEMORY.free(address)


def function(handle: int, name: str) -> int:
    """Return the handle of a kernel.

    Raises:
        DriverError: CUDA_ERROR_NOT_FOUND: the module has no such kernel.
    """
    module = _modules[handle]
    if name not in module.functions:
        try:
            kernel = module.loaded.kernel(name)
        except EmulatorError as error:
            raise DriverError("CUDA_ERROR_NOT_FOUND", str(error)) from None
        module.functions[name] = _functions.add(Function(module, kernel))
    return module.functions[name]


def names(handle: int) -> list[str]:
    """Return the names of a module's kernels."""
    return list(_modules[handle].loaded.kernels)


def module_of(handle: int) -> int:
    """Return the handle of a function's module."""
    wanted = _functions[handle].module
    return next(number for number, module in _modules.items() if module is wanted)


def name_of(handle: int) -> str:
    """Return the name of a kernel."""
    return _functions[handle].kernel.name


def variable(handle: int, name: str) -> tuple[int, int]:
    """Return the address and the bytes of a __device__ or __constant__ variable.

    Raises:
        DriverError: CUDA_ERROR_NOT_FOUND: the module has no such variable.
    """
    loaded = _modules[handle].loaded
    try:
        return loaded.global_address(name), loaded.global_size(name)
    except EmulatorError as error:
        raise DriverError("CUDA_ERROR_NOT_FOUND", str(error)) from None


def parameter(handle: int, index: int) -> tuple[int, int]:
    """Return where a kernel's parameter lies among the parameters, and its bytes.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it has fewer.
    """
    kernel = _functions[handle].kernel
    if not 0 <= index < len(kernel.parameters):
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"paramIndex is {index}: there are {len(kernel.parameters)}")
    each = kernel.parameters[index]
    return kernel.decoded().parameter_offsets[each.name], each.size


# --- attributes -------------------------------------------------------------------------------------------------------
def attribute(handle: int, number: int) -> int:
    """Return an attribute of a kernel.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: there is no such attribute.
    """
    found = _functions[handle]
    kernel = found.kernel
    if number == MAX_THREADS_PER_BLOCK:
        by_registers = current_chip().multiprocessor.registers // max(found.resources.registers, 1) // 32 * 32
        return min(kernel.max_threads or MAX_THREADS, by_registers, MAX_THREADS)
    if number == SHARED_BYTES:
        return kernel.static_shared_bytes
    if number == CONST_BYTES:
        return kernel.constant_bytes
    if number == LOCAL_BYTES:
        return found.resources.local_bytes
    if number == REGISTERS:
        return found.resources.registers
    if number == PTX_VERSION or (number == BINARY_VERSION and found.module.image.resources):
        return found.module.image.target
    if number == BINARY_VERSION:  # the driver compiles PTX for the device
        major, minor = devices.capability()
        return 10 * major + minor
    if number == MAX_DYNAMIC_SHARED:
        return STATIC_SHARED - kernel.static_shared_bytes if found.dynamic_limit is None else found.dynamic_limit
    if number in CLUSTER_SIDES and math.prod(kernel.cluster) > 1:
        return kernel.cluster[CLUSTER_SIDES.index(number)]
    if number in (CACHE_MODE, *range(CARVEOUT, _COUNT)):
        return found.settings.get(number, -1 if number == CARVEOUT else 0)
    raise DriverError("CUDA_ERROR_INVALID_VALUE", f"attrib is {number}: a function has no such attribute")


def set_attribute(handle: int, number: int, value: int) -> None:
    """Set an attribute of a kernel.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: it cannot be set, or not to this. CUDA_ERROR_NOT_SUPPORTED: clusters,
            but for those of __cluster_dims__.
    """
    found = _functions[handle]
    if number == MAX_DYNAMIC_SHARED:
        limit = current_chip().multiprocessor.shared_per_block - found.kernel.static_shared_bytes
        if not 0 <= value <= limit:
            raise DriverError(
                "CUDA_ERROR_INVALID_VALUE",
                f"kernel {found.kernel.label}: {value} bytes of dynamic shared memory; on {current_arch()} it may have "
                f"{limit}",
            )
        found.dynamic_limit = value
    elif number == CARVEOUT and not -1 <= value <= 100:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"the carveout is {value}: it must be -1, or 0 to 100 percent")
    elif number in CLUSTER_SIDES and value > 1:
        raise DriverError(
            "CUDA_ERROR_NOT_SUPPORTED",
            "the virtual device has the clusters that a kernel's __cluster_dims__ asks for, and no clusters besides",
        )
    elif number in (CARVEOUT, *CLUSTER_SIDES, LARGE_CLUSTERS, CLUSTER_ORDER):
        found.settings[number] = value
    else:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"attrib is {number}: it cannot be set")


def resident_blocks(handle: int, threads: int, shared_bytes: int) -> int:
    """Return how many blocks of a kernel a multiprocessor holds at once."""
    found = _functions[handle]
    shared = found.kernel.static_shared_bytes + shared_bytes
    return devices.most_blocks(threads, shared, found.resources.registers)


# --- launches ---------------------------------------------------------------------------------------------------------
def parameters(handle: int) -> tuple[launch.Parameter, ...]:
    """Return the parameters of a kernel."""
    return _functions[handle].kernel.parameters


def run(
    handle: int,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    params: list[bytes],
    shared_bytes: int = 0,
    stream: int = 0,
    cooperative: bool = False,
) -> None:
    """Launch a kernel in a stream.

    Args:
        params: each parameter's value, as the bytes that the kernel expects.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE and its kin: no GPU would accept the launch. Others: what the emulator
            finds, with its whole message.
    """
    found = _functions[handle]
    allowed = attribute(handle, MAX_DYNAMIC_SHARED)
    try:
        launch.check_launch(found.kernel, grid, block, params, shared_bytes, current_arch())
        if shared_bytes > allowed:
            raise DriverError(
                "CUDA_ERROR_INVALID_VALUE",
                f"kernel {found.kernel.label}: {shared_bytes} bytes of dynamic shared memory; it may have {allowed}: "
                "set CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
            )
        if cooperative:
            _check_resident(found.kernel, grid, block, shared_bytes)
        work = functools.partial(
            launch.execute, found.kernel, grid, block, params, shared_bytes, current_arch(), cooperative=cooperative
        )
        streams.submit(stream, work, found.kernel.name)
    except EmulatorError as error:
        raise driver_error(error) from None


def _check_resident(
    kernel: launch.Kernel, grid: tuple[int, int, int], block: tuple[int, int, int], shared_bytes: int
) -> None:
    try:
        launch.check_resident(kernel, grid, block, shared_bytes, current_arch())
    except LaunchError as error:
        raise DriverError("CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", str(error)) from None
