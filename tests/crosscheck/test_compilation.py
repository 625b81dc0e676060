"""Compiling for every architecture: what is found fits the machine code, and what does not fit a chip is named."""

from dataclasses import replace

import numpy as np
import pytest

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.crosscheck import compilation
from gpubp.crosscheck.cases import parse
from gpubp.crosscheck.comparator import compare
from gpubp.crosscheck.compilation import ARCHITECTURES, CompiledKernel, compile_cases, compile_group
from gpubp.crosscheck.runner import Outcome
from gpubp.crosscheck.summary import CrossCheck

SPLIT = parse("weight_gradient:pipelined:float32:5x7x1031:-:-:1:random:0:0")
LARGE = parse("hidden_delta:pipelined+large:float64:257x129x41:gelu:-:1:random:0:0")
STEP = parse("update:-:float32:128:adam:decay:1:random:0:0")
GOOD = CompiledKernel(STEP, "sm_90", "k", threads=256, registers=256, shared_bytes=49152, shared_limit=49152)


@pytest.mark.parametrize("backend", compilation.COMPILED)
def test_a_split_product_is_two_kernels_and_an_update_another_two(backend):
    kernels = compile_group(backend, (SPLIT, STEP), ("sm_90",))
    assert [kernel.complaint for kernel in kernels] == [""] * 4
    assert [kernel.name.split("<")[0] for kernel in kernels if kernel.case == SPLIT] == [
        "partial_product",
        "weight_gradient",
    ]
    for kernel in kernels:
        assert 0 < kernel.registers <= 255
        assert kernel.threads in (1, 64, 256)
    assert kernels[0].shared_bytes > 0


def test_an_instance_comes_once():
    again = replace(SPLIT, shape=(5, 7, 1030))
    assert len(compile_group("cupy", (SPLIT, again, SPLIT), ("sm_90",))) == 2


@pytest.mark.parametrize(
    ("backend", "architectures"),
    [
        pytest.param("cupy", ARCHITECTURES, marks=pytest.mark.slow, id="cupy"),
        # Numba takes three seconds for each
        pytest.param("numba", (ARCHITECTURES[0], ARCHITECTURES[-1]), marks=pytest.mark.slow, id="numba"),
        pytest.param("numba", ARCHITECTURES[1:-1], marks=pytest.mark.exhaustive, id="numba, those between"),
    ],
)
def test_every_architecture_has_what_the_largest_tile_needs(backend, architectures):
    kernels = compile_group(backend, (LARGE,), architectures)
    assert [kernel.arch for kernel in kernels] == list(architectures)
    assert [kernel.complaint for kernel in kernels] == [""] * len(architectures)


MATRIX = parse("weight_gradient:tensorcore:tf32:33x17x21:-:-:1:random:0:0")


def test_tensor_cores_are_absent_before_sm_80_and_that_is_no_failure(tmp_path):
    old, new = compile_group("cupy", (MATRIX,), ("sm_75", "sm_80"))
    assert "no tensor cores" in old.absent
    assert (old.complaint, new.complaint, new.absent) == ("", "", "")
    assert 0 < new.shared_bytes <= new.shared_limit
    one = np.ones(1)
    report = CrossCheck("cupy", "emulator")
    report.add(Outcome(MATRIX, {"gradient": compare(one, one, 0.0)}))
    for kernel in (old, new):
        report.add_kernel(kernel)
    assert report.passed
    assert set(report.compiled) == {("weight_gradient", "sm_80")}
    for name in ("report.md", "report.json"):
        report.write(tmp_path / name)
        assert "none of 1 kernels on sm_75" in (tmp_path / name).read_text()


def test_an_old_chip_that_takes_the_call_is_a_finding(monkeypatch):
    monkeypatch.setattr(CupyBackend, "weight_gradient", lambda *_, **__: None)
    (kernel,) = compile_group("cupy", (MATRIX,), ("sm_75",))
    assert "yet the call was taken" in kernel.complaint


LARGE_MATRIX = parse("hidden_delta:tensorcore+large:bfloat16:136x264x40:gelu:-:1:random:0:0")


@pytest.mark.slow
def test_every_architecture_has_what_the_largest_tile_of_tensor_cores_needs():
    kernels = compile_group("cupy", (LARGE_MATRIX,), ARCHITECTURES)
    assert [kernel.complaint for kernel in kernels] == [""] * len(ARCHITECTURES)
    assert [kernel.arch for kernel in kernels if kernel.absent] == ["sm_75"]
    assert all(kernel.shared_bytes > 49152 for kernel in kernels if not kernel.absent)


def test_the_numbers_of_a_case_make_no_other_kernel():
    cases = [STEP, replace(STEP, seed=1), replace(STEP, scale=1e-8)]
    kernels = list(compile_cases(cases, "cupy", jobs=1, architectures=("sm_90",)))
    assert sorted(kernel.name for kernel in kernels) == ["prepare_update<float>", "update<float, Adam, WeightDecay>"]


def test_what_cannot_be_compiled_is_a_finding():
    (kernel,) = compile_group("cupy", (replace(SPLIT, variant="fast"),), ("sm_90",))
    assert "fast" in kernel.complaint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spilled_bytes": 8}, "8 bytes of registers spill"),
        ({"registers": 257}, "256 threads of 257 registers do not fit 65536"),
        ({"shared_bytes": 49153}, "49153 bytes of shared memory where a block gets 49152"),
        ({"error": "CompileError: no"}, "CompileError: no"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    assert GOOD.complaint == ""
    assert words in replace(GOOD, **change).complaint


def test_a_misfit_fails_the_report_and_stands_in_it(tmp_path):
    one = np.ones(1)
    report = CrossCheck("cupy", "emulator")
    report.add(Outcome(STEP, {"w": compare(one, one, 0.0)}))
    report.add_kernel(GOOD)
    assert report.passed
    report.add_kernel(replace(GOOD, spilled_bytes=8))
    assert not report.passed
    for name in ("report.md", "report.json"):
        report.write(tmp_path / name)
        assert "8 bytes of registers spill" in (tmp_path / name).read_text()


WARPGROUPS = parse("dense_forward:wgmma:bfloat16:40x136x72:relu:bias:1:random:0:0")


def test_waits_that_the_compiler_adds_are_named():
    log = "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized"
    found = compilation.ADDED_WAITS.search(f"ptxas info    : 0 bytes gmem\n{log}\n")
    assert found is not None
    assert "C7510" in replace(GOOD, waits=found[0]).complaint
    assert compilation.ADDED_WAITS.search("ptxas info    : Used 168 registers, used 0 barriers\n") is None


@pytest.mark.parametrize("case", [WARPGROUPS, replace(WARPGROUPS, dtype="tf32")], ids=lambda case: case.dtype)
def test_warpgroups_multiply_on_one_architecture_alone(case):
    product, _ = compile_group("cupy", (case,), ("sm_90",))  # in parts of the depth
    assert (product.complaint, product.absent) == ("", "")
    assert product.shared_bytes > 48 * 1024
    for arch in ("sm_75", "sm_80", "sm_100"):
        (kernel,) = compile_group("cupy", (case,), (arch,))
        assert kernel.complaint == ""
        assert "sm_90 alone" in kernel.absent
