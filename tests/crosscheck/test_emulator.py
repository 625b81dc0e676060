"""The cross-validation as `gpubp check --device emulator` runs it: every case of the covering subset passes."""

import pytest

from gpubp import backends
from gpubp.crosscheck import cases, runner
from gpubp.kernels.plans import VARIANTS

QUICK = ("row_argmax", "scale", "squared_norm", "gather_rows", "bias_gradient")
"""The primitives of few kernels: their cases take a second or two, compilation included."""


@pytest.fixture(scope="module")
def backend():
    """The numba backend compiles several times as long: test_numba_backend.py runs a part of its cases."""
    return backends.get("cupy", "emulator")


@pytest.mark.parametrize(
    "primitive", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in cases.OPTIONS]
)
def test_every_case_passes(backend, primitive):
    outcomes = [runner.run_case(backend, case) for case in cases.covering_cases(primitive, VARIANTS)]
    assert [(outcome.case.name, outcome.complaint()) for outcome in outcomes if not outcome.passed] == []
    print(f"{backend.name} {primitive}: {max(outcome.share for outcome in outcomes):.3g} of the bound at most")
