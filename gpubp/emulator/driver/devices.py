"""What the driver says of the one device: its name, its limits and its attributes."""

from __future__ import annotations

from gpubp.chips import MAX_BLOCK, MAX_GRID, MAX_THREADS, STATIC_SHARED, WARP
from gpubp.emulator.chip import compute_capability, current_arch, current_chip
from gpubp.emulator.driver.results import DriverError

DRIVER_VERSION = 13_050
"""The CUDA version that the driver serves, as 1000 * major + 10 * minor."""
UUID = b"gpubp emulated\0\0"
PCI_BUS_ID = "0000:00:00.0"
CONSTANT_BYTES = 64 << 10


def check_ordinal(ordinal: int) -> int:
    """Return the number of a device.

    Raises:
        DriverError: CUDA_ERROR_INVALID_DEVICE: it is not 0.
    """
    if ordinal:
        raise DriverError("CUDA_ERROR_INVALID_DEVICE", f"device is {ordinal}: there is one device, number 0")
    return ordinal


def name() -> str:
    """Return the device's name."""
    return f"emulated {current_chip().example}"


def capability() -> tuple[int, int]:
    """Return the compute capability, major and minor."""
    return compute_capability(current_arch())


def attribute(number: int) -> int:
    """Return one of CUDA's device attributes, a CUdevice_attribute.

    Raises:
        DriverError: CUDA_ERROR_INVALID_VALUE: the number is none.
    """
    values = _attributes()
    if number not in values and not 1 <= number < 162:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"attrib is {number}: it is no device attribute")
    return values.get(number, 0)  # what the device does not have


def _attributes() -> dict[int, int]:
    """Return the attributes that are not 0, by the numbers of the documentation's enum CUdevice_attribute. Clocks and
    caches are 0: the device has none."""
    chip = current_chip()
    limits = chip.multiprocessor
    major, minor = compute_capability(chip.name)
    return {
        1: MAX_THREADS,
        2: MAX_BLOCK[0],
        3: MAX_BLOCK[1],
        4: MAX_BLOCK[2],
        5: MAX_GRID[0],
        6: MAX_GRID[1],
        7: MAX_GRID[2],
        8: STATIC_SHARED,
        9: CONSTANT_BYTES,
        10: WARP,
        11: 2**31 - 1,  # MAX_PITCH
        12: limits.registers,
        14: 512,  # TEXTURE_ALIGNMENT
        15: 1,  # GPU_OVERLAP
        16: chip.multiprocessors,
        19: 1,  # CAN_MAP_HOST_MEMORY
        31: 1,  # CONCURRENT_KERNELS
        39: limits.threads,
        40: 1,  # ASYNC_ENGINE_COUNT
        41: 1,  # UNIFIED_ADDRESSING
        75: major,
        76: minor,
        78: 1,  # STREAM_PRIORITIES_SUPPORTED
        79: 1,  # GLOBAL_L1_CACHE_SUPPORTED
        80: 1,  # LOCAL_L1_CACHE_SUPPORTED
        81: limits.shared_bytes,
        82: limits.registers,
        83: 1,  # MANAGED_MEMORY
        89: 1,  # CONCURRENT_MANAGED_ACCESS
        90: 1,  # COMPUTE_PREEMPTION_SUPPORTED
        95: 1,  # COOPERATIVE_LAUNCH
        97: limits.shared_per_block,
        99: 1,  # HOST_REGISTER_SUPPORTED
        106: limits.blocks,
        111: limits.shared_reserve,
        115: 1,  # MEMORY_POOLS_SUPPORTED
    }


def most_blocks(threads: int, shared_bytes: int, registers: int) -> int:
    """Return how many blocks of a kernel a multiprocessor holds at once."""
    limits = current_chip().multiprocessor
    found = [limits.blocks, limits.blocks_by_threads(threads), limits.blocks_by_shared_memory(shared_bytes)]
    if registers:
        found.append(limits.blocks_by_registers(threads, registers))
    return min(found)
