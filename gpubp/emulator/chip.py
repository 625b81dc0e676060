"""Which chip is emulated, and the slice of CuPy's device interface that kernel code asks it through."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import TracebackType

from gpubp.emulator.errors import EmulatorError
from gpubp.emulator.launch import MAX_THREADS, SHARED_LIMITS, STATIC_SHARED_LIMIT

DEFAULT_ARCH = "sm_90"


@dataclass(frozen=True)
class Chip:
    """Figures of one compute capability (CUDA Programming Guide, table of technical specifications; whitepapers).

    Attributes:
        multiprocessors: streaming multiprocessors of the chip that is taken as the example of its kind.
        shared_per_multiprocessor: shared memory of a multiprocessor, in bytes.
        threads_per_multiprocessor: threads that a multiprocessor holds at a time.
        blocks_per_multiprocessor: blocks that a multiprocessor holds at a time.
    """

    name: str
    multiprocessors: int
    shared_per_multiprocessor: int
    threads_per_multiprocessor: int
    blocks_per_multiprocessor: int
    registers_per_multiprocessor: int = 65536


CHIPS = {
    "sm_75": Chip("T4", 40, 64 * 1024, 1024, 16),
    "sm_80": Chip("A100", 108, 164 * 1024, 2048, 32),
    "sm_86": Chip("A40", 84, 100 * 1024, 1536, 16),
    "sm_87": Chip("Orin", 16, 164 * 1024, 1536, 16),
    "sm_88": Chip("compute capability 8.8", 16, 100 * 1024, 1536, 24),
    "sm_89": Chip("L40S", 142, 100 * 1024, 1536, 24),
    "sm_90": Chip("H100 SXM", 132, 228 * 1024, 2048, 32),
    "sm_100": Chip("B200", 148, 228 * 1024, 2048, 32),
    "sm_103": Chip("B300", 148, 228 * 1024, 2048, 32),
    "sm_110": Chip("Thor", 20, 228 * 1024, 1536, 24),
    "sm_120": Chip("RTX 5090", 170, 100 * 1024, 1536, 24),
    "sm_121": Chip("GB10", 48, 100 * 1024, 1536, 24),
}

_current = [DEFAULT_ARCH]


def current_arch() -> str:
    """The architecture that is emulated now, such as "sm_90"."""
    return _current[0]


def compute_capability(arch: str) -> tuple[int, int]:
    """("sm_90") -> (9, 0)."""
    number = int(re.fullmatch(r"sm_(\d+)[af]?", arch)[1])  # type: ignore[index]
    return divmod(number, 10)


class use:
    """Choose the emulated architecture, for good or for a `with` block: `emulator.use("sm_80")`.

    Kernels are compiled for it at their next launch, and a launch is held against its limits.

    Raises:
        ValueError: an architecture that is not known.
    """

    def __init__(self, arch: str) -> None:
        if arch not in CHIPS:
            raise ValueError(f"arch is {arch!r}: it must be one of {', '.join(CHIPS)}")
        self._before = _current[0]
        _current[0] = arch

    def __enter__(self) -> use:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current[0] = self._before


def shared_limit(arch: str) -> int:
    """Shared memory that a block may ask for, in bytes; it gets `STATIC_SHARED_LIMIT` without asking."""
    major, minor = compute_capability(arch)
    return SHARED_LIMITS[10 * major + minor]


def check_device_id(device: int) -> None:
    """The emulator has one device, number 0; -1 means the current one."""
    if device not in (-1, 0):
        raise EmulatorError(f"device is {device}: the emulator has one device, number 0")


class Device:
    """The emulated device, under the names of `cupy.cuda.Device`. `Device()` and `Device(0)` are the same."""

    def __init__(self, device: int | Device | None = None) -> None:
        if device is not None and not isinstance(device, Device):
            check_device_id(device)
        self.id = 0

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return hash(self.id)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __repr__(self) -> str:
        return f"<emulated CUDA Device {self.id}, {current_arch()}>"

    def use(self) -> None:
        """Make this the current device, which it is."""

    def synchronize(self) -> None:
        """Wait for the device; launches have ended when they return."""

    @property
    def compute_capability(self) -> str:
        """As CuPy writes it: "90" for 9.0."""
        major, minor = compute_capability(current_arch())
        return f"{major}{minor}"

    @property
    def attributes(self) -> dict[str, int]:
        """The device attributes that kernel code asks for, under CuPy's names."""
        chip = CHIPS[current_arch()]
        major, minor = compute_capability(current_arch())
        return {
            "ComputeCapabilityMajor": major,
            "ComputeCapabilityMinor": minor,
            "MaxBlocksPerMultiprocessor": chip.blocks_per_multiprocessor,
            "MaxRegistersPerBlock": chip.registers_per_multiprocessor,
            "MaxRegistersPerMultiprocessor": chip.registers_per_multiprocessor,
            "MaxSharedMemoryPerBlock": STATIC_SHARED_LIMIT,
            "MaxSharedMemoryPerBlockOptin": shared_limit(current_arch()),
            "MaxSharedMemoryPerMultiprocessor": chip.shared_per_multiprocessor,
            "MaxThreadsPerBlock": MAX_THREADS,
            "MaxThreadsPerMultiProcessor": chip.threads_per_multiprocessor,
            "MultiProcessorCount": chip.multiprocessors,
            "WarpSize": 32,
        }
