"""`gpubp explain`: what it prints and writes, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
from pages import check_page

from gpubp.crosscheck import runner
from gpubp.crosscheck.runner import Outcome

CASE = "hidden_delta:naive:float32:3x2x2:relu:-:1:random:0:0"


def test_one_neuron_is_the_textbook_case(gpubp):
    shown = gpubp("explain", "network", "--sizes", "1,1", "--x", "2", "--y", "0").stdout
    assert "∂L/∂w = (a − y) σ′(z) x" in shown
    line = next(each for each in shown.splitlines() if each.startswith("   ∂L/∂w = ([") and "·" in each)
    a, y, slope, x, gradient = (float(each.replace("−", "-")) for each in re.findall(r"−?\d[\d.]*", line))
    assert slope == pytest.approx(a * (1 - a), abs=1e-3)
    assert gradient == pytest.approx((a - y) * slope * x, abs=1e-3)


def test_a_page_with_every_option(gpubp):
    given = ["--sizes", "3,2,2", "--activation", "tanh", "--loss", "softmax_cross_entropy", "--no-bias", "--y", "0,1"]
    result = gpubp("explain", "network", *given, "--notation", "theta", "--language", "es", "--out", "page.html")
    assert result.stdout.splitlines()[0] == "Un paso de retropropagación: 3-2-2"
    page = check_page(Path("page.html").read_text(encoding="utf-8"), "es", scripted=True)
    labels = [each.attributes["aria-label"] for each in page.all("math")]
    assert labels[0] == "u¹ = θ¹ o⁰"
    assert "δ² = ∂L/∂u² = o² − y" in labels
    assert page.one("html").attributes["lang"] == "es"
    gpubp("explain", "network", "--out", "page.html", code=2)
    gpubp("explain", "network", "--out", "page.html", "--force")


def test_a_trained_model_on_an_example(gpubp, trained):
    shown = gpubp("explain", "network", "--model", trained, "--example", 3, "--out", "m.html").stdout
    assert "row 3 of digits" in shown
    page = check_page(Path("m.html").read_text(encoding="utf-8"), scripted=True)
    assert "64-16-10" in page.one("h1").text
    assert len(list(page.all("article", class_="answer"))) == 26  # 16 and 10 neurons
    assert list(page.all("figure", class_="heat"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "3"], "sizes"),
        (["--sizes", "2,0"], "sizes"),
        (["--sizes", "2,x"], "--sizes was 'x'; it must be whole numbers with commas between"),
        (["--sizes", "2,5000"], "--sizes was 5000; it must be a whole number ≤ 4096"),
        (["--activation", "sigmo"], "did you mean 'sigmoid'?"),
        (["--loss", "half_squared"], "did you mean 'half_squared_error'?"),
        (["--x", "1,nan"], "--x was '1,nan'; it must be finite numbers with commas between"),
        (["--x", "1"], "--x has 1 numbers; it must have 2"),
        (["--y", "1,2"], "--y has 2 numbers; it must have 1"),
        (["--lr", "0"], "--lr was 0.0; it must be a finite number > 0"),
        (["--seed", "-1"], "--seed was -1"),
        (["--notation", "thet"], "did you mean 'theta'?"),
        (["--language", "fr"], "--language was 'fr'; it must be one of en, es"),
        (["--example", "1"], "--example was given; it must be left out without --model"),
        (["--data", "digits"], "--data was given; it must be left out without --model"),
        (["--sizes", ""], "--sizes was ''"),
        (["--activation", ""], "--activation was ''"),
        (["--output-activation", ""], "--output-activation was ''"),
        (["--loss", ""], "--loss was ''"),
        (["--model", "none"], "there is no model file none"),
        (["--model", "none", "--sizes", "2,1"], "--sizes was given; it must be left out with --model"),
        (["--out", "page.txt"], "--out was 'page.txt'"),
        (["--out", "no/such.html"], "--out was"),
    ],
)
def test_wrong_words_of_network(refused, options, message):
    refused("explain", "network", *options, message=message)


def test_an_example_that_the_data_does_not_have(refused, trained):
    refused("explain", "network", "--model", trained, "--example", 9999, message="a row of digits, the test part")


def test_data_that_has_moved_is_named(gpubp, refused, tmp_path):
    """As the message says that is told when it is gone."""
    before, after = tmp_path / "rows.csv", tmp_path / "moved.csv"
    before.write_text("a,b,y\n" + "".join(f"{i % 7},{i % 5},{i % 2}\n" for i in range(40)))
    run = tmp_path / "run"
    gpubp("train", "--data", before, "--layers", "3", "--epochs", "1", "--backend", "numpy", "--out", run)
    before.rename(after)
    refused("explain", "network", "--model", run, message="if it has moved, --data names its place")
    assert "row 0" in gpubp("explain", "network", "--model", run, "--data", after).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hidden"], "did you mean 'hidden_delta'?"),
        (["hidden_delta", "--variant", "tile"], "--variant was 'tile'"),
        (["hidden_delta", "--backend", "numpy"], "--backend was 'numpy'; it must be one of cupy, numba"),
        (["hidden_delta", "--shape", "8x6"], "--shape was"),
        (["hidden_delta", "--shape", "999x999x999"], "to be drawn"),
        (["hidden_delta", "--dtype", "tf32", "--backend", "numba"], "backend numba, which has no others"),
        (["hidden_delta", "--mode", "drop"], "did you mean 'dropout'?"),
        (["hidden_delta", "--arch", "sm_1"], "--arch was 'sm_1'"),
        (["hidden_delta", "--block", "1,2,3,4"], "--block was '1,2,3,4'; it must be one to three whole numbers"),
        (["hidden_delta", "--variant", "naive", "--block", "7"], "--block is (7, 0, 0); it must be in the grid"),
        (["bias_gradient", "--shape", "3x3", "--warp", "31"], "--warp is 31; it must be in the block, which has"),
        (["hidden_delta", "--warp", "32"], "--warp was 32"),
        (["hidden_delta", "--out", "page.txt"], "--out was 'page.txt'"),
    ],
)
def test_wrong_words_of_kernel(refused, words, message):
    refused("explain", "kernel", *words, message=message)


def test_a_kernel_at_work_in_the_terminal(gpubp):
    shown = gpubp("explain", "kernel", "hidden_delta", "--variant", "naive").stdout
    assert "reads delta_next[0–7, 0–9]: threads 0–5, 32–37" in shown
    assert "writes delta[0–7, 0–5]" in shown
    assert shown.rstrip().endswith("no access out of bounds.")


def test_a_kernel_at_work_as_a_page(gpubp):
    gpubp("explain", "kernel", "hidden_delta", "--variant", "tiled", "--language", "es", "--out", "k.html")
    page = check_page(Path("k.html").read_text(encoding="utf-8"), "es", scripted=True)
    assert len(list(page.one(id="ladder").all("svg"))) == 4
    assert "hidden_delta, tiled, 8×6×10" in page.one("h1").text


@pytest.fixture
def in_this_process(monkeypatch):
    """Cases run here, so that what a test changes holds for them too."""

    def run_cases(cases, backend, device, *, watch, jobs=None):
        from gpubp import backends

        for case in cases:
            yield runner.run_case(backends.get(backend, device), case, watch)

    monkeypatch.setattr("gpubp.crosscheck.check_command.run_cases", run_cases)


@pytest.mark.parametrize("dtype", ["tf32", "bf16"])
def test_warpgroups_at_work_as_a_page(gpubp, dtype):
    """Without the rungs of threads, which do not multiply these."""
    words = ["dense_forward", "--dtype", dtype, "--variant", "wgmma", "--shape", "8x16x16"]
    gpubp("explain", "kernel", *words, "--out", "k.html")
    page = check_page(Path("k.html").read_text(encoding="utf-8"), "en", scripted=True)
    assert "dense_forward, wgmma, 8×16×16" in page.one("h1").text
    assert list(page.all(id="ladder")) == []


def test_check_explains_its_first_failure(gpubp, in_this_process, monkeypatch):
    """The reference of a kernel that is right is wrong in one element."""
    from gpubp.crosscheck.problems.problem import Problem

    expect = Problem.expected.func

    def wrong(self):
        found = dict(expect(self))
        found["delta"].reference[2, 1] += 1
        return found

    monkeypatch.setattr(Problem, "expected", property(wrong))
    options = ["--backend", "cupy", "--device", "emulator", "--case", CASE]
    shown = gpubp("check", *options, "--explain", "wrong.html", code=1).stdout
    assert f"explained: {CASE}: wrong.html" in shown
    page = check_page(Path("wrong.html").read_text(encoding="utf-8"), scripted=True)
    bad = page.one("article", class_="step bad")
    assert "writes" in bad.one("ul").text
    assert "delta" in bad.one("p", class_="mark").text


def test_check_explains_nothing_if_all_is_right(gpubp):
    options = ["--backend", "cupy", "--device", "emulator", "--case", CASE, "--jobs", "1"]
    assert "nothing to explain: no case failed" in gpubp("check", *options, "--explain", "none.html").stdout
    assert not Path("none.html").exists()


def test_check_refuses_to_explain_what_has_no_kernels(refused):
    refused("check", "--backend", "numpy", "--explain", "page.html", message="--explain was given; it must be left out")
    refused("check", "--backend", "numpy", "--explain", "page.txt", message="--explain was 'page.txt'")


def test_a_failure_in_another_order_is_explained_in_that_order(tmp_path):
    """What is wrong in an order alone has its seed in the outcome."""
    from gpubp.crosscheck.cases import parse
    from gpubp.explain.kernel_run import explain_case

    found = explain_case(parse(CASE), "cupy", order=3)
    assert found.report.order == 3
    assert found.troubles == ()
    assert Outcome(parse(CASE)).order is None
    assert np.concatenate([step.threads[None] for step in found.trace.steps]).any()
