"""Which part of a chip a kernel keeps busiest: the least time of each part, by the chip's published rates.

It is no prediction: caches never miss in it, no latency shows, and the clock is the boost clock. What it is good for is
to say what limits a kernel, and how far from the peak that keeps it.

- arithmetic: flops at the peak rate of their kind; on tensor cores at the rate that mma.sync reaches, or wgmma: the
  dense one, 128 clocks for an instruction of 64×256 sums and 32 bytes of depth.
- instruction issue: each of a multiprocessor's schedulers issues one instruction of a warp a clock. Instructions are
  those of the machine code where it has a main loop (its multiply-adds are counted, and their share in it is known),
  else those of the PTX.
- shared memory and L1: 128 bytes a clock and multiprocessor, which is a pass through the 32 banks, or four sectors of
  one request to global memory; what cp.async copies is one pass, into shared memory. Accesses of 8 and 16 bytes are
  counted by halves and quarters of a warp; where threads want the same words the hardware may join some, and then this
  part is less busy than the model says. wgmma reads each operand of an instruction once; bulk copies are counted
  where they arrive.
- device memory: each input once and each output once, at the published bandwidth.

All but the last are held up by the multiprocessor that gets the most blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpubp.backends.plans import CONSUMER_ROWS, WARPGROUP, Plan
from gpubp.chips import WARP, Gpu
from gpubp.costs import Cost
from gpubp.profiler.counts import Counts
from gpubp.profiler.machine_code import MachineCode

SECTORS_A_PASS = 4
PASS = 128
"""Bytes."""
DEPTH_BYTES = 32
"""Of the depth of an instruction of wgmma."""

ARITHMETIC, ISSUE, SHARED, MEMORY = "arithmetic", "instruction issue", "shared memory and L1", "device memory"


@dataclass(frozen=True)
class Limits:
    """The seconds that each part of the chip needs for a primitive's work, at least.

    Attributes:
        seconds: by the name of the part.
        balance: of the blocks over the multiprocessors, ≤ 1: the mean over the most. It is in the seconds of all
            but device memory.
        flops: of the primitive, at least.
        pause: seconds that the busiest part waits for others, where primitives that different parts limit run one
            after the other.
    """

    seconds: dict[str, float]
    balance: float
    flops: int
    pause: float = 0.0

    @property
    def limiter(self) -> str:
        """Return the busiest part."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def least_seconds(self) -> float:
        """Return the least time of the whole."""
        return max(self.seconds.values()) + self.pause

    @property
    def rate(self) -> float:
        """Return the flop/s that this time allows."""
        return self.flops / self.least_seconds

    @property
    def busy(self) -> dict[str, float]:
        """Return the share of this time in which each part is busy."""
        return {name: seconds / self.least_seconds for name, seconds in self.seconds.items()}


def limits(
    gpu: Gpu, cost: Cost, kernels: Sequence[tuple[Counts, MachineCode | None]], plan: Plan | None = None
) -> Limits:
    """Return the limits of a primitive's kernels, which run one after the other. plan: of a product."""
    clock = gpu.boost_hz * gpu.multiprocessors
    by_wgmma = plan is not None and plan.variant == "wgmma"
    peak = (gpu.roofline if by_wgmma else gpu.ceiling)(cost.rate).peak
    seconds = dict.fromkeys((ARITHMETIC, ISSUE, SHARED), 0.0)
    even = uneven = 0.0
    for counts, code in kernels:
        own = {
            ARITHMETIC: counts.flops / peak,
            ISSUE: warp_instructions(counts, code) / (clock * gpu.multiprocessor.register_partitions),
            SHARED: (counts.passes + global_passes(counts) + warpgroup_passes(counts, plan)) / clock,
        }
        share = balance(gpu, counts.blocks)
        for name, time in own.items():
            seconds[name] += time / share
        even += max(own.values())
        uneven += max(own.values()) / share
    seconds[MEMORY] = cost.bytes / gpu.bandwidth
    return Limits(seconds, even / uneven if uneven else 1.0, cost.flops)


def one_after_another(parts: Sequence[Limits]) -> Limits:
    """Return the limits of primitives that run one after the other."""
    seconds = {name: sum(each.seconds[name] for each in parts) for name in parts[0].seconds}
    least = sum(each.least_seconds for each in parts)
    even = sum(each.least_seconds * each.balance for each in parts) / least
    return Limits(seconds, even, sum(each.flops for each in parts), least - max(seconds.values()))


def balance(gpu: Gpu, blocks: int) -> float:
    """Return the mean number of blocks of a multiprocessor over the number of the busiest one."""
    most = -(-blocks // gpu.multiprocessors)
    return blocks / (most * gpu.multiprocessors)


def global_passes(counts: Counts) -> float:
    """Return the clocks that requests to global memory take in a multiprocessor's L1.

    A request takes one clock for four sectors, and at least one. Asynchronous copies take none: they are counted where
    they arrive.
    """
    accesses = (
        each
        for line in counts.lines
        if "asynchronous copy" not in line.instructions and not any(each.kind == "async" for each in line.accesses)
        for each in line.accesses
        if each.space == "global"
    )
    return sum(max(each.requests, each.units / SECTORS_A_PASS) for each in accesses)


def warpgroup_passes(counts: Counts, plan: Plan | None) -> float:
    """Return the clocks in which wgmma reads its operands in shared memory."""
    if plan is None or plan.variant != "wgmma":
        return 0.0
    products = counts.instructions.get("tensor", 0) / WARPGROUP
    return products * (CONSUMER_ROWS + plan.tile_n) * DEPTH_BYTES / PASS


def warp_instructions(counts: Counts, code: MachineCode | None) -> float:
    """Return the number of instructions that warps issue: by the machine code, from the share of multiply-adds in its
    main loop, else by the PTX.
    """
    if code is None or not code.main_loop:
        return counts.executed / WARP
    multiply_adds = counts.instructions.get("FMA", 0) / WARP
    if "tensor" not in code.main_loop:
        return multiply_adds / code.share("FMA")
    # what is not done by tensor instructions is done after the main loop
    return counts.instructions["tensor"] / WARP / code.share("tensor") + multiply_adds
