"""What this machine has, and what each backend would use or lacks: `gpubp info`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpubp import backends
from gpubp.backends import detection
from gpubp.backends.detection import Availability
from gpubp.distributed.ranks import ALONE, VISIBLE, Ranks
from gpubp.errors import printable
from gpubp.memory import usable_memory

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = (
    "gpubp",
    "numpy",
    "scipy",
    "mkl",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "numba",
    "numba-cuda",
    "numba-cuda-mlir",
    "nvidia-cuda-nvrtc",
    "mpi4py",
)
"""The distributions whose versions matter for a result."""


@dataclass(frozen=True)
class MachineInfo:
    """What was found.

    Attributes:
        memory: bytes that a process may use; 0 if the system does not say.
        driver: the newest CUDA version that the driver offers, or "".
        gpu_fault: why there is no GPU, or "".
        automatic: what backend "auto" takes.
        ranks: of each process that a launcher of MPI started, its machine and the GPU that it takes; empty for one.
    """

    python: str
    system: str
    processor: str
    cores: int
    memory: int
    driver: str
    gpus: tuple[str, ...]
    gpu_fault: str
    packages: dict[str, str]
    backends: tuple[Availability, ...]
    automatic: str
    ranks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it; without the ranks if there are none."""
        return {name: value for name, value in asdict(self).items() if name != "ranks" or value}

    def table(self) -> Table:
        """Return all of it as a table for a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        table.add_row("Python", f"{self.python} on {self.system}")
        memory = f", {self.memory / 2**30:.3g} GiB of memory" if self.memory else ""
        table.add_row("CPU", f"{self.processor}, {self.cores} cores{memory}")
        table.add_row("GPU", ", ".join(self.gpus) or f"none ({self.gpu_fault})")
        table.add_row("driver", f"CUDA {self.driver}" if self.driver else "none")
        table.add_row("packages", ", ".join(f"{name} {version}" for name, version in self.packages.items()))
        for each in self.backends:
            verdict = ("works", "green") if each.works else ("lacks", "red")
            remedy = f"\n{each.remedy}" if each.remedy else ""
            told = Text.assemble(verdict, ": ", printable(each.detail + remedy))
            table.add_row(f"{each.backend} on {each.device}", told)
        table.add_row("auto takes", self.automatic)
        for number, place in enumerate(self.ranks):
            table.add_row(f"rank {number}", place)
        return table


def look(ranks: Ranks = ALONE) -> MachineInfo:
    """Return what this machine has. Runs a tiny kernel if there is a GPU. All ranks call this."""
    found = tuple(detection.probe(name, device) for name, devices in backends.BACKENDS.items() for device in devices)
    driver = detection.driver()
    automatic = next((each for each in found if each.works and each.device == "gpu"), None)
    return MachineInfo(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        processor=_processor(),
        cores=_cores(),
        memory=usable_memory(),
        driver="{}.{}".format(*driver.version) if driver.version[0] else "",
        gpus=driver.devices,
        gpu_fault=driver.fault,
        packages=_versions(),
        backends=found,
        automatic=f"{automatic.backend} on gpu" if automatic else "cpu on cpu",
        ranks=_ranks(ranks, driver.devices),
    )


def _ranks(ranks: Ranks, gpus: Sequence[str]) -> tuple[str, ...]:
    """Return where each rank runs; of a process that is alone, nothing."""
    if ranks.alone:
        return ()
    place = f" ({VISIBLE}={os.environ[VISIBLE]})" if gpus else ""
    return tuple(ranks.gather(f"{ranks.host}: {', '.join(gpus) or 'no GPU'}{place}"))


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
