"""Mistakes of precision, which no small edit of the text makes (those are in tests/mutants): a case fails on each.

A number of fewer bits than it should have, a rounding too many, a part of a sum that nobody adds: what a person would
write by mistake, or to be faster.
"""

import pytest
from kernel_mistakes import Mistake, passes, require_caught


def case(primitive, variant, dtype, shape, option="-", mode="-", arch=""):
    """The name of a case on random values."""
    return f"{primitive}:{variant}:{dtype}:{shape}:{option}:{mode}:1:random:0:0{arch}"


DEEP = "40x24x200"
TF32_NT = case("dense_forward", "tensorcore", "tf32", DEEP, "identity", "bias")
BF16_NT = case("dense_forward", "tensorcore", "bfloat16", DEEP, "identity", "bias")
BF16_TN = case("weight_gradient", "tensorcore", "bfloat16", DEEP)
FP16_NN = case("transpose_product", "tensorcore", "float16", DEEP)
FP16_TN = case("weight_gradient", "tensorcore", "float16", DEEP)

FP64_NT = case("dense_forward", "tensorcore", "float64", DEEP, "identity", "bias")
FP64_NN = case("transpose_product", "tensorcore", "float64", DEEP)
FP64_TN = case("weight_gradient", "tensorcore", "float64", DEEP)
FP64_OLDER = case("transpose_product", "tensorcore", "float64", DEEP, arch=":sm_80")
FP64_WHOLE = case("weight_gradient", "tensorcore+large", "float64", DEEP)
DOUBLES = "double_fragments.cuh"

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
    Mistake("rows of a fragment of A swapped", DOUBLES, "h + 2 * d : 2 * h + d", "1 - h + 2 * d : 2 * h + d", FP64_NT),
    Mistake("fragments of B swapped", DOUBLES, "h + 2 * d : 2 * h + d", "h + 2 * d : h + 2 * d", FP64_TN),
    Mistake("depths of a fragment of A alone swapped", DOUBLES, "h + 2 * d : 2", "h + 2 - 2 * d : 2", FP64_NN),
    Mistake(
        "a step of half the depth", DOUBLES, "(start ^ step * 64 ^ d * 32)", "(start ^ step * 32 ^ d * 32)", FP64_NT
    ),
    Mistake("a step of half the rows", DOUBLES, "(DEPTH * step + 4 * d) * ROW", "(4 * step + 4 * d) * ROW", FP64_TN),
    Mistake(
        "read without the exchange", DOUBLES, "(element / 2 ^ Place::swizzle(row)) * 16", "element / 2 * 16", FP64_NN
    ),
    Mistake("columns of C exchanged", DOUBLES, "= sums[j][2 * h + e]", "= sums[j][2 * h + 1 - e]", FP64_TN),
    Mistake("rows of C exchanged", DOUBLES, "= sums[j][2 * h + e]", "= sums[j][2 - 2 * h + e]", FP64_NT),
    Mistake("one depth twice on sm_80", DOUBLES, '"d"(d == 0 ? b_first : b_second)', '"d"(b_first)', FP64_OLDER),
    Mistake("one half of the rows on sm_80", DOUBLES, '"d"(a[h + 2 * d])', '"d"(a[2 * d])', FP64_OLDER),
    Mistake(
        "sums of doubles in float32",
        DOUBLES,
        '"d"(b_first), "d"(b_second));',
        '"d"(b_first), "d"(b_second)); for (double& x : c) x = float(x);',
        FP64_NN,
    ),
    Mistake(
        "a wait for one copy too few",
        "product_tensorcore.cuh",
        "wait_for_copies<STAGES - 2>();\n                    __syncthreads();",
        "wait_for_copies<STAGES - 1>();\n                    __syncthreads();",
        FP64_WHOLE,
    ),
    Mistake(
        "squares summed in float32",
        "prepare_update.cu",
        "sum += double(gradients[i]) * double(gradients[i]);",
        "sum += gradients[i] * gradients[i];",
        case("prepare_update", "-", "float32", "1031", "-", "unclipped"),
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
        "delta[i] = T(weighing.of_row(i / width, derivative * factor));",
        "delta[i] = T(weighing.of_row(i / width, A(T(derivative)) * factor));",
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
    assert passes(mistake.case)
    require_caught(mistake, tmp_path / "cuda")
