"""Which chip is emulated, and the slice of CuPy's device interface that kernel code asks it through."""

from __future__ import annotations

import re
from types import TracebackType

from gpubp.chips import MAX_THREADS, STATIC_SHARED, WARP, Architecture, architectures, number_of
from gpubp.emulator.errors import EmulatorError

DEFAULT_ARCH = "sm_90"


_current = [DEFAULT_ARCH]


def current_arch() -> str:
    """Return the architecture that is emulated now, such as "sm_90"."""
    return _current[0]


def current_chip() -> Architecture:
    """Return the figures of the chip that is emulated now."""
    return architectures()[_current[0].rstrip("af")]


def compute_capability(arch: str) -> tuple[int, int]:
    """Return major and minor: (9, 0) for "sm_90"."""
    return divmod(number_of(arch), 10)


class use:
    """Choose the emulated architecture, for good or for a `with` block: `emulator.use("sm_80")`.

    Kernels are compiled for it at their next launch, and launches are checked against its limits. "sm_90a" is the same
    chip as "sm_90"; kernels are compiled with the instructions that only this chip has, such as wgmma.

    Raises:
        ValueError: the architecture is unknown.
    """

    def __init__(self, arch: str) -> None:
        if re.sub(r"(?<=\d)[af]$", "", arch) not in architectures():
            raise ValueError(f"arch is {arch!r}: it must be one of {', '.join(architectures())}")
        self._before = _current[0]
        _current[0] = arch

    def __enter__(self) -> use:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current[0] = self._before


def check_device_id(device: int) -> None:
    """Raise EmulatorError unless the device is 0, the only one, or -1, the current one."""
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
        """Do nothing: this is the current device."""

    def synchronize(self) -> None:
        """Do nothing: a launch has ended when it returns."""

    @property
    def compute_capability(self) -> str:
        """Return the compute capability as CuPy writes it: "90" for 9.0."""
        major, minor = compute_capability(current_arch())
        return f"{major}{minor}"

    @property
    def attributes(self) -> dict[str, int]:
        """Return the device attributes that kernel code asks for, under CuPy's names."""
        chip = current_chip()
        limits = chip.multiprocessor
        major, minor = compute_capability(chip.name)
        return {
            "ComputeCapabilityMajor": major,
            "ComputeCapabilityMinor": minor,
            "CooperativeLaunch": 1,
            "MaxBlocksPerMultiprocessor": limits.blocks,
            "MaxRegistersPerBlock": limits.registers,
            "MaxRegistersPerMultiprocessor": limits.registers,
            "MaxSharedMemoryPerBlock": STATIC_SHARED,
            "MaxSharedMemoryPerBlockOptin": limits.shared_per_block,
            "MaxSharedMemoryPerMultiprocessor": limits.shared_bytes,
            "MaxThreadsPerBlock": MAX_THREADS,
            "MaxThreadsPerMultiProcessor": limits.threads,
            "MultiProcessorCount": chip.multiprocessors,
            "WarpSize": WARP,
        }
