"""What the kernels depend on: of the package each other, and which Numba there is, so that they can be read alone."""

import ast
from pathlib import Path

import pytest

import gpubp.kernels

FOLDER = Path(gpubp.kernels.__file__).parent
WHICH_NUMBA = "gpubp.toolchain.numba_package"
FILES = sorted(FOLDER.rglob("*.py"))


def modules_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_kernels_import_only_kernels(path):
    own = [name for name in modules_of(ast.parse(path.read_text(encoding="utf-8"))) if name.startswith("gpubp")]
    assert [name for name in own if not name.startswith(("gpubp.kernels.", WHICH_NUMBA))] == []
