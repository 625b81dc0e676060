"""What results of several runs must have in common to stand in one report: the machine, the software and the choice."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping
from pathlib import Path

import gpubp
import gpubp.kernels
from gpubp.machine import MachineInfo
from gpubp.report.parts import Choice

PATIENCE = 10
"""Seconds that git may take to name the commit."""

SUFFIXES = (".py", ".cu", ".cuh", ".toml")
"""The files that decide what is computed and measured."""


def identity_of(machine: MachineInfo | None, choice: Choice, device: str) -> dict[str, str]:
    """Return the identity of a report, as text by what it is called.

    Args:
        machine: None if it could not be looked at: then two reports are of one machine if neither could.
        device: where the kernels run.
    """
    found = {"device": device, "options": choice.options, "sources": _digest(), "commit": commit()}
    if machine is not None:
        packages = ", ".join(f"{name} {version}" for name, version in machine.packages.items())
        found |= {
            "GPU": ", ".join(machine.gpus),
            "driver": machine.driver,
            "processor": f"{machine.processor}, {machine.cores} cores",
            "system": machine.system,
            "Python": machine.python,
            "packages": packages,
        }
    return found


def differences(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what two identities differ in, a phrase each."""
    found = []
    for name in dict.fromkeys((*now, *before)):
        old, new = before.get(name, "unknown"), now.get(name, "unknown")
        if old != new:
            found.append(f"{name} is {new or 'none'} and was {old or 'none'}")
    return found


def commit() -> str:
    """Return the commit of the clone that the package lies in; "" if it lies in none, or git is missing."""
    root = Path(gpubp.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        ended = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ended.stdout.strip() if ended.returncode == 0 else ""


def _digest() -> str:
    """Return a digest of the package's files: a clone may have changes that no commit names."""
    found = hashlib.sha256()
    for module in (gpubp, gpubp.kernels):
        root = Path(str(module.__file__)).parent
        for path in sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES):
            found.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]
