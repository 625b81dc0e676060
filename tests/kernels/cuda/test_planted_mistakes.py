"""Mistakes of precision, which no small edit of the text makes (those are in tests/mutants): a case fails on each.

A number of fewer bits than it should have, a rounding too many, a part of a sum that nobody adds: what a person would
write by mistake, or to be faster.
"""

import shutil
from dataclasses import dataclass

import pytest

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.instances import KERNEL_DIRECTORY
from gpubp.crosscheck import runner
from gpubp.crosscheck.cases import parse


@dataclass(frozen=True)
class Mistake:
    """An edit of a file, `old` to `new`, and the case that fails then. `old` occurs once in the file."""

    name: str
    file: str
    old: str
    new: str
    case: str

    def __str__(self):
        return self.name


def case(primitive, variant, dtype, shape, option="-", mode="-", arch=""):
    """The name of a case on random values."""
    return f"{primitive}:{variant}:{dtype}:{shape}:{option}:{mode}:1:random:0:0{arch}"


DEEP = "40x24x200"
TF32_NT = case("dense_forward", "tensorcore", "tf32", DEEP, "identity", "bias")
BF16_NT = case("dense_forward", "tensorcore", "bfloat16", DEEP, "identity", "bias")
BF16_TN = case("weight_gradient", "tensorcore", "bfloat16", DEEP)
FP16_NN = case("transpose_product", "tensorcore", "float16", DEEP)
FP16_TN = case("weight_gradient", "tensorcore", "float16", DEEP)

LAST_OPERANDS = '"r"(b_first), "r"(b_second));           \\'
HALF_SUMS = '"r"(b_first), "r"(b_second)); for (float& x : c) x = float(float16(x));           \\'
MISTAKES = [
    Mistake("sums in half precision", "fragments.cuh", LAST_OPERANDS, HALF_SUMS, TF32_NT),
    Mistake("sums in half precision, stored in it", "fragments.cuh", LAST_OPERANDS, HALF_SUMS, FP16_NN),
    Mistake("bfloat16 taken for float16", "fragments.cuh", "f32.bf16.bf16.f32", "f32.f16.f16.f32", BF16_TN),
    Mistake("float16 taken for bfloat16", "fragments.cuh", "f32.f16.f16.f32", "f32.bf16.bf16.f32", FP16_TN),
    Mistake(
        "a slice of the depth left out",
        "product_tensorcore.cuh",
        "for (int j = 0; j < 2 * B_GROUPS; ++j) {",
        "for (int j = 0; j < 2 * B_GROUPS; ++j) {\n                        if (step == 1) continue;",
        BF16_NT,
    ),
    Mistake(
        "squares summed in float32",
        "squared_norm.cu",
        "sum += double(x[i]) * double(x[i]);",
        "sum += x[i] * x[i];",
        case("squared_norm", "-", "float32", "1031"),
    ),
    Mistake(
        "a row summed in 16 bits",
        "softmax.cu",
        "sum += exp(A(z[j]) - largest);",
        "sum = T(sum + exp(A(z[j]) - largest));",
        case("softmax", "-", "float16", "33x17"),
    ),
    Mistake(
        "scaled after it is rounded",
        "output_delta.cu",
        "delta[i] = T(derivative * factor);",
        "delta[i] = T(A(T(derivative)) * factor);",
        case("output_delta", "-", "float16", "33x10", "huber+tanh", "scaled"),
    ),
    Mistake(
        "saturation in place of an overflow",
        "numbers.cuh",
        '"=h"(bits) : "f"(x)); }',
        '"=h"(bits) : "f"(x > 65504 ? 65504 : x < -65504 ? -65504 : x)); }',
        case("cast", "-", "float16", "1031", "narrow"),
    ),
    Mistake(
        "ties rounded away from zero",
        "numbers.cuh",
        "0x7fff + (whole >> 16 & 1)",
        "0x8000",
        case("cast", "-", "bfloat16", "40961", "narrow", arch=":sm_75"),
    ),
    # one past the end, where a compiler may know that nothing is there to move
    *[
        Mistake(f"a guard widened in {file}", file, "if (i >= size) return;", "if (i > size) return;", found)
        for file, found in (
            ("hadamard_derivative.cu", case("hadamard_derivative", "-", "float32", "32x10", "relu")),
            ("update.cu", case("update", "-", "float32", "128", "sgd", "late")),
        )
    ],
]


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=str)
def test_a_case_fails_on_the_mistake_alone(mistake, tmp_path):
    folder = tmp_path / "cuda"
    shutil.copytree(KERNEL_DIRECTORY, folder, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    path = folder / mistake.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mistake.old) == 1, f"{mistake.file} has changed: write the mistake anew"
    tried = parse(mistake.case)
    with runner.on_chip(tried.arch):
        assert runner.run_case(CupyBackend("emulator"), tried, runner.Watch(observe=True)).passed
        path.write_text(text.replace(mistake.old, mistake.new), encoding="utf-8")
        outcome = runner.run_case(CupyBackend("emulator", kernels=folder), tried, runner.Watch(observe=True))
    assert not outcome.passed
    assert "CompileError" not in outcome.complaint()
    print(outcome.complaint().splitlines()[0])
