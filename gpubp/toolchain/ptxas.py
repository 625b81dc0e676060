"""What a kernel needs on the chip, read from the report of ptxas, which NVRTC and nvJitLink both print."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What one kernel needs on the chip: per thread, except for the shared memory, which is per block.

    Attributes:
        registers: 32-bit registers of a thread.
        shared_bytes: static shared memory of a block, in bytes.
        local_bytes: stack frame of a thread, in bytes.
        constant_bytes: constant memory beyond the kernel's parameters, in bytes.
        spill_store_bytes, spill_load_bytes: registers that did not fit, in bytes stored and loaded.
    """

    registers: int
    shared_bytes: int = 0
    local_bytes: int = 0
    constant_bytes: int = 0
    spill_store_bytes: int = 0
    spill_load_bytes: int = 0

    @property
    def spills(self) -> bool:
        """True if any register was spilled to local memory."""
        return self.spill_store_bytes > 0 or self.spill_load_bytes > 0


def resources_from_log(log: str) -> dict[str, Resources]:
    """Read the verbose report of ptxas (`-v`) into one `Resources` for each kernel, keyed by its lowered name."""
    # nvJitLink adds a report of its own, without the spills: only the lines of ptxas count.
    lines = "".join(f"{line}\n" for line in log.splitlines() if line.startswith("ptxas"))
    reports = re.split(r"Compiling entry function '([^']+)'[^\n]*\n", lines)
    return {name: _resources_of(report) for name, report in zip(reports[1::2], reports[2::2], strict=True)}


def _resources_of(report: str) -> Resources:
    def number(pattern: str) -> int:
        match = re.search(pattern, report)
        return int(match[1]) if match else 0

    return Resources(
        registers=number(r"Used (\d+) registers"),
        shared_bytes=number(r"(\d+) bytes smem"),
        local_bytes=number(r"(\d+) bytes stack frame"),
        constant_bytes=sum(int(size) for size in re.findall(r"(\d+) bytes cmem\[(?!0\])", report)),
        spill_store_bytes=number(r"(\d+) bytes spill stores"),
        spill_load_bytes=number(r"(\d+) bytes spill loads"),
    )
