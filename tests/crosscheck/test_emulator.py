"""The cross-validation as `gpubp check --device emulator` runs it: every case of the covering subset passes."""

import pytest

from gpubp import backends
from gpubp.backends.plans import VARIANTS
from gpubp.crosscheck import cases, runner

QUICK = ("row_argmax", "scale", "prepare_update", "gather_rows", "bias_gradient")
"""The primitives of few kernels: their cases take a second or two, compilation included."""


@pytest.fixture(scope="module")
def backend():
    """The numba backend compiles several times as long: test_numba_backend.py runs a part of its cases."""
    return backends.get("cupy", "emulator")


SAMPLED = ("dense_forward", "hidden_delta", "transpose_product", "weight_gradient", "output_delta")
"""The primitives of the most kernels: `make test` compiles a part of them, `make exhaustive` all."""


def check(backend, chosen):
    outcomes = [runner.run_case(backend, case) for case in chosen]
    assert [(outcome.case.name, outcome.complaint()) for outcome in outcomes if not outcome.passed] == []
    print(
        f"{backend.name} {chosen[0].primitive}: {max(outcome.share for outcome in outcomes):.3g} of the bound at most"
    )


def mark(primitive):
    if primitive in SAMPLED:
        return pytest.mark.exhaustive
    return () if primitive in QUICK else pytest.mark.slow


@pytest.mark.parametrize("primitive", [pytest.param(name, marks=mark(name)) for name in cases.OPTIONS])
def test_every_case_passes(backend, primitive):
    check(backend, cases.covering_cases(primitive, VARIANTS))


def kernel(case):
    """What tells the kernel of a case apart, but for its plan."""
    return case.variant, case.dtype, case.option, case.mode


def sample(chosen):
    """All cases of a few kernels that together have every variant in each of its dtypes, every mode, and every
    activation and loss in each dtype.

    The search starts at the end, since the first cases of a covering array share most of their choices.
    """
    kernels, met = set(), set()
    for case in reversed(chosen):
        choices = {(case.variant, case.dtype), case.mode, *((case.dtype, part) for part in case.option.split("+"))}
        if choices - met:
            met |= choices
            kernels.add(kernel(case))
    return [case for case in chosen if kernel(case) in kernels]


@pytest.mark.slow
def test_every_case_for_older_chips_passes():
    chosen = cases.older_cases()
    for arch in dict.fromkeys(case.arch for case in chosen):
        check_as(arch, [case for case in chosen if case.arch == arch])


def check_as(arch, chosen):
    with runner.on_chip(arch):
        check(backends.get("cupy", "emulator"), chosen)


@pytest.mark.slow
@pytest.mark.parametrize("primitive", SAMPLED)
def test_a_sample_of_the_cases_passes(backend, primitive):
    check(backend, sample(cases.covering_cases(primitive, VARIANTS)))
