"""The runner on the NumPy backend: it passes as it is, and each planted mistake is caught."""

import os
from dataclasses import replace

import numpy as np
import pytest

from gpubp import activations
from gpubp.backends.base import Control, Losses
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.crosscheck import cases, problems, runner
from gpubp.crosscheck.report import Report


def run_all(backend, primitive):
    return [runner.run_case(backend, case) for case in cases.covering_cases(primitive, backend.variants)]


@pytest.mark.parametrize("primitive", cases.OPTIONS)
def test_the_reference_backend_passes(primitive):
    outcomes = run_all(NumpyBackend(), primitive)
    assert [(outcome.case.name, outcome.complaint()) for outcome in outcomes if not outcome.passed] == []
    print(f"{primitive}: {max(outcome.share for outcome in outcomes):.3g} of the bound at most")


def tf32(x):
    return ((x.view(np.uint32) + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


class DropsTheLastTerm(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        np.matmul(delta_next[:, :-1], w_next[:-1], out=product)


class RoundsItsInputs(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        if product.dtype == np.float32:
            delta_next, w_next = tf32(delta_next), tf32(w_next)
        np.matmul(delta_next, w_next, out=product)


class LeavesTheLastRowUnwritten(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        np.matmul(delta_next[:-1], w_next, out=product[:-1])


class WritesBehindTheOutput(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        super().transpose_product(delta_next, w_next, product)
        behind = np.lib.stride_tricks.as_strided(product.reshape(-1), (product.size + 1,))
        behind[-1] = 0


class ChangesAnInput(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        super().transpose_product(delta_next, w_next, product)
        delta_next[0, 0] += 1


class ForgetsTheBias(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a):
        super().dense_forward(a_prev, w, None, activation, z, a)


class ForgetsToKeepZ(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a):
        super().dense_forward(a_prev, w, b, activation, None, a)


class AppliesSigmaForSigmaPrime(NumpyBackend):
    def hidden_delta(self, delta_next, w_next, activation, saved, delta):
        self.transpose_product(delta_next, w_next, delta)
        a = np.empty_like(saved)
        activation.apply(saved, a)
        np.multiply(delta, a, out=delta)


class TakesTheSlopeOfOneAtZero(NumpyBackend):
    def hadamard_derivative(self, product, activation, saved, delta):
        super().hadamard_derivative(product, activation, saved, delta)
        if activation == activations.ReLU():
            np.copyto(delta, product, where=saved == 0)


class DividesByOneRowTooMany(NumpyBackend):
    def output_delta(self, loss, activation, output, saved, y, control, losses, delta):
        super().output_delta(loss, activation, output, saved, y, control, losses, delta)
        delta *= len(delta) / (len(delta) + 1)


class SetsTheTotal(NumpyBackend):
    def output_delta(self, loss, activation, output, saved, y, control, losses, delta):
        losses[Losses.TOTAL] = 0
        super().output_delta(loss, activation, output, saved, y, control, losses, delta)


class StepsUphill(NumpyBackend):
    def weight_step(self, delta, a_prev, control, w):
        control = control * np.where(np.arange(len(control)) == Control.LEARNING_RATE, -1, 1)
        super().weight_step(delta, a_prev, control, w)


class ForgetsAColumn(NumpyBackend):
    def bias_gradient(self, delta, gradient):
        super().bias_gradient(delta[1:], gradient)


class ForgetsTheCorrection(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        control = control.copy()
        control[Control.STEP] = 10**9
        super().update(optimizer, gradients, decayed, control, state, parameters)


class DecaysEverything(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        super().update(optimizer, gradients, gradients.size, control, state, parameters)


class IgnoresClipping(NumpyBackend):
    def prepare_update(self, max_norm, control):
        super().prepare_update(None, control)


class IgnoresTheClipValue(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        super().update(replace(optimizer, clip_value=None), gradients, decayed, control, state, parameters)


class IgnoresTheOffset(NumpyBackend):
    def gather_rows(self, source, order, control, out):
        np.take(source, order[: len(out)], axis=0, out=out)


class TakesTheLastOfTies(NumpyBackend):
    def row_argmax(self, x, out):
        out[...] = x.shape[1] - 1 - np.argmax(x[:, ::-1], axis=1)


class SumsInFloat32(NumpyBackend):
    def squared_norm(self, x, out):
        out[0] = np.square(x, dtype=np.float32).sum()


class SkipsTheMaximum(NumpyBackend):
    def softmax(self, z, a):
        np.exp(z, out=a)
        a /= a.sum(axis=1, keepdims=True) * np.asarray(1 + 1e-5, a.dtype)


class ScalesTwice(NumpyBackend):
    def scale(self, x, factor):
        super().scale(x, factor**2)


PLANTED = [
    (DropsTheLastTerm, "transpose_product"),
    (RoundsItsInputs, "transpose_product"),
    (LeavesTheLastRowUnwritten, "transpose_product"),
    (WritesBehindTheOutput, "transpose_product"),
    (ChangesAnInput, "transpose_product"),
    (ForgetsTheBias, "dense_forward"),
    (ForgetsToKeepZ, "dense_forward"),
    (AppliesSigmaForSigmaPrime, "hidden_delta"),
    (TakesTheSlopeOfOneAtZero, "hadamard_derivative"),
    (DividesByOneRowTooMany, "output_delta"),
    (SetsTheTotal, "output_delta"),
    (StepsUphill, "weight_step"),
    (ForgetsAColumn, "bias_gradient"),
    (ForgetsTheCorrection, "update"),
    (DecaysEverything, "update"),
    (IgnoresClipping, "update"),
    (IgnoresTheClipValue, "update"),
    (IgnoresTheOffset, "gather_rows"),
    (TakesTheLastOfTies, "row_argmax"),
    (SumsInFloat32, "squared_norm"),
    (SkipsTheMaximum, "softmax"),
    (ScalesTwice, "scale"),
]


@pytest.mark.parametrize(("kind", "primitive"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_planted_mistakes_are_caught(kind, primitive):
    """test_mixed.py does so in TF32 and in 16 bits."""
    chosen = [case for case in cases.covering_cases(primitive, ()) if case.dtype in cases.DTYPES]
    failure = next((found for case in chosen if not (found := runner.run_case(kind(), case)).passed), None)
    assert failure is not None
    assert "Error: " not in failure.complaint()


def test_an_exception_fails_the_case_and_not_the_run():
    class Breaks(NumpyBackend):
        def scale(self, x, factor):
            raise RuntimeError("no device")

    (case, *_) = cases.covering_cases("scale", ())
    outcome = runner.run_case(Breaks(), case)
    assert not outcome.passed
    assert "no device" in outcome.complaint()


def test_a_case_makes_the_same_problem_each_time():
    (case, *_) = cases.covering_cases("hidden_delta", ())
    first, second = problems.make(case), problems.make(case)
    for name, values in first.inputs.items():
        np.testing.assert_array_equal(values, second.inputs[name])


def test_workers_give_every_outcome():
    chosen = cases.covering_cases("scale", ())
    outcomes = list(runner.run_cases(chosen, "numpy", jobs=2))
    assert {outcome.case for outcome in outcomes} == set(chosen)
    assert all(outcome.passed for outcome in outcomes)


def _die(case):
    os._exit(3)


def _spoil(case):
    """What an access out of bounds does on a GPU: this and every later call of the process fails."""

    def fails(*_):
        raise RuntimeError("an illegal memory access was encountered")

    NumpyBackend.scale = fails
    return runner.Outcome(case, faults=("RuntimeError: an illegal memory access was encountered",))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="plants the crash by inheriting a patched module")
@pytest.mark.parametrize(("crash", "complaint"), [(_die, "exit code 3"), (_spoil, "illegal memory access")])
def test_a_worker_that_crashes_fails_its_case_alone(monkeypatch, crash, complaint):
    chosen = cases.covering_cases("scale", ())[:4]
    fatal = chosen[1]
    run_case = runner.run_case
    monkeypatch.setattr(
        runner,
        "run_case",
        lambda backend, case, observe: crash(case) if case == fatal else run_case(backend, case, observe),
    )
    context = runner.multiprocessing.get_context("fork")
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda _: context)
    outcomes = {outcome.case: outcome for outcome in runner.run_cases(chosen, "numpy", jobs=1)}
    assert set(outcomes) == set(chosen)
    assert [case for case, outcome in outcomes.items() if not outcome.passed] == [fatal]
    assert complaint in outcomes[fatal].complaint()


def test_the_report_names_failures_and_how_to_repeat_them(tmp_path):
    report = Report("numpy", "cpu")
    for outcome in run_all(ScalesTwice(), "scale") + run_all(NumpyBackend(), "softmax"):
        report.add(outcome)
    assert not report.passed
    assert report.worst is not None
    command = report.command(report.worst)
    assert cases.parse(command.split()[-1]).primitive == "scale"
    for name in ("report.md", "report.json"):
        report.write(tmp_path / name)
        assert command in (tmp_path / name).read_text()


def test_a_report_without_cases_has_not_passed():
    assert not Report("numpy", "cpu").passed
