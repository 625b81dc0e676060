"""Name the environments that the Makefile's targets `pythons` and `oldest` run the tests in.

    python tests/environments.py pythons        # 3.11 3.12 ...: the Pythons on this machine that gpubp allows
    python tests/environments.py python 3.12    # the path of that Python; without a version, of the lowest allowed
    python tests/environments.py constraints    # name==version, a line each: the oldest allowed dependencies

Only the standard library is used, because the script runs before anything is installed.
"""

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"

DEVELOPMENT = {"tools", "test", "bench", "peers", "compared"}
"""The extras for working on gpubp: their versions are not constrained."""

PROBE = """
import ensurepip, sys, sysconfig, venv
usual = sys.implementation.name == "cpython" and sys.version_info.releaselevel == "final"
if usual and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    print(*sys.version_info[:3], sys.executable)
"""
"""Print this Python's version and path, if it can make virtual environments and packages have wheels for it."""


def lowest_python(project: Mapping[str, Any]) -> tuple[int, int]:
    """Return the lowest minor version that `requires-python` allows, such as (3, 11)."""
    major, minor = re.fullmatch(r">=(\d+)\.(\d+)", project["requires-python"]).groups()
    return int(major), int(minor)


def candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    """Yield the programs python3.N on PATH, then the Pythons that pyenv installed. Some of them may not run."""
    for folder in map(Path, environment.get("PATH", "").split(os.pathsep)):
        yield from sorted(path for path in folder.glob("python3.*") if re.fullmatch(r"python3\.\d+", path.name))
    root = Path(environment.get("PYENV_ROOT") or Path(environment.get("HOME", "/"), ".pyenv"))
    yield from sorted(root.glob("versions/*/bin/python3"))


def pythons(environment: Mapping[str, str], lowest: tuple[int, int]) -> dict[tuple[int, int], str]:
    """Return the path of one Python for each minor version from `lowest` on, the newest release of each, in order."""
    found: dict[tuple[int, int], tuple[int, str]] = {}
    for candidate in candidates(environment):
        try:
            # -I: the current folder and PYTHONPATH change nothing.
            result = subprocess.run([candidate, "-I", "-c", PROBE], capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if result.returncode or not result.stdout:
            continue
        major, minor, patch, path = result.stdout.strip().split(" ", 3)
        version = int(major), int(minor)
        if version >= lowest and int(patch) > found.get(version, (-1, ""))[0]:
            found[version] = int(patch), path
    return {version: found[version][1] for version in sorted(found)}


def constraints(project: Mapping[str, Any]) -> list[str]:
    """Return `name==version` for each dependency of the core and of the extras for users, the version its lower bound.

    Raises:
        ValueError: a dependency has no lower bound, or has two.
    """
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + [line for name in extras if name not in DEVELOPMENT for line in extras[name]]
    bounds: dict[str, set[str]] = {}
    for line in lines:
        name, specifiers = re.fullmatch(r"([\w.-]+)(?:\[[^]]*\])?([^;]*)(?:;.*)?", line.replace(" ", "")).groups()
        if name != project["name"]:
            bounds.setdefault(name, set()).update(re.findall(r"(?:>=|==)([^,]+)", specifiers))
    for name, versions in bounds.items():
        if len(versions) != 1:
            raise ValueError(f"pyproject.toml: {name} must have one lower bound, and has {sorted(versions)}")
    return [f"{name}=={version}" for name, (version,) in sorted(bounds.items())]


def main() -> None:
    """Print what the command line asks for. Exit with a message if the machine has no such Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pythons", "python", "constraints"])
    parser.add_argument("version", nargs="?", help="minor version of the Python whose path to print, such as 3.12")
    arguments = parser.parse_args()
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    if arguments.what == "constraints":
        print(*constraints(project), sep="\n")
        return
    lowest = lowest_python(project)
    found = {f"{major}.{minor}": path for (major, minor), path in pythons(os.environ, lowest).items()}
    version = arguments.version or "{}.{}".format(*lowest)
    if arguments.what == "python" and version not in found:
        sys.exit(f"no Python {version} that can make a virtual environment: neither on PATH nor among pyenv's versions")
    if not found:
        sys.exit(f"no Python from {version} on that can make a virtual environment")
    print(found[version] if arguments.what == "python" else " ".join(found))


if __name__ == "__main__":
    main()
