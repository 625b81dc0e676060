"""`gpubp check --orders`: the project's kernels give the same bits in any order of execution, a wrong one does not."""

import shutil

import numpy as np
import pytest

from gpubp import backends
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.instances import KERNEL_DIRECTORY
from gpubp.backends.plans import VARIANTS
from gpubp.crosscheck import cases, runner
from gpubp.crosscheck.runner import Watch
from gpubp.crosscheck.summary import CrossCheck

TILED = "transpose_product:tiled:float32:33x17x65:-:-:1:random:0:0"
ORDERS = (0, 1)


def failures(backend, chosen, watch):
    outcomes = [runner.run_case(backend, case, watch) for case in chosen]
    return [(outcome.case.name, outcome.complaint()) for outcome in outcomes if not outcome.passed]


def sample(primitive, number, variants=VARIANTS):
    """A few cases of a primitive, evenly from its covering set."""
    found = cases.covering_cases(primitive, variants)
    return found[:: max(1, len(found) // number)][:number]


@pytest.mark.slow
@pytest.mark.parametrize("primitive", cases.OPTIONS)
def test_results_are_the_same_bits_in_any_order(primitive):
    """Of the CUDA C++ kernels, with tensor cores where there are any."""
    assert failures(backends.get("cupy", "emulator"), sample(primitive, 3), Watch(orders=ORDERS)) == []


@pytest.mark.slow
@pytest.mark.parametrize("primitive", ["transpose_product", "prepare_update"])
def test_results_of_numba_are_the_same_bits_in_any_order(primitive):
    backend = backends.get("numba", "emulator")
    assert failures(backend, sample(primitive, 2, tuple(backend.variants)), Watch(orders=ORDERS)) == []


def without_the_second_barrier(folder):
    """A backend whose tiled products load the next tiles while others still read the last ones."""
    shutil.copytree(KERNEL_DIRECTORY, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    path = folder / "product_tiled.cuh"
    text = path.read_text(encoding="utf-8")
    barrier = "__syncthreads();  // nobody reads them any more"
    assert text.count(barrier) == 1, "the kernel has changed"
    path.write_text(text.replace(barrier, ""), encoding="utf-8")
    return CupyBackend("emulator", kernels=folder)


@pytest.mark.slow
def test_a_missing_barrier_shows_in_another_order_alone(tmp_path):
    """In the usual order all warps go from barrier to barrier together, and the result is right."""
    backend, case = without_the_second_barrier(tmp_path / "cuda"), cases.parse(TILED)
    assert runner.run_case(backend, case).passed
    outcome = runner.run_case(backend, case, Watch(orders=tuple(range(4))))
    assert not outcome.passed
    assert "depends on the order of execution" in outcome.complaint()
    assert f"in order {outcome.order}: " in outcome.complaint()
    again = runner.run_case(backend, case, Watch(orders=(outcome.order,)))
    assert again.complaint() == "\n".join(line for line in outcome.complaint().splitlines() if line in again.faults)
    assert again.faults
    command = CrossCheck("cupy", "emulator", Watch(orders=tuple(range(4)))).command(outcome)
    assert f" --order {outcome.order} --case {TILED}" in command


def test_an_error_in_another_order_is_a_fault_that_names_it(monkeypatch):
    from gpubp import emulator

    real = runner._run

    def run(backend, problem, case, watch, order=None):
        if order == 1:
            raise emulator.HangError("never ends (in the order of execution of observe(order=1))")
        return real(backend, problem, case, watch, order)

    monkeypatch.setattr(runner, "_run", run)
    outcome = runner.run_case(
        backends.get("cupy", "emulator"), cases.parse("scale:-:float32:5:-:-:1:random:0:0"), Watch(orders=ORDERS)
    )
    assert outcome.order == 1
    assert outcome.faults == ("HangError: never ends (in the order of execution of observe(order=1))",)


def test_minus_zero_is_another_result_than_zero():
    usual, other = (runner.Run({"y": np.array([[0.0, x]])}, [], []) for x in (0.0, -0.0))
    (fault,) = runner.in_order(3, usual, lambda: other)
    assert fault == "in order 3: y depends on the order of execution: at [0, 1] it is -0.0, and 0.0 in the usual order"
    assert runner.in_order(3, usual, lambda: usual) == []
    assert runner.in_order(3, usual, lambda: other, same=False) == []
