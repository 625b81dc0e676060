"""The profile of a primitive or of any kernel: what its kernels need, what they do, and what limits them on a chip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from gpubp import chips, dtypes
from gpubp.chips import Gpu, Roofline
from gpubp.costs import Cost
from gpubp.errors import ArgumentError, BackendError
from gpubp.profiler import machine_code
from gpubp.profiler.counts import Counts, count
from gpubp.profiler.launches import RecordedLaunch, recording
from gpubp.profiler.limits import ARITHMETIC, ISSUE, MEMORY, SHARED, Limits, global_passes, limits, one_after_another
from gpubp.profiler.machine_code import MachineCode
from gpubp.profiler.occupancy import Occupancy, Waves, occupancy, waves
from gpubp.profiler.workloads import KernelLaunch, Workload

if TYPE_CHECKING:
    from gpubp.backends.plans import Plan
    from gpubp.emulator.observe.findings import Finding
    from gpubp.toolchain.ptxas import Resources

DEFAULT_CHIP = "H100"

MODEL = (
    "A model, not a measurement: counted on the emulated device from PTX, with the compiler's report and published "
    "figures of the chip. Caches, latencies and clocks are not in it."
)


@dataclass(frozen=True)
class KernelProfile:
    """One kernel of a primitive.

    Attributes:
        name: in its language.
        symbol: in the machine code.
        threads: of a block.
        resources: as the compiler reports.
        shared_bytes: of a block, static and asked for at the launch.
        occupancy: of a multiprocessor.
        waves: of the grid; None if no block fits.
        machine_code: None if it could not be read, for the reason `unread`.
        counts: what it does, also line by line.
    """

    name: str
    symbol: str
    threads: int
    resources: Resources
    shared_bytes: int
    occupancy: Occupancy
    waves: Waves | None
    machine_code: MachineCode | None
    unread: str
    counts: Counts


@dataclass(frozen=True)
class Profile:
    """One primitive at one shape, or one launch of any kernel, on one chip.

    Attributes:
        title: what was profiled: the primitive, its parts, or the kernel.
        workload: the primitive, or the launch.
        backend: whose kernels.
        arch: what they are compiled for.
        plan: of a product.
        cost: the least work.
        shapes: those that were run to count.
        exact, error: True if the counts hold exactly for the workload's shape, and if not by how much a check was
            off.
        limits: what keeps it from being faster.
        findings: what the observers of a kernel's launch found, and suppressed.
        sources: texts of the kernel's sources that are in no file, by name.
    """

    title: str
    workload: Workload | KernelLaunch
    backend: str
    arch: str
    gpu: Gpu
    plan: Plan | None
    cost: Cost
    kernels: tuple[KernelProfile, ...]
    shapes: tuple[tuple[int, ...], ...]
    scaled: bool
    exact: bool
    error: float
    limits: Limits
    findings: tuple[Finding, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def roofline(self) -> Roofline:
        """Return the roofline of the chip for the kind of arithmetic."""
        return self.gpu.roofline(self.cost.rate)

    @property
    def tensor_cores(self) -> bool:
        """True if tensor cores multiply."""
        return self.cost.rate in (*dtypes.MIXED, chips.FLOAT64_TENSOR)

    @property
    def by_wgmma(self) -> bool:
        """True if warpgroups multiply, at the chip's whole rate."""
        return self.plan is not None and self.plan.variant == "wgmma"

    @property
    def peak_share(self) -> float:
        """Share of the chip's peak rate that the limits leave."""
        return self.limits.rate / self.roofline.peak

    @property
    def ceiling_share(self) -> float:
        """Return the share of the rate that the kernels' instructions reach, on tensor cores mma.sync's or wgmma's."""
        if self.by_wgmma:
            return self.peak_share
        return self.limits.rate / self.gpu.ceiling(self.cost.rate).peak

    @property
    def shares(self) -> str:
        """Return both shares in words: of the peak rate and, where it is another, of mma.sync's."""
        of_peak = f"{percent(self.peak_share)} of the peak rate"
        if self.cost.rate not in dtypes.MIXED or self.by_wgmma:
            return of_peak
        if self.gpu.mma_sync is None:
            return f"{of_peak}; what mma.sync reaches of it on {self.gpu.name} is not known"
        return f"{of_peak}, {percent(self.ceiling_share)} of the {percent(self.gpu.mma_sync)} that mma.sync reaches"

    @property
    def traffic(self) -> int:
        """Return the bytes of all sectors that accesses to global memory move; a cache may serve many of them."""
        return 32 * sum(kernel.counts.sectors for kernel in self.kernels)

    @property
    def stage_bytes(self) -> int:
        """Return the bytes of the tiles that a block copies at a time; 0 if it copies none in advance."""
        if self.plan is None or self.plan.stages == 1:
            return 0
        return (self.plan.tile_m + self.plan.tile_n) * self.plan.tile_k * self.plan.item_bytes

    @property
    def bytes_in_flight(self) -> int:
        """Return the bytes that are on their way from memory to a multiprocessor while it computes.

        These are all stages of its blocks except the one in use.
        """
        if not self.stage_bytes or self.plan is None:
            return 0
        main = self.kernels[0]
        blocks = min(main.occupancy.blocks, -(-main.counts.blocks // self.gpu.multiprocessors))
        return blocks * (self.plan.stages - 1) * self.stage_bytes

    @property
    def limiter(self) -> str:
        """Return what limits the primitive, in one sentence."""
        return _sentence(self)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        found = asdict(self)
        del found["sources"]
        found["findings"] = [
            {
                "grade": each.grade,
                "kind": each.kind,
                "message": each.message,
                "count": each.count,
                "reason": each.reason,
            }
            for each in self.findings
        ]
        found["gpu"] = {"key": self.gpu.key, "name": self.gpu.name, "source": self.gpu.source}
        found["gpu"]["mma_sync"] = {"share": self.gpu.mma_sync, "source": self.gpu.mma_source}
        found["note"] = MODEL
        found["limiter"] = self.limiter
        found["limits"] |= {"busy": self.limits.busy, "limiter": self.limits.limiter}
        found["limits"] |= {"peak_share": self.peak_share, "ceiling_share": self.ceiling_share}
        found["cost"] |= {"intensity": self.cost.intensity, "ridge": self.roofline.ridge}
        found |= {name: getattr(self, name) for name in ("traffic", "stage_bytes", "bytes_in_flight")}
        for kernel, own in zip(found["kernels"], self.kernels, strict=True):
            counts = own.counts
            kernel["counts"] |= {
                "executed": counts.executed,
                "sectors": counts.sectors,
                "sectors_a_request": counts.sectors_a_request,
                "shared_passes": counts.passes,
                "bank_conflicts": counts.conflicts,
            }
            kernel["occupancy"] |= {"share": own.occupancy.share, "limited_by": own.occupancy.limited_by}
            if own.waves is not None:
                kernel["waves"] |= {"count": own.waves.count, "last_fill": own.waves.last_fill}
            if own.machine_code is not None:
                kernel["machine_code"] |= {"arithmetic_share": own.machine_code.arithmetic_share}
        return found


# --- making one -------------------------------------------------------------------------------------------------------
def profile(work: Workload, backend: str = "cupy", gpu: Gpu | None = None, arch: str | None = None) -> Profile:
    """Profile a primitive.

    Args:
        gpu: the chip; None: one of the table that runs `arch`, or `DEFAULT_CHIP`.
        arch: what to compile for; None: the chip's own.

    Raises:
        ArgumentError: arguments do not go together.
        BackendError: a compiler is missing.
    """
    return _profile("", work, [work], backend, *target(gpu, arch))


def separate_halves(work: Workload, backend: str = "cupy", gpu: Gpu | None = None, arch: str | None = None) -> Profile:
    """Profile hidden_delta as its two halves: transpose_product, and then hadamard_derivative."""
    if work.primitive != "hidden_delta":
        raise ArgumentError("primitive", work.primitive, "hidden_delta, which has two halves")
    product = replace(work, primitive="transpose_product")
    derivative = replace(work, primitive="hadamard_derivative", shape=work.shape[:2], variant=None)
    return _profile("transpose_product + hadamard_derivative", work, [product, derivative], backend, *target(gpu, arch))


def target(gpu: Gpu | None, arch: str | None) -> tuple[Gpu, str]:
    """Return the chip, and the architecture to compile for.

    Raises:
        ArgumentError: the chip does not run code for `arch`, or no chip of the table does.
    """
    if arch is None:
        gpu = gpu or chips.get(DEFAULT_CHIP)
        return gpu, gpu.arch
    if gpu is None:
        able = [each for each in chips.known().values() if _runs(each.arch, arch)]
        if not able:
            raise ArgumentError("arch", arch, "one that a chip of the table runs, or give the chip too (--chip)")
        return next((each for each in able if each.arch == arch), able[0]), arch
    if not _runs(gpu.arch, arch):
        raise ArgumentError("arch", arch, f"one that {gpu.name} runs, such as {gpu.arch}")
    return gpu, arch


def _runs(own: str, arch: str) -> bool:
    """True if a chip of architecture `own` runs machine code for `arch`: the same major version, up to its minor."""
    try:
        have, want = chips.number_of(own), chips.number_of(arch)
    except ValueError:
        return False
    return have // 10 == want // 10 and have >= want


def _profile(title: str, work: Workload, parts: Sequence[Workload], backend: str, gpu: Gpu, arch: str) -> Profile:
    if backend == "numba" and work.tensor_cores:
        raise ArgumentError("dtype", work.dtype, "float32 or float64 on backend numba, which has no others")
    if work.is_product:
        require_units(work.dtype, gpu)
    gpu.roofline(work.cost().rate)  # an error before the work, where the chip has no such units
    with recording(backend, gpu, arch) as (device, launches):
        counted = [count(part, device, launches) for part in parts]
    kernels_of = [
        [kernel_profile(gpu, launch, counts) for launch, counts in zip(each.launches, each.counts, strict=True)]
        for each in counted
    ]
    costs = [_cost(part, each.plan) for part, each in zip(parts, counted, strict=True)]
    limits_of = [
        limits(gpu, cost, [(kernel.counts, _main_loop_code(kernel, part)) for kernel in kernels], each.plan)
        for part, cost, kernels, each in zip(parts, costs, kernels_of, counted, strict=True)
    ]
    return Profile(
        title=title or work.primitive,
        workload=work,
        backend=backend,
        arch=arch,
        gpu=gpu,
        plan=counted[0].plan,
        cost=_sum(costs),
        kernels=tuple(kernel for kernels in kernels_of for kernel in kernels),
        shapes=tuple(shape for each in counted for shape in each.shapes),
        scaled=any(len(each.shapes) > 1 for each in counted),
        exact=all(each.exact for each in counted),
        error=max(each.error for each in counted),
        limits=one_after_another(limits_of),
    )


def require_units(dtype: str, gpu: Gpu) -> None:
    """Raise ArgumentError if a chip has no units for products of this kind, or none that the kernels use."""
    if dtypes.ARITHMETIC[dtype].tensor_cores and not gpu.for_plans().has_tensor_cores:
        raise ArgumentError("dtype", dtype, f"float32 or float64 on {gpu.name}: the kernels' tensor cores need sm_80")
    gpu.roofline(dtype)


def _main_loop_code(kernel: KernelProfile, work: Workload) -> MachineCode | None:
    """Return the machine code of a product, whose multiply-adds are nearly all in its main loop; else None."""
    return kernel.machine_code if work.is_product else None


def _cost(work: Workload, plan: Plan | None) -> Cost:
    """Return the least work of a primitive, at the rate of the units that its plan computes on."""
    cost = work.cost()
    on_tensor_cores = plan is not None and plan.variant == "tensorcore" and plan.dtype == "float64"
    return replace(cost, rate=chips.FLOAT64_TENSOR) if on_tensor_cores else cost


def _sum(costs: Iterable[Cost]) -> Cost:
    """Return the work of primitives one after the other; the kind of arithmetic is the first's."""
    first, *others = costs
    return Cost(
        first.flops + sum(each.flops for each in others),
        first.bytes_read + sum(each.bytes_read for each in others),
        first.bytes_written + sum(each.bytes_written for each in others),
        first.rate,
    )


def kernel_profile(gpu: Gpu, launch: RecordedLaunch, counts: Counts) -> KernelProfile:
    """Return what a launch needs and does on a chip."""
    held = occupancy(gpu.multiprocessor, launch.threads, launch.resources.registers, launch.shared_bytes)
    code, unread = None, ""
    try:
        code = machine_code.read(launch.cubin, launch.symbol)
    except BackendError as error:
        unread = str(error)
    return KernelProfile(
        launch.kernel,
        launch.symbol,
        launch.threads,
        launch.resources,
        launch.shared_bytes,
        held,
        waves(gpu, held, counts.blocks),
        code,
        unread,
        counts,
    )


# --- the limiter, in words --------------------------------------------------------------------------------------------
def percent(share: float) -> str:
    """Return a share as text: two digits if it is small."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{share:.0%}".replace("%", " %")


def rounded(number: float) -> str:
    """Return a number as text: three digits, and all before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _sentence(profile: Profile) -> str:
    gpu, main = profile.gpu, max(profile.kernels, key=lambda kernel: kernel.counts.executed)
    if main.waves is None:
        lacking = " and ".join(main.occupancy.limited_by)
        return f"It does not run on {gpu.name}: a multiprocessor has too few {lacking} for one block."
    name = profile.limits.limiter
    if main.counts.blocks <= gpu.multiprocessors / 2:  # of more, the others are held up by the busiest, as said below
        name = "the size of its grid"
        blocks = "1 block" if main.counts.blocks == 1 else f"{main.counts.blocks} blocks"
        why = f"{blocks} for the {gpu.multiprocessors} multiprocessors of {gpu.name}"
    else:
        reasons = {MEMORY: _of_memory, ARITHMETIC: _of_arithmetic, ISSUE: _of_issue, SHARED: _of_shared}
        why = reasons[name](profile, main)
        if name != MEMORY and profile.limits.balance < 0.995:
            why += f", and the busiest multiprocessor has {percent(1 / profile.limits.balance - 1)} more than its part"
    share = f"; at most {profile.shares}" if profile.cost.flops else ""
    return f"Limited by {name}: {why}{share}."


def _of_memory(profile: Profile, main: KernelProfile) -> str:
    needed = f"{profile.gpu.name} needs {rounded(profile.roofline.ridge)} to keep its arithmetic busy"
    return f"{rounded(profile.cost.intensity)} flops a byte, where {needed}"


def _of_arithmetic(profile: Profile, main: KernelProfile) -> str:
    by = " by wgmma" if profile.by_wgmma else " by mma.sync" if profile.tensor_cores else ""
    return f"the units for {profile.cost.rate} have no pause{by}"


def _of_issue(profile: Profile, main: KernelProfile) -> str:
    code = main.machine_code
    if not main.counts.flops:
        return f"it has no floating-point operations, and most instructions are for {main.counts.busiest()}"
    if code is None or not code.main_loop or profile.plan is None:
        each = main.counts.executed / max(main.counts.flops, 1)
        return f"{each:.2g} instructions a flop, most of them for {main.counts.busiest()}"
    names = [name for name in code.opcodes if machine_code.classify(name) in ("FMA", "tensor")]
    return f"{percent(code.arithmetic_share)} of the main loop's instructions are {' and '.join(names)}"


def _of_shared(profile: Profile, main: KernelProfile) -> str:
    shared = main.counts.passes > global_passes(main.counts)
    what = "passes through the banks of shared memory" if shared else "requests to global memory, cached or not"
    return f"{what}, most of them for {main.counts.worst('shared' if shared else 'global', 'units')}"
