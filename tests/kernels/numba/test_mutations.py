"""Mutations of the kernels' own source: the cross-check must catch each one, on the emulated device.

Each mutant is one edit of the text, made in a copy of the folder that takes the package's place; then a few cases run,
chosen to meet the edit.
"""

import importlib
import shutil
import sys
from pathlib import Path

import pytest
from mutants import STRAY, STRAY_LABELS, Mutant, case, dense
from sampling import sampled

import gpubp.backends
import gpubp.kernels.numba
from gpubp.crosscheck import runner
from gpubp.crosscheck.cases import parse

FOLDER = Path(gpubp.kernels.numba.__file__).parent


NAIVE = [
    Mutant("drops the last k", "product_naive", "range(first, last)", "range(first, last - 1)", (dense("naive"),)),
    Mutant("swaps an index", "product_naive", "b_at(b, j, k)", "b_at(b, k, j)", (dense("naive"),)),
    Mutant("no guard of rows", "product_naive", "if i < m and j < n:", "if j < n:", (dense("naive"),)),
    Mutant("no guard of columns", "product_naive", "if i < m and j < n:", "if i < m:", (dense("naive"),)),
]

TILED = [
    Mutant(
        "no barrier after the copy", "product_tiled", "cuda.syncthreads()  # the tiles", "pass  #", (dense("tiled"),)
    ),
    Mutant("no barrier after the use", "product_tiled", "cuda.syncthreads()  # nobody", "pass  #", (dense("tiled"),)),
    Mutant(
        "reads past a ragged edge",
        "product_tiled",
        "if first_side + s < side and first_depth + k < depth:",
        "if first_depth + k < depth:",
        (dense("tiled"),),
    ),
    Mutant("reads the tile transposed", "product_tiled", "b_tile[x, k]", "b_tile[k, x]", (dense("tiled"),)),
    Mutant(
        "drops a ragged last tile",
        "product_tiled",
        "range(first, last, tile)",
        "range(first, last - tile + 1, tile)",
        (dense("tiled"),),
    ),
]

BLOCKED = [
    Mutant(
        "no barrier after the copy",
        "product_blocked",
        "cuda.syncthreads()  # the tiles",
        "pass  #",
        (dense("blocked"),),
    ),
    Mutant(
        "no barrier after the use", "product_blocked", "cuda.syncthreads()  # nobody", "pass  #", (dense("blocked"),)
    ),
    Mutant(
        "reads past a ragged edge",
        "product_blocked",
        "if first_side + s < sides and first_depth + k < depth:",
        "if first_depth + k < depth:",
        (dense("blocked"),),
    ),
    Mutant(
        "drops a ragged last tile",
        "product_blocked",
        "range(first, last, TILE_K)",
        "range(first, last - TILE_K + 1, TILE_K)",
        (dense("blocked"),),
    ),
    Mutant("reads A for B", "product_blocked", "b_values[i] = b_tile[k", "b_values[i] = a_tile[k", (dense("blocked"),)),
    Mutant(
        "copies half of a tile",
        "product_blocked",
        "range(tile_side * TILE_K // threads)",
        "range(tile_side * TILE_K // threads // 2)",
        (dense("blocked"),),
    ),
    Mutant("keeps the last sum alone", "product_blocked", "+= a_values[i]", "= a_values[i]", (dense("blocked"),)),
]

DEEP = "17x16x21"
PIPELINED = [
    Mutant(
        "no barrier before the first tile",
        "product_pipelined",
        "b_land(b_next, b_tiles[0])\n            cuda.syncthreads()\n",
        "b_land(b_next, b_tiles[0])\n",
        (dense("pipelined", DEEP),),
    ),
    Mutant(
        "no barrier between tiles",
        "product_pipelined",
        "cuda.syncthreads()  # the next tile is whole",
        "pass",
        (dense("pipelined", DEEP),),
    ),
    Mutant(
        "overwrites the tile in use",
        "product_pipelined",
        "a_land(a_next, a_tiles[reading ^ np.uint32(1)])",
        "a_land(a_next, a_tiles[reading])",
        (dense("pipelined", DEEP),),
    ),
    Mutant(
        "reads past the last row",
        "product_pipelined",
        "values[c] = at(x, min(first_side + s, side - 1), first_depth + k)\n\n",
        "values[c] = at(x, first_side + s, first_depth + k)\n\n",
        (dense("pipelined", DEEP),),
    ),
    Mutant(
        "does not pad the first tile",
        "product_pipelined",
        " if k < present else zero",
        "",
        (dense("pipelined", DEEP), dense("pipelined", "17x16x3")),
    ),
    Mutant(
        "steps over a part of the depth",
        "product_pipelined",
        "depth = first + present",
        "depth = first + TILE_K",
        (dense("pipelined", DEEP),),
    ),
    Mutant(
        "stores past the column",
        "epilogues",
        "if row < m and column < n:",
        "if row < m:",
        (case("dense_forward", "pipelined", "17x21x13", "identity", "bias"),),
    ),
    Mutant(
        "takes a row's sums twice",
        "epilogues",
        "sums[s] = sums[s + columns]",
        "sums[s] = sums[s]",
        (dense("pipelined", DEEP),),
    ),
]

SPLIT = case("weight_gradient", "pipelined", "5x7x1031")
EPILOGUES = [
    Mutant("no bias", "epilogues", "total + operands[0][j] if has_bias else total", "total", (dense("naive"),)),
    Mutant(
        "σ instead of σ'",
        "epilogues",
        "derivative = sigma.derivative",
        "derivative = sigma.apply",
        (case("hidden_delta", "naive", option="tanh"),),
    ),
    Mutant(
        "keeps a for z",
        "epilogues",
        "operands[1][i, j] = z_value",
        "operands[1][i, j] = apply(z_value)",
        (case("dense_forward", "naive", option="silu", mode="keep_z"),),
    ),
    Mutant(
        "steps uphill", "epilogues", "operands[1][i, j] -= ", "operands[1][i, j] += ", (case("weight_step", "naive"),)
    ),
    Mutant("leaves out a part", "product_reduce", "range(1, parts.shape[0])", "range(2, parts.shape[0])", (SPLIT,)),
    Mutant(
        "takes one depth too many in a part",
        "product",
        "min(first + part, depth)",
        "min(first + part + 1, depth)",
        (SPLIT,),
    ),
]

OUTPUT = case("output_delta", shape="33x17", option="half_squared_error+tanh", mode="mean")
LABELS = case("output_delta", shape="32x10", option="softmax_cross_entropy+softmax+labels", mode="mean")
OTHERS = [
    Mutant(
        "ReLU'(0) = 1",
        "activations",
        "return one if a > zero else zero\n",
        "return one if a >= zero else zero\n",
        (case("hadamard_derivative", shape="33x17", option="relu"),),
    ),
    Mutant(
        "tanh' = 1 − a",
        "activations",
        "return one - a * a",
        "return one - a",
        (case("hadamard_derivative", shape="33x17", option="tanh"),),
    ),
    Mutant(
        "no barrier in a block's sum",
        "reductions",
        "        cuda.syncthreads()\n        x = of_warp[0]",
        "        x = of_warp[0]",
        (OUTPUT,),
    ),
    Mutant("leaves out a warp", "reductions", "range(1, warps)", "range(2, warps)", (OUTPUT,)),
    Mutant(
        "no barrier in the column sum",
        "bias_gradient",
        "cuda.syncthreads()",
        "pass",
        (case("bias_gradient", shape="33x10"),),
    ),
    Mutant("forgets the running sum", "output_delta", "losses[TOTAL] += total", "losses[TOTAL] = total", (OUTPUT,)),
    Mutant("takes a negative label for no class", "output_delta", "label < 0 or ", "", (STRAY_LABELS,)),
    Mutant("takes the class behind the last one", "output_delta", "label >= width", "label > width", (STRAY_LABELS,)),
    Mutant("takes anything for a probability", "losses", "y if y >= zero and y <= one else nan", "y", STRAY),
    Mutant("takes the next label", "output_delta", "label == j else", "label == j + 1 else", (LABELS,)),
    Mutant(
        "decays one weight too many",
        "update",
        "if i < decayed:",
        "if i <= decayed:",
        (case("update", shape="1031", option="sgd", mode="decay"),),
    ),
    Mutant(
        "ignores the norm",
        "prepare_update",
        "scale = max_norm / norm",
        "scale = 1.0",
        (case("update", shape="1031", option="sgd", mode="clip_norm"),),
    ),
    Mutant(
        "ignores the batch's offset",
        "gather_rows",
        "np.int64(control[BATCH_OFFSET]) + row",
        "row",
        (case("gather_rows", shape="33x17", option="float"),),
    ),
    Mutant(
        "takes the last of equal maxima",
        "row_argmax",
        "place = -reduce_place(-place if mine else -width)",
        "place = reduce_place(place if mine else -width)",
        (case("row_argmax", shape="64x128"),),
    ),
]

MUTANTS = [*NAIVE, *TILED, *BLOCKED, *PIPELINED, *EPILOGUES, *OTHERS]
QUICK = ("no barrier after the copy", "no bias")
FILES = ("product", "product_blocked", "product_pipelined", "product_reduce")
LONG = [mutant for mutant in MUTANTS if mutant.file in FILES]
"""Those whose kernels Numba compiles for seconds."""
SAMPLE = ("no barrier between tiles", "does not pad the first tile", "takes one depth too many in a part")
"""What `make test` tries of them: a race, a wrong value in shared memory, a wrong range."""


def parameters():
    for mutant in MUTANTS:
        if mutant not in LONG:
            yield mutant if mutant.name in QUICK else pytest.param(mutant, marks=pytest.mark.slow)
    by_name = {mutant.name: mutant for mutant in LONG}
    yield from sampled([(mutant,) for mutant in LONG], [(by_name[name],) for name in SAMPLE])


@pytest.fixture
def outcomes(monkeypatch):
    """The function that runs cases with the kernels of a folder, which takes the package's place in this test."""

    def run(folder, names):
        package = gpubp.kernels.numba
        monkeypatch.setattr(package, "__path__", [str(folder)])
        for name in [name for name in sys.modules if name.startswith(f"{package.__name__}.")]:
            monkeypatch.delattr(package, name.rpartition(".")[2])
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delitem(sys.modules, "gpubp.backends.numba_backend", raising=False)
        monkeypatch.delattr(gpubp.backends, "numba_backend", raising=False)
        backend = importlib.import_module("gpubp.backends.numba_backend").NumbaBackend("emulator")
        return [runner.run_case(backend, parse(name), observe=True) for name in names]

    return run


@pytest.mark.slow
def test_the_cases_pass_without_a_mutation(outcomes):
    names = sorted({name for mutant in MUTANTS for name in mutant.cases})
    assert [outcome.complaint() for outcome in outcomes(FOLDER, names) if not outcome.passed] == []


@pytest.mark.parametrize("mutant", list(parameters()), ids=str)
def test_the_mutation_is_caught(mutant, outcomes, tmp_path):
    folder = Path(shutil.copytree(FOLDER, tmp_path / "numba", ignore=shutil.ignore_patterns("__pycache__")))
    path = folder / f"{mutant.file}.py"
    mutant.edit(path)
    found = outcomes(folder, mutant.cases)
    assert sys.modules[f"gpubp.kernels.numba.{mutant.file}"].__file__ == str(path)
    assert any(not outcome.passed for outcome in found)
    print([outcome.complaint() for outcome in found])
    # what fails must be the kernel's result, not its compilation
    assert not any("NumbaError" in outcome.complaint() or "TypingError" in outcome.complaint() for outcome in found)
