"""The README's table of the ladder: its figures are those of the kernels."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from gpubp import chips
from gpubp.backends.plans import TENSOR_VARIANTS, VARIANTS
from gpubp.profiler.profiles import percent, profile
from gpubp.profiler.workloads import Workload

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(
    r"^\| `(?P<rung>\w+)` \| (?P<idea>[^|]+) \| (?P<cuda_lines>\d*) \| (?P<cuda_share>[^|]*) "
    r"\| (?P<numba_lines>\d*) \| (?P<numba_share>[^|]*) \| (?P<cublas>[^|]*) \|$",
    re.MULTILINE,
)
ROWS = {row["rung"]: row.groupdict() for row in ROW.finditer((ROOT / "README.md").read_text(encoding="utf-8"))}


def lines_of_cuda(path):
    """The lines that hold more than a comment."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return sum(bool(line) and not line.startswith("//") for line in lines)


def lines_of_python(path):
    """The lines that hold more than a comment or a docstring."""
    text = path.read_text(encoding="utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in skipped]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def test_every_rung_has_a_row():
    assert tuple(ROWS) == VARIANTS


@pytest.mark.parametrize("rung", VARIANTS)
def test_the_lines_of_code_are_counted(rung):
    row = ROWS[rung]
    assert int(row["cuda_lines"]) == lines_of_cuda(ROOT / f"kernels/cuda/product_{rung}.cuh")
    python = ROOT / f"kernels/numba/product_{rung}.py"
    assert row["numba_lines"] == (str(lines_of_python(python)) if python.exists() else "")


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "rung"), [(b, r) for b in ("cupy", "numba") for r in VARIANTS])
def test_the_shares_are_those_of_the_profiler(backend, rung):
    shown = ROWS[rung]["cuda_share" if backend == "cupy" else "numba_share"]
    if not shown:
        assert backend == "numba"
        assert rung in TENSOR_VARIANTS
        return
    dtype = "bfloat16" if rung in TENSOR_VARIANTS else "float32"
    work = Workload("hidden_delta", (4096, 4096, 4096), dtype, variant=rung)
    assert shown == percent(profile(work, backend, chips.get("H100")).peak_share)
