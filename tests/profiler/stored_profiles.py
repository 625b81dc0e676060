"""The stored profiles: what a fixed set of kernels needs and does, and the compilers that made them.

    make profiles          writes tests/profiler/stored_profiles.json anew

A test compares them under the same versions, so that a change which makes a kernel do more work does not go unseen.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpubp import chips
from gpubp.profiler.profiles import KernelProfile, profile
from gpubp.profiler.workloads import Workload
from gpubp.toolchain import process

STORE = Path(__file__).with_name("stored_profiles.json")

COMPILERS = (
    "nvidia-cuda-nvrtc",
    "nvidia-nvvm",
    "nvidia-nvjitlink",
    "nvidia-cuda-nvdisasm",
    "numba",
    "numba-cuda",
    "llvmlite",
)
"""The distributions that the figures depend on."""

SQUARE = (1024, 1024, 1024)
LARGE = (4096, 4096, 4096)
LAYER = (512, 256)

PROFILES = (
    ("cupy", "H100", Workload("hidden_delta", SQUARE, variant="naive")),
    ("cupy", "H100", Workload("hidden_delta", SQUARE, variant="tiled")),
    ("cupy", "H100", Workload("hidden_delta", SQUARE, variant="blocked")),
    ("cupy", "H100", Workload("hidden_delta", LARGE)),
    ("cupy", "A100", Workload("dense_forward", LARGE, activation="gelu")),
    ("cupy", "T4", Workload("weight_gradient", SQUARE)),
    ("cupy", "A100", Workload("hidden_delta", SQUARE, "float64", activation="tanh")),
    ("cupy", "H100", Workload("dense_forward", LARGE, "bfloat16")),
    ("cupy", "A100", Workload("weight_gradient", LARGE, "tf32")),
    ("cupy", "H100", Workload("dense_forward", LARGE, "tf32")),
    ("cupy", "H100", Workload("hadamard_derivative", LAYER)),
    ("cupy", "H100", Workload("output_delta", (512, 10))),
    ("cupy", "H100", Workload("output_delta", (512, 10), mode="weighted")),
    ("cupy", "H100", Workload("bias_gradient", LAYER)),
    ("cupy", "H100", Workload("bias_gradient", LAYER, mode="accumulate")),
    ("cupy", "H100", Workload("update", (100_000,), optimizer="adam")),
    ("cupy", "H100", Workload("update", (100_000,), optimizer="adam", mode="penalties")),
    ("cupy", "H100", Workload("dense_forward", SQUARE)),
    ("cupy", "H100", Workload("dense_forward", SQUARE, mode="dropout")),
    ("cupy", "H100", Workload("hidden_delta", SQUARE)),
    ("cupy", "H100", Workload("hidden_delta", SQUARE, mode="dropout")),
    ("cupy", "A100", Workload("dense_forward", SQUARE, "bfloat16")),
    ("cupy", "A100", Workload("dense_forward", SQUARE, "bfloat16", mode="dropout")),
    ("cupy", "H100", Workload("weight_gradient", SQUARE)),
    ("cupy", "H100", Workload("weight_gradient", SQUARE, mode="accumulate")),
    ("numba", "H100", Workload("hidden_delta", SQUARE, variant="tiled")),
    ("numba", "H100", Workload("hidden_delta", SQUARE, variant="blocked")),
    ("numba", "H100", Workload("hidden_delta", SQUARE)),
    ("numba", "H100", Workload("hidden_delta", SQUARE, mode="dropout")),
    ("numba", "H100", Workload("softmax", LAYER)),
    ("numba", "H100", Workload("output_delta", (512, 10))),
    ("numba", "H100", Workload("output_delta", (512, 10), mode="weighted")),
    ("numba", "H100", Workload("update", (100_000,), optimizer="adam")),
)
"""Backend, chip and work of each stored profile."""


def versions() -> dict[str, str]:
    """The compilers that are installed."""
    return {name: _version(name) for name in COMPILERS}


def measured() -> dict[str, list[dict[str, Any]]]:
    """The figures of every profile in the set, by its name: one entry a kernel."""
    return {name: list(map(figures, kernels)) for name, kernels in _profiles()}


def figures(kernel: KernelProfile) -> dict[str, Any]:
    """What is stored of one kernel."""
    counts, used, code = kernel.counts, kernel.resources, kernel.machine_code
    return {
        "kernel": kernel.name,
        "registers": used.registers,
        "spilled bytes": used.spill_store_bytes + used.spill_load_bytes,
        "shared bytes": kernel.shared_bytes,
        "instructions": counts.executed,
        "sectors": counts.sectors,
        "sectors beyond the fewest": counts.total("global", "excess"),
        "shared passes": counts.passes,
        "bank conflicts": counts.conflicts,
        "main loop": None if code is None else code.loop_instructions,
        "multiply-adds in the main loop": None if code is None else round(code.arithmetic_share, 4),
    }


def differences(stored: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Every figure that is another, as a line: what it was, what it is, by how much; [] for none."""
    lines = [f"{name}: not stored" for name in found if name not in stored]
    for name, kernels in stored.items():
        if name not in found:
            lines.append(f"{name}: stored, and no longer in the set")
        elif [kernel["kernel"] for kernel in kernels] != [kernel["kernel"] for kernel in found[name]]:
            names = [", ".join(kernel["kernel"] for kernel in each) for each in (kernels, found[name])]
            lines.append(f"{name}: the kernels were {names[0]}, and are {names[1]}")
        else:
            for old, new in zip(kernels, found[name], strict=True):
                lines += [
                    f"{name}: {old['kernel']}: {figure}: {_change(old[figure], new.get(figure))}"
                    for figure in old
                    if old[figure] != new.get(figure)
                ]
    return lines


def _known(figure: Any) -> bool:
    return isinstance(figure, int | float)


def _change(old: Any, new: Any) -> str:
    known = _known(old) and _known(new)
    share = f" ({new / old - 1:+.1%})" if known and old else ""
    return f"{old:,} -> {new:,}{share}" if known else f"{old} -> {new}"


def _profiles() -> Iterator[tuple[str, tuple[KernelProfile, ...]]]:
    for backend, chip, work in PROFILES:
        made = profile(work, backend, chips.get(chip))
        variant = f" {made.plan.variant}" if made.plan is not None else ""
        option = {"update": f" {work.optimizer}"}.get(work.primitive, f" {work.activation}")
        option += f" {work.mode}" if work.mode else ""
        sides = "x".join(map(str, work.shape))
        yield f"{backend} {work.primitive}{variant} {work.dtype}{option} {sides} {made.arch}", made.kernels


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def main() -> None:
    """Rewrite the store, and say what changed."""
    if not process.reproducible():
        sys.exit("the same source may give other code here: this system does not let a process fix its addresses")
    before = json.loads(STORE.read_text(encoding="utf-8")) if STORE.is_file() else {"versions": {}, "profiles": {}}
    found = measured()
    for line in differences(before["profiles"], found):
        print(line)
    STORE.write_text(json.dumps({"versions": versions(), "profiles": found}, indent=1) + "\n", encoding="utf-8")
    print(f"{len(found)} profiles in {STORE}")


if __name__ == "__main__":
    sys.exit(main())
