"""What the kernels depend on: nothing of the package but each other, so that they can be read and taken away alone."""

import ast
from pathlib import Path

import pytest

import gpubp.kernels

FOLDER = Path(gpubp.kernels.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))


def modules_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_kernels_import_only_kernels(path):
    own = [name for name in modules_of(ast.parse(path.read_text(encoding="utf-8"))) if name.startswith("gpubp")]
    assert [name for name in own if name.split(".")[:2] != ["gpubp", "kernels"]] == []
