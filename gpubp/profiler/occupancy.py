"""How many blocks a multiprocessor holds at a time, what limits them, and in how many waves a grid runs.

The rules are those of cuda_occupancy.h, NVIDIA's own calculation in the CUDA toolkit: registers are given to a warp in
units, from the part of the register file that belongs to its scheduler; a block's shared memory is rounded up, together
with what the system reserves in each block. It is what fits, not what a run achieves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpubp.chips import WARP, Gpu, Multiprocessor
from gpubp.registry import require_count


@dataclass(frozen=True)
class Occupancy:
    """What one multiprocessor holds of a kernel.

    Attributes:
        blocks: at a time.
        limits: how many each resource would allow: "threads", "blocks", "registers", "shared memory".
        warps: of a block.
        most_warps: that a multiprocessor can hold.
    """

    blocks: int
    limits: Mapping[str, int]
    warps: int
    most_warps: int

    @property
    def limited_by(self) -> tuple[str, ...]:
        """Return the resources that are not enough for one more block."""
        return tuple(name for name, blocks in self.limits.items() if blocks == self.blocks)

    @property
    def share(self) -> float:
        """Return resident warps as a share of the most possible."""
        return self.blocks * self.warps / self.most_warps


@dataclass(frozen=True)
class Waves:
    """How a grid runs over a chip: in waves of as many blocks as it holds at a time.

    Attributes:
        blocks: of the grid.
        resident: blocks on the chip at a time.
    """

    blocks: int
    resident: int

    @property
    def count(self) -> int:
        """Return the number of waves, the last one full or not."""
        return -(-self.blocks // self.resident)

    @property
    def last_fill(self) -> float:
        """Return how full the last wave is: its blocks as a share of those that fit."""
        return (self.blocks - (self.count - 1) * self.resident) / self.resident


def occupancy(limits: Multiprocessor, threads: int, registers: int, shared_bytes: int = 0) -> Occupancy:
    """Return what a multiprocessor holds of blocks of `threads` threads.

    Args:
        registers: of a thread.
        shared_bytes: of a block, static and dynamic.

    Raises:
        ArgumentError: a number is out of its range.
    """
    require_count("threads", threads)
    require_count("registers", registers)
    require_count("shared_bytes", shared_bytes, least=0)
    warps = -(-threads // WARP)
    found = {
        "threads": limits.blocks_by_threads(threads),
        "blocks": limits.blocks,
        "registers": limits.blocks_by_registers(threads, registers),
        "shared memory": limits.blocks_by_shared_memory(shared_bytes),
    }
    return Occupancy(min(found.values()), found, warps, limits.threads // WARP)


def waves(gpu: Gpu, found: Occupancy, blocks: int) -> Waves | None:
    """Return the waves of a grid with this many blocks; None if no block fits a multiprocessor."""
    return Waves(blocks, found.blocks * gpu.multiprocessors) if found.blocks else None
