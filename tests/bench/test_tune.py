"""gpubp tune, with a clock of the test's own: on the emulated device, and through the real CuPy on the virtual one."""

import io
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from gpubp import backends, chips
from gpubp.backends import plan_model, tuned
from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.tuned import Conditions
from gpubp.bench import tune_command, works
from gpubp.bench.tune_command import product_of
from gpubp.errors import ArgumentError, GpubpError

HERE = Conditions("NVIDIA H100 80GB HBM3", "CUDA 13.0", "NVRTC 13.5", tuned.plans_digest())


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A backend on the emulated device in place of the virtual one; the clock reads `seconds` of the last plan."""
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path))

    class Timed(CupyBackend):
        conditions = HERE
        ran = None
        seconds = staticmethod(lambda plan: 1.0)

        def product(self, *arguments, plan=None, **options):
            self.ran = plan

        def clock(self, call):
            call()
            return self.seconds(self.ran)

    made = Timed("emulator")
    monkeypatch.setattr(backends, "get", lambda name, device: made)
    return made


def run(device, **options):
    console = Console(file=io.StringIO(), width=200)
    found = tune_command.run(console, device="virtual", clock=device.clock, seconds=1e-9, **options)
    return found, console.file.getvalue()


def test_the_fastest_plan_is_kept_for_each_form(device):
    chip, forms = device.chip, ("NT", "NN", "TN")
    third = {}
    for form in forms:
        tiles = plan_model.candidates("float32", chip, "pipelined", 16, form)
        third[form] = plan_model.ranked(tiles, 64, 128, 784, chip.multiprocessors)[2][0]
    device.seconds = lambda plan: 2e-6 if plan in third.values() else 5e-6
    found, text = run(device, shapes=[(64, 128, 784)], candidates=3)
    kept = tuned.load(HERE)
    assert kept == {product_of(form, 64, 128, 784, "float32"): third[form] for form in forms}
    assert all(len(each.measured) == 3 for each in found)
    assert text.count("5.0 µs") == text.count("2.0 µs") == 3
    assert "2.50 times as fast as by the plans of the model" in " ".join(text.split())
    assert str(tuned.path_of(HERE.gpu)) in text


def test_of_equals_the_plan_of_the_model_is_kept(device):
    (first, *_), _ = run(device, shapes=[(64, 128, 784)], candidates=5)
    assert first.best == first.modelled
    assert first.best.plan.on(device.chip) == device.execution(_found(first.product), "NT", False, None).plan


def _found(product):
    from gpubp.backends.arguments import Product
    from gpubp.dtypes import ARITHMETIC

    return Product(product.m, product.n, product.k, product.alignment, ARITHMETIC[product.dtype].storage)


def test_times_are_predicted_for_a_chip_of_the_table(device):
    h100 = chips.get("H100")
    large = product_of("NT", 4096, 4096, 4096, "float32")
    tiny = product_of("NT", 32, 32, 1, "float32")
    estimate = plan_model.Estimate(busy=1.98e6, waiting=0.0)
    assert tune_command.predicted(large, estimate, HERE.gpu) == pytest.approx(1e-3)
    nbytes = 4 * (32 + 32 + 32 * 32)
    at_once = plan_model.Estimate(busy=0.0, waiting=0.0)
    assert tune_command.predicted(tiny, at_once, HERE.gpu) == pytest.approx(nbytes / h100.bandwidth)
    assert tune_command.predicted(large, estimate, "Another GPU") is None


def test_an_unknown_gpu_has_no_predictions(device):
    device.conditions = replace(HERE, gpu="Another GPU")
    _, text = run(device, shapes=[(16, 16, 16)], candidates=1)
    assert "no times are predicted: Another GPU is not in the table of chips" in text
    assert "?" in text


def test_the_products_of_a_network():
    found = [str(each) for each in tune_command.products_of_network((784, 128, 10), 64, "float32")]
    assert found == [
        "64x128x784 NT float32",
        "128x784x64 TN float32",
        "64x10x128 NT float32",
        "64x128x10 NN float32",
        "10x128x64 TN float32",
    ]


def test_without_a_model_or_a_shape_it_is_the_sweep_of_the_bench():
    found = list(tune_command._wanted(None, (), ("float32",)))
    large = works.STEPS["large"]
    assert set(tune_command.products_of_network(large.sizes, large.rows, "float32")) <= set(found)


def test_the_products_of_a_run(tmp_path, device):
    from typer.testing import CliRunner

    from gpubp.cli import app

    run_folder = tmp_path / "run"
    options = ["--backend", "numpy", "--layers", "16", "--batch-size", "48", "--epochs", "1", "--out", str(run_folder)]
    backends_get, backends.get = backends.get, _numpy
    try:
        assert CliRunner().invoke(app, ["train", *options]).exit_code == 0
        found = list(tune_command._wanted(run_folder, (), ()))
    finally:
        backends.get = backends_get
    assert found == list(tune_command.products_of_network((64, 16, 10), 48, "float32"))


def _numpy(name="numpy", device=None):
    from gpubp.backends.numpy_backend import NumpyBackend

    return NumpyBackend()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"candidates": 0}, "candidates was 0"),
        ({"candidates": 10**6}, "candidates was 1000000"),
        ({"seconds": 0.0}, "seconds was 0.0"),
        ({"device": "emulator"}, "device was 'emulator'; it must be one of gpu, virtual: only a GPU's time"),
        ({"dtypes": ("int8",)}, "dtype was 'int8'"),
        ({"shapes": [(1, 2)]}, "MxNxK"),
        ({"shapes": [(1, 2, 3)], "model": "run"}, "--model"),
        ({"model": "nowhere"}, "nowhere"),
    ],
)
def test_arguments_are_checked_before_anything_is_measured(device, tmp_path, options, words):
    given = {"device": "virtual", "clock": None} | options
    if "model" in given:
        from pathlib import Path

        given["model"] = Path(given["model"])
    with pytest.raises((ArgumentError, GpubpError), match=words):
        tune_command.run(Console(file=io.StringIO()), **given)
    assert not list(tmp_path.iterdir())


VIRTUAL = """
import sys
from pathlib import Path
from rich.console import Console
from gpubp import backends
from gpubp.backends import tuned
from gpubp.bench import tune_command
ticks = iter(range(1, 1000))

def clock(call):
    call()
    return 1.0 / next(ticks)  # every plan is faster than the one before

found = tune_command.run(
    Console(width=200), device="virtual", shapes=[(40, 24, 32)], dtypes=["float32"], candidates=2, clock=clock,
    seconds=1e-9,
)
assert all(each.best == each.measured[-1] for each in found)
backend = backends.get("cupy", "virtual")
assert dict(backend.tuned) == {each.product: each.best.plan for each in found}, backend.tuned
assert backend.conditions.gpu.endswith(", virtual")
assert tuned.path_of(backend.conditions.gpu).is_file()
"""


@pytest.mark.slow
def test_it_runs_through_the_real_cupy_on_the_virtual_device(tmp_path):
    environment = {**os.environ, "GPUBP_CACHE_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", VIRTUAL], capture_output=True, text=True, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "kept in" in ended.stdout
