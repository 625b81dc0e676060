"""Who imports whom, read from the source: no circle among modules, none among folders, and what each folder may use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
FUNCTIONS = {
    f"gpubp.nn.{name}" for name in ("activations", "dropout", "initializers", "losses", "optimizers", "precision")
}
"""What backends compute: they stand below the backends, and the network above."""

ALLOWED_IN_EMULATOR = {"gpubp.emulator", "gpubp.toolchain", "gpubp.chips", "gpubp.errors", "gpubp.files"}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name; kernels/ is imported as gpubp.kernels."""
    found = {}
    for folder, prefix in ((ROOT / "gpubp", "gpubp"), (ROOT / "kernels", "gpubp.kernels")):
        for path in folder.rglob("*.py"):
            parts = (prefix, *path.relative_to(folder).with_suffix("").parts)
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


@cache
def arrows() -> dict[str, set[str]]:
    """The modules that each module names in an import, wherever in its text, also for types alone."""
    return {name: set(_imported(name, path)) - {name} for name, path in modules().items()}


def _imported(name: str, path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules())
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} line {node.lineno}: a relative import"
            for alias in node.names:
                # `from package import module` needs the module, not what else the package's __init__ offers
                found = next((each for each in (f"{node.module}.{alias.name}", node.module) if each in modules()), None)
                if found:
                    yield found
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _home(name, path, node.value)


def _home(name: str, path: Path, text: str) -> Iterator[str]:
    """The module in a text such as "peers.torch_peer:make", which is imported when the function is asked for.

    A package that names its own modules so, to load them late, does not depend on them.
    """
    home = re.fullmatch(r"([\w.]+):\w+", text)
    if home and path.name != "__init__.py":
        module = f"{name.rpartition('.')[0]}.{home[1]}"
        if module in modules():
            yield module


def circles(graph: Mapping[str, set[str]]) -> list[str]:
    """Return a line for each group whose members all reach each other, with the arrows within it."""
    reached = {name: _reached(graph, name) for name in graph}
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    return sorted(
        "; ".join(f"{name} -> {', '.join(sorted(graph[name] & group))}" for name in sorted(group))
        for group in groups
        if group
    )


def _reached(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        following = graph[waiting.pop()] - found
        found |= following
        waiting += following
    return found


def folders(below: str) -> dict[str, set[str]]:
    """The arrows among what lies directly in a package: its folders and its modules, without its own __init__."""
    prefix = f"{below}."
    place = {name: prefix + name[len(prefix) :].split(".")[0] for name in modules() if name.startswith(prefix)}
    place |= {name: "the functions in gpubp.nn" for name in FUNCTIONS if name in place}
    found: dict[str, set[str]] = {each: set() for each in place.values()}
    for name, home in place.items():
        found[home] |= {place[other] for other in arrows()[name] if other in place} - {home}
    return found


def test_no_module_imports_itself_through_others() -> None:
    found = circles(arrows())
    assert not found, "import circles:\n" + "\n".join(found)


def test_no_folder_imports_itself_through_others() -> None:
    for package in ("gpubp", "gpubp.emulator", "gpubp.kernels"):
        found = circles(folders(package))
        assert not found, f"import circles among the folders of {package}:\n" + "\n".join(found)


def test_emulator_stands_alone() -> None:
    found = [
        f"{name} -> {other}"
        for name, others in arrows().items()
        if name.startswith("gpubp.emulator")
        for other in others
        if not any(other == allowed or other.startswith(f"{allowed}.") for allowed in ALLOWED_IN_EMULATOR)
    ]
    assert not found, (
        "the emulator imports more than the toolchain, the chips, the errors and the files:\n" + "\n".join(found)
    )


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}
    assert circles(graph) == ["b -> c; c -> b", "d -> d"]
