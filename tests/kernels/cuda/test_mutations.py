"""Mutations of the kernels' own source: the cross-check must catch each one, on the emulated device.

Each mutant is one edit of the text, made in a copy of the folder; then a few cases run, chosen to meet the edit.
"""

import pytest
from mutants import Mutant, case, dense

NAIVE = [
    Mutant(
        "drops the last k", "product_naive.cuh", "k < product.last; ++k", "k < product.last - 1; ++k", (dense("naive"),)
    ),
    Mutant("swaps an index", "product_naive.cuh", "product.b(j, k)", "product.b(k, j)", (dense("naive"),)),
    Mutant(
        "no guard of rows",
        "product_naive.cuh",
        "if (i >= product.m() || j >= product.n())",
        "if (j >= product.n())",
        (dense("naive"),),
    ),
    Mutant(
        "no guard of columns",
        "product_naive.cuh",
        "if (i >= product.m() || j >= product.n())",
        "if (i >= product.m())",
        (dense("naive"),),
    ),
    Mutant("wrong leading dimension", "forms.cuh", "s * depth + k :", "s * side + k :", (dense("naive"),)),
    Mutant(
        "wrong leading dimension of a side-contiguous operand",
        "forms.cuh",
        ": k * side + s",
        ": k * depth + s",
        (case("transpose_product", "naive"),),
    ),
]

TILED = [
    Mutant("no barrier after the copy", "product_tiled.cuh", "__syncthreads();  // the tiles", "//", (dense("tiled"),)),
    Mutant(
        "no barrier before the next copy", "product_tiled.cuh", "__syncthreads();  // nobody", "//", (dense("tiled"),)
    ),
    Mutant(
        "reads past a ragged edge",
        "product_tiled.cuh",
        "inside ? x(first_side + s, first_depth + k) : T(0)",
        "x(first_side + s, first_depth + k)",
        (dense("tiled"),),
    ),
    Mutant(
        "reads the tile transposed",
        "product_tiled.cuh",
        "b_tile[threadIdx.x][k]",
        "b_tile[k][threadIdx.x]",
        (dense("tiled"),),
    ),
    Mutant(
        "drops a ragged last tile",
        "product_tiled.cuh",
        "k0 < product.last;",
        "k0 + TILE <= product.last;",
        (dense("tiled"),),
    ),
    Mutant(
        "stores past the row",
        "product_tiled.cuh",
        "if (i < product.m() && j < product.n())",
        "if (i < product.m())",
        (dense("tiled"),),
    ),
]

BLOCKED = [
    Mutant(
        "no barrier after the copy", "product_blocked.cuh", "__syncthreads();  // the tiles", "//", (dense("blocked"),)
    ),
    Mutant(
        "no barrier before the next copy",
        "product_blocked.cuh",
        "__syncthreads();  // nobody",
        "//",
        (dense("blocked"),),
    ),
    Mutant(
        "reads past a ragged edge",
        "product_blocked.cuh",
        "inside ? x(first_side + s, first_depth + k) : T(0)",
        "x(first_side + s, first_depth + k)",
        (dense("blocked"),),
    ),
    Mutant(
        "drops a ragged last tile",
        "product_blocked.cuh",
        "k0 < product.last;",
        "k0 + TILE_K <= product.last;",
        (dense("blocked"),),
    ),
    Mutant("gives a thread the sums of another", "product_blocked.cuh", "thread + i * SIDE", "i", (dense("blocked"),)),
    Mutant(
        "copies half of a tile",
        "product_blocked.cuh",
        "copy < TILE * TILE_K / THREADS;",
        "copy < TILE * TILE_K / THREADS / 2;",
        (dense("blocked"),),
    ),
    Mutant(
        "reads B for A",
        "product_blocked.cuh",
        "a_values[i] = a_tile[k]",
        "a_values[i] = b_tile[k]",
        (dense("blocked"),),
    ),
    Mutant(
        "lines of a tile overlap",
        "product_blocked.cuh",
        "using Tile = T[TILE_K][TILE + 16 / sizeof(T)];",
        "using Tile = T[TILE_K][TILE - 16 / sizeof(T)];",
        (dense("blocked", "257x129x41"),),
    ),
]

DEEP = "40x40x130"
PIPELINED = [
    Mutant("no barrier", "product_pipelined.cuh", "__syncthreads();  // this tile", "//", (dense("pipelined", DEEP),)),
    Mutant(
        "waits for one copy too few",
        "product_pipelined.cuh",
        "wait_for_copies<STAGES - 2>",
        "wait_for_copies<STAGES - 1>",
        (dense("pipelined", "40x40x128"),),
    ),
    Mutant(
        "swizzles one side alone",
        "copies.cuh",
        "(element / UNIT ^ Place::swizzle(row))",
        "(element / UNIT)",
        (dense("pipelined"),),
    ),
    Mutant(
        "reads past the last row",
        "copies.cuh",
        "int64 clamped = first_side + s < last ? first_side + s : last;",
        "int64 clamped = first_side + s;",
        (dense("pipelined"),),
    ),
    Mutant(
        "does not pad the first tile",
        "copies.cuh",
        "bool inside = depth_of(c) < present;",
        "bool inside = true;",
        (dense("pipelined"), dense("pipelined", "33x17x3")),
    ),
    Mutant(
        "steps over a part of the depth",
        "copies.cuh",
        "source[c] += step - back;",
        "source[c] += step;",
        (dense("pipelined", DEEP),),
    ),
    Mutant(
        "stores past the column",
        "epilogues.cuh",
        "if (row < m && column < n)",
        "if (column < n)",
        (dense("pipelined"),),
    ),
    Mutant(
        "overwrites the tile in use",
        "product_pipelined.cuh",
        "int reading = 0, writing = (STAGES - 1) * STAGE;",
        "int reading = 0, writing = 0;",
        (dense("pipelined", DEEP),),
    ),
    Mutant(
        "stores whole runs at the right edge",
        "epilogues.cuh",
        "int count = n - column < W ? int(n - column) : W;",
        "int count = W;",
        (dense("pipelined"),),
    ),
]

SPLIT = case("weight_gradient", "pipelined", "5x7x1031")
EPILOGUES = [
    Mutant("no bias", "epilogues.cuh", "sum[w] + bias[w]", "sum[w]", (dense("naive"),)),
    Mutant(
        "σ instead of σ'",
        "epilogues.cuh",
        "sigma.derivative(saved_run[w])",
        "sigma.apply(saved_run[w])",
        (case("hidden_delta", "naive", option="tanh"),),
    ),
    Mutant(
        "keeps a for z",
        "epilogues.cuh",
        "store_values(z + run.offset, z_run",
        "store_values(z + run.offset, a_run",
        (case("dense_forward", "naive", option="silu", mode="keep_z"),),
    ),
    Mutant("forgets β C", "epilogues.cuh", " + beta * c_run[w]", "", (case("weight_step", "naive"),)),
    Mutant(
        "steps uphill",
        "weight_step.cu",
        "T(-control[LEARNING_RATE])",
        "T(control[LEARNING_RATE])",
        (case("weight_step", "naive"),),
    ),
    Mutant("leaves out a part of split-K", "product_reduce.cuh", "s < split; ++s", "s < split - 1; ++s", (SPLIT,)),
    Mutant(
        "counts the parts of split-K twice",
        "product_reduce.cuh",
        "T sum = parts[index];",
        "T sum = 2 * parts[index];",
        (SPLIT,),
    ),
]

ACTIVATIONS = [
    Mutant(
        "ReLU'(0) = 1",
        "activations.cuh",
        "return a > T(0) ? T(1) : T(0);",
        "return a >= T(0) ? T(1) : T(0);",
        (case("hadamard_derivative", shape="33x17", option="relu"),),
    ),
    Mutant(
        "tanh' = 1 − a",
        "activations.cuh",
        "return T(1) - a * a;",
        "return T(1) - a;",
        (case("hadamard_derivative", shape="33x17", option="tanh"),),
    ),
    Mutant(
        "a coarser constant in GELU's tanh form",
        "activations.cuh",
        "cubic = T(0.044715)",
        "cubic = T(0.0447)",
        (case("dense_forward", "naive", option="gelu_tanh", mode="bias"),),
    ),
]

OUTPUT = case("output_delta", shape="33x17", option="half_squared_error+tanh", mode="mean")
LABELS = case("output_delta", shape="32x10", option="softmax_cross_entropy+softmax+labels", mode="mean")
REDUCTIONS = [
    Mutant(
        "no barrier in a block's sum",
        "reductions.cuh",
        "        __syncthreads();\n        x = of_warp[0];",
        "        x = of_warp[0];",
        (OUTPUT,),
    ),
    Mutant("leaves out a warp", "reductions.cuh", "int warp = 1;", "int warp = 2;", (OUTPUT,)),
    Mutant(
        "no barrier in the column sum",
        "bias_gradient.cu",
        "__syncthreads();",
        "",
        (case("bias_gradient", shape="33x10"),),
    ),
    Mutant(
        "skips rows",
        "bias_gradient.cu",
        "i += BLOCK_ROWS",
        "i += BLOCK_ROWS + 1",
        (case("bias_gradient", shape="33x10"),),
    ),
    Mutant("forgets the running sum", "output_delta.cu", "losses[TOTAL] += sum;", "losses[TOTAL] = sum;", (OUTPUT,)),
    Mutant(
        "forgets 1/B", "output_delta.cu", "delta[i] = T(derivative * factor);", "delta[i] = T(derivative);", (OUTPUT,)
    ),
    Mutant("forgets y", "output_delta.cu", "T(y[row] == j)", "T(y[row] == j + 1)", (LABELS,)),
    Mutant(
        "forgets σ' of the output",
        "output_delta.cu",
        "derivative *= sigma.derivative(saved[i]);",
        "",
        (OUTPUT,),
    ),
    Mutant(
        "does not subtract the maximum",
        "softmax.cu",
        "sum += exp(A(z[j]) - largest)",
        "sum += exp(A(z[j]))",
        (case("softmax", shape="33x17"),),
    ),
]

UPDATES = [
    Mutant(
        "decays one weight too many",
        "update.cu",
        "i + v < decayed",
        "i + v <= decayed",
        (case("update", shape="1031", option="sgd", mode="decay"),),
    ),
    Mutant(
        "adds decay to AdamW's gradient",
        "update.cu",
        "static constexpr bool decoupled = true;",
        "static constexpr bool decoupled = false;",
        (case("update", shape="1031", option="adamw", mode="decay"),),
    ),
    Mutant(
        "no bias correction",
        "update.cu",
        "step.square_scale = T(1 / (1 - power(second_number, t)));",
        "step.square_scale = T(1);",
        (case("update", shape="128", option="adam", mode="first"),),
    ),
    Mutant(
        "takes the new velocity twice",
        "update.cu",
        "w -= step.rate * (g + T(h.first) * v);",
        "w -= step.rate * (v + T(h.first) * v);",
        (case("update", shape="128", option="nesterov", mode="late"),),
    ),
    Mutant(
        "does not count the step",
        "prepare_update.cu",
        "control[STEP] += 1;",
        "",
        (case("update", shape="128", option="sgd", mode="first"),),
    ),
    Mutant(
        "ignores the norm",
        "prepare_update.cu",
        "norm <= max_norm ? T(1) : max_norm / norm",
        "T(1)",
        (case("update", shape="1031", option="sgd", mode="clip_norm"),),
    ),
    Mutant(
        "ignores the batch's offset",
        "gather_rows.cu",
        "order[int64(control[BATCH_OFFSET]) + row]",
        "order[row]",
        (case("gather_rows", shape="33x17", option="float"),),
    ),
    Mutant(
        "takes the last of equal maxima",
        "row_argmax.cu",
        "return i < j;",
        "return i > j;",
        (case("row_argmax", shape="64x128"),),
    ),
    Mutant(
        "sums squares in float32",
        "squared_norm.cu",
        "sum += double(x[i]) * double(x[i]);",
        "sum += x[i] * x[i];",
        (case("squared_norm", shape="1031"),),
    ),
]

ROUNDED = case("cast", shape="40961", option="narrow", dtype="bfloat16") + ":sm_75"
OLDER = [
    Mutant(
        "no copy lands",
        "copies.cuh",
        "*reinterpret_cast<Vector<T, W>*>(to) = staged;",
        "",
        (dense("pipelined") + ":sm_75",),
    ),
    Mutant(
        "does not pad what goes through registers",
        "copies.cuh",
        "if (inside) staged =",
        "staged =",
        (dense("pipelined", "33x17x3") + ":sm_75",),
    ),
    Mutant(
        "loads the tile in use through registers",
        "product_pipelined.cuh",
        "a_tile.land(stages + writing);",
        "a_tile.land(stages + reading);",
        (dense("pipelined", DEEP) + ":sm_75",),
    ),
    Mutant("rounds ties away from zero", "numbers.cuh", "0x7fff + (whole >> 16 & 1)", "0x8000", (ROUNDED,)),
    Mutant("carries a NaN on to another number", "numbers.cuh", "x != x ? 0x7fff : ", "", (ROUNDED,)),
]

MUTANTS = [*NAIVE, *TILED, *BLOCKED, *PIPELINED, *EPILOGUES, *ACTIVATIONS, *REDUCTIONS, *UPDATES, *OLDER]


@pytest.mark.slow
def test_the_cases_pass_without_a_mutation(unchanged):
    names = sorted({name for mutant in MUTANTS for name in mutant.cases})
    assert [outcome.complaint() for outcome in unchanged(names) if not outcome.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_the_mutation_is_caught(mutated, mutant):
    outcomes = mutated(mutant)
    assert any(not outcome.passed for outcome in outcomes)
    assert not any("CompileError" in outcome.complaint() for outcome in outcomes)
