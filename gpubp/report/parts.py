"""The parts of a report: what each is called, how long it may take, and what a user chooses of them."""

from __future__ import annotations

from dataclasses import dataclass

from gpubp.costs import PRIMITIVES
from gpubp.crosscheck.cases import OPTIONS
from gpubp.errors import ArgumentError, ConflictError, unknown_name

BACKENDS = ("cupy", "numba")
"""Those with kernels."""

DEVICES = ("gpu", "emulator", "virtual")

GROUPS = ("check", "train", "bench", "profile")
"""What can be left out of a report."""


@dataclass(frozen=True)
class Part:
    """A part of a report, which runs in a process of its own.

    Attributes:
        name: in the file of results.
        group: what `--skip` calls it; "" if it cannot be left out.
        title: for readers.
        gpu_seconds: how long it may take on a GPU. All parts together: 10 minutes.
        emulated_seconds: how long it may take on the emulated or the virtual device.
        backend: whose kernels; "" for those of all backends.
    """

    name: str
    group: str
    title: str
    gpu_seconds: int
    emulated_seconds: int
    backend: str = ""


PARTS = {
    part.name: part
    for part in (
        Part("info", "", "info", 40, 60),
        Part("check-cupy", "check", "check of cupy", 140, 300, "cupy"),
        Part("check-numba", "check", "check of numba", 90, 300, "numba"),
        Part("train-cupy", "train", "training on cupy", 30, 120, "cupy"),
        Part("train-numba", "train", "training on numba", 30, 120, "numba"),
        Part("bench-steps", "bench", "bench of training steps", 75, 120),
        Part("bench-primitives", "bench", "bench of primitives", 110, 180),
        Part("bench-rungs", "bench", "bench of the rungs", 45, 120),
        Part("profile", "profile", "profile", 35, 180),
    )
}
"""Every part by its name, in the order in which they run."""

FULL_FACTOR = 120
"""How many times as long each part may take in a full report."""

SOFT_SHARE = 0.85
"""The share of its time after which a part takes up nothing new, so that it ends with what it has."""


@dataclass(frozen=True)
class Choice:
    """What goes into a report.

    Attributes:
        backends: whose kernels; empty: of all that run here.
        primitives: only these.
        skip: groups of parts that are left out.
        device: where the kernels run; "": on the GPU if there is one, else on the emulated device.
        quick: less of everything.
        full: everything that there is, for hours.
        jobs: worker processes of the check.

    Raises:
        ArgumentError: a name is unknown.
    """

    backends: tuple[str, ...] = ()
    primitives: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    device: str = ""
    quick: bool = False
    full: bool = False
    jobs: int | None = None

    def __post_init__(self) -> None:
        for argument, names, known in (
            ("backend", self.backends, BACKENDS),
            ("primitive", self.primitives, tuple(OPTIONS)),
            ("skip", self.skip, GROUPS),
        ):
            for name in names:
                if name not in known:
                    raise unknown_name(argument, name, known)
        if self.device and self.device not in DEVICES:
            raise ArgumentError("device", self.device, f"one of {', '.join(DEVICES)}")
        if self.quick and self.full:
            raise ConflictError("--full", "--quick")

    @property
    def measured(self) -> tuple[str, ...]:
        """Return the primitives that bench and profile take, of those that were named."""
        return tuple(name for name in self.primitives if name in PRIMITIVES)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Return the parts of the chosen backends, those that are left out among them."""
        chosen = self.backends or BACKENDS
        return tuple(part for part in PARTS.values() if not part.backend or part.backend in chosen)

    def left_out(self) -> dict[str, str]:
        """Return the names of the parts that do not run, and why."""
        found = {part.name: "as the command asks" for part in self.parts if part.group in self.skip}
        if self.primitives:
            only = f"the command asks for {', '.join(self.primitives)} alone"
            gone = {"train-cupy", "train-numba", "bench-steps"}
            if "hidden_delta" not in self.primitives:
                gone.add("bench-rungs")
            if not self.measured:
                gone |= {"bench-primitives", "profile"}
            found = {part.name: only for part in self.parts if part.name in gone} | found
        return found

    def seconds(self, part: Part, device: str) -> float:
        """Return how long a part may take on a device."""
        return (part.gpu_seconds if device == "gpu" else part.emulated_seconds) * (FULL_FACTOR if self.full else 1)

    @property
    def options(self) -> str:
        """Return what decides how much each part does, as text."""
        words = [*self.backends, *self.primitives, "full" if self.full else "quick" if self.quick else "usual"]
        return " ".join(words)


@dataclass(frozen=True)
class Task:
    """One part, as its process is asked for it.

    Attributes:
        part: its name.
        device: where kernels run.
        devices: where each backend's kernels run.
        gpu: the name of the machine's GPU; "" without one.
        seconds: after these it takes up nothing new.
    """

    part: str
    device: str
    devices: dict[str, str]
    choice: Choice
    gpu: str = ""
    seconds: float = float("inf")
