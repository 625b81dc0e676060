"""Mutations of what tensor cores and numbers of 16 bits need: the cross-check must catch each one.

As in test_mutations.py: one edit of the text, then a case that meets it. A tile of 32 × 32 is enough for each.
"""

import pytest
from mutants import Mutant, case


def matrix(primitive, dtype, shape="40x24x200", option="-", mode="-"):
    return case(primitive, "tensorcore", shape, option, mode, dtype=dtype)


def half(primitive, dtype, shape="33x17", option="-", mode="-"):
    return case(primitive, "-", shape, option, mode, dtype=dtype)


def mutant(name, file, old, new, of):
    return Mutant(name, file, old, new, (of,))


# Operands by depth are read by ldmatrix, those by side by ldmatrix transposed, and TF32 by side element by element.
BF16_NT = matrix("dense_forward", "bfloat16", option="identity", mode="bias")
BF16_NN = matrix("transpose_product", "bfloat16")
BF16_TN = matrix("weight_gradient", "bfloat16")
FP16_NN = matrix("transpose_product", "float16")
FP16_TN = matrix("weight_gradient", "float16")
TF32_NT = matrix("dense_forward", "tf32", option="identity", mode="bias")
TF32_TN = matrix("weight_gradient", "tf32")
SPLIT = matrix("transpose_product", "float16", "5x7x1031")
PAIRED = matrix("dense_forward", "bfloat16", "33x17x131", "identity", "bias")

HALF_SUMS = '"r"(b_first), "r"(b_second)); for (float& x : c) x = float(float16(x));           \\'
FRAGMENTS = [
    mutant(
        "registers of A in another order",
        "fragments.cuh",
        '"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])',
        '"r"(a[0]), "r"(a[2]), "r"(a[1]), "r"(a[3])',
        BF16_NT,
    ),
    mutant(
        "registers of B in another order",
        "product_tensorcore.cuh",
        "b_part[0], b_part[1]",
        "b_part[1], b_part[0]",
        TF32_NT,
    ),
    mutant("not transposed", "fragments.cuh", "load_matrices<true>", "load_matrices<false>", BF16_TN),
    mutant("elements of another depth", "fragments.cuh", "depth_half(i) * 4", "depth_half(i) * 2", TF32_TN),
    mutant(
        "read without the swizzle, stored with it",
        "fragments.cuh",
        "(unit ^ Place::swizzle(row)) * 16 + rest",
        "unit * 16 + rest",
        BF16_NT,
    ),
    mutant(
        "stored without the swizzle, read with it",
        "copies.cuh",
        "(element / UNIT ^ Place::swizzle(row)) * UNIT",
        "element / UNIT * UNIT",
        TF32_TN,
    ),
    mutant(
        "added where an exclusive or goes through the swizzle",
        "fragments.cuh",
        "tile + (start ^ step * 32)",
        "tile + (start + step * 32)",
        BF16_NT,
    ),
    mutant(
        "sides in other slots than they are read from",
        "fragments.cuh",
        "slot / 16 * 16 + slot % 8 * 2 + slot / 8 % 2",
        "slot",
        BF16_NT,
    ),
    mutant("cut off for TF32", "fragments.cuh", "        round_fragment<T>(registers);\n", "", TF32_NT),
    mutant("sums in half precision", "fragments.cuh", '"r"(b_first), "r"(b_second));           \\', HALF_SUMS, TF32_NT),
    mutant(
        "sums in half precision, stored in it",
        "fragments.cuh",
        '"r"(b_first), "r"(b_second));           \\',
        HALF_SUMS,
        FP16_NN,
    ),
    mutant("bfloat16 taken for float16", "fragments.cuh", "f32.bf16.bf16.f32", "f32.f16.f16.f32", BF16_TN),
    mutant("float16 taken for bfloat16", "fragments.cuh", "f32.f16.f16.f32", "f32.bf16.bf16.f32", FP16_TN),
]

NEXT = "wait_for_copies<STAGES - 2>();\n                    __syncthreads();  // the next"
FIRST = "wait_for_copies<STAGES - 2>();\n        __syncthreads();  // the first"
PIPELINE = [
    mutant(
        "no wait for the next tile",
        "product_tensorcore.cuh",
        NEXT,
        NEXT.replace("wait_for_copies<STAGES - 2>();", ""),
        BF16_NT,
    ),
    mutant(
        "waits for one copy too few",
        "product_tensorcore.cuh",
        NEXT,
        NEXT.replace("STAGES - 2", "STAGES - 1"),
        TF32_TN,
    ),
    mutant("no wait for the first tile", "product_tensorcore.cuh", FIRST, "__syncthreads();  // the first", BF16_TN),
    mutant(
        "no barrier before the first tile is read",
        "product_tensorcore.cuh",
        "__syncthreads();  // the first",
        "// the first",
        BF16_NT,
    ),
    mutant(
        "no barrier before a tile is read, or written again",
        "product_tensorcore.cuh",
        "__syncthreads();  // the next",
        "// the next",
        BF16_TN,
    ),
    mutant(
        "copies of a tile belong to no group",
        "product_tensorcore.cuh",
        "            commit_copies();\n\n#pragma unroll\n            for (int step",
        "\n#pragma unroll\n            for (int step",
        TF32_NT,
    ),
    mutant(
        "the tile in use is overwritten",
        "product_tensorcore.cuh",
        "int reading = 0, writing = (STAGES - 1) * STAGE;",
        "int reading = 0, writing = 0;",
        BF16_NT,
    ),
    mutant(
        "what comes through registers lands in the tile in use",
        "product_tensorcore.cuh",
        "a_tile.land(stages + writing);\n                b_tile.land(stages + writing",
        "a_tile.land(stages + reading);\n                b_tile.land(stages + reading",
        PAIRED,
    ),
    mutant(
        "a slice of the depth left out",
        "product_tensorcore.cuh",
        "for (int j = 0; j < 2 * B_GROUPS; ++j) {",
        "for (int j = 0; j < 2 * B_GROUPS; ++j) {\n                        if (step == 1) continue;",
        BF16_NT,
    ),
    mutant(
        "fragments of the next slice multiplied",
        "product_tensorcore.cuh",
        "sums[i][j], a_parts[step % 2][i]",
        "sums[i][j], a_parts[(step + 1) % 2][i]",
        TF32_NT,
    ),
    mutant(
        "the first tile not padded",
        "copies.cuh",
        "bool inside = depth_of(c) < present;",
        "bool inside = true;",
        BF16_TN,
    ),
    mutant(
        "read past the last side",
        "copies.cuh",
        "int64 clamped = first_side + s < last ? first_side + s : last;",
        "int64 clamped = first_side + s;",
        BF16_NT,
    ),
]

RESULT = [
    mutant(
        "columns of the other order",
        "fragments.cuh",
        "interleaved ? 4 * t : 4 * (t / 2) + 8 * (t % 2)",
        "4 * t",
        BF16_TN,
    ),
    mutant(
        "rows of the other order",
        "product_tensorcore.cuh",
        "ATile::Place::side_of(lane / 4, i % 2)",
        "(lane / 4 + 8 * (i % 2))",
        BF16_NT,
    ),
    mutant("no pairs swapped", "fragments.cuh", "if (!interleaved) swap_pairs(run, lane);", "", BF16_NN),
    mutant(
        "a row of tiles for a column",
        "tile_place.cuh",
        "column = int64(place / height) * TILE_N;",
        "column = row;",
        BF16_NN,
    ),
    mutant(
        "every part of split-K begins at the first depth",
        "forms.cuh",
        "return {a, b, begin, begin",
        "return {a, b, 0, begin",
        SPLIT,
    ),
    mutant(
        "parts of split-K in each other's place",
        "product.cu",
        "{parts + blockIdx.y * m * n}",
        "{parts + blockIdx.y / 2 * m * n}",
        SPLIT,
    ),
    mutant("a part of split-K left out", "product_reduce.cuh", "s < split; ++s", "s < split - 1; ++s", SPLIT),
]

SCALED = half("output_delta", "float16", shape="33x10", option="huber+tanh", mode="scaled")
HALVES = [
    mutant(
        "bfloat16 cut off",
        "numbers.cuh",
        "cvt.rn.bf16.f32",
        "cvt.rz.bf16.f32",
        half("cast", "bfloat16", shape="1031", option="narrow"),
    ),
    mutant(
        "saturation",
        "numbers.cuh",
        '"=h"(bits) : "f"(x)); }',
        '"=h"(bits) : "f"(x > 65504 ? 65504 : x < -65504 ? -65504 : x)); }',
        half("cast", "float16", shape="1031", option="narrow"),
    ),
    mutant(
        "a row summed in 16 bits",
        "softmax.cu",
        "sum += exp(A(z[j]) - largest);",
        "sum = T(sum + exp(A(z[j]) - largest));",
        half("softmax", "float16"),
    ),
    mutant("no loss scale", "output_delta.cu", "scale * control[LOSS_SCALE]", "scale", SCALED),
    mutant(
        "scaled after it is rounded",
        "output_delta.cu",
        "delta[i] = T(derivative * factor);",
        "delta[i] = T(A(T(derivative)) * factor);",
        SCALED,
    ),
    mutant(
        "updates in spite of an overflow",
        "update.cu",
        "if (step.skip) return;",
        "",
        half("update", "float16", shape="128", option="adam", mode="overflow"),
    ),
    mutant(
        "no copy of the weights",
        "update.cu",
        "if constexpr (STORES_COPY<Stored>)",
        "if constexpr (false)",
        half("update", "bfloat16", shape="128", option="sgd", mode="scaled"),
    ),
    mutant(
        "gradients stay scaled",
        "prepare_update.cu",
        "control[GRADIENT_SCALE] = scale / loss_scale;",
        "control[GRADIENT_SCALE] = scale;",
        half("update", "bfloat16", shape="128", option="sgd", mode="scaled"),
    ),
    mutant(
        "counts a step that is skipped",
        "prepare_update.cu",
        "            control[CLEAN_STEPS] = 0;\n            return;",
        "            control[CLEAN_STEPS] = 0;\n            control[STEP] += 1;\n            return;",
        half("update", "bfloat16", shape="128", option="sgd", mode="overflow"),
    ),
    mutant(
        "the loss scale grows too late",
        "prepare_update.cu",
        "clean >= T(growth_interval)",
        "clean > T(growth_interval)",
        half("update", "bfloat16", shape="128", option="sgd", mode="grown"),
    ),
]

MUTANTS = [*FRAGMENTS, *PIPELINE, *RESULT, *HALVES]


@pytest.mark.slow
def test_the_cases_pass_without_a_mutation(unchanged):
    names = sorted({name for mutant in MUTANTS for name in mutant.cases})
    assert [outcome.complaint() for outcome in unchanged(names) if not outcome.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_mutation_is_caught(mutated, mutant):
    (outcome,) = mutated(mutant)
    assert not outcome.passed
    assert "CompileError" not in outcome.complaint()
    print(outcome.complaint().splitlines()[0])
