"""The table of arithmetic: its numbers beside those of NumPy and ml_dtypes, and the names that users may write."""

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

from gpubp import Network, cli, dtypes
from gpubp.backends.plans import Plan
from gpubp.bench import works
from gpubp.bench.works import Primitive
from gpubp.costs import cost
from gpubp.crosscheck import cases
from gpubp.crosscheck.cases import Selection
from gpubp.dtypes import ARITHMETIC, HALVES, canonical, master_of
from gpubp.errors import ArgumentError
from gpubp.nn.precision import PRECISIONS, round_to_tf32
from gpubp.profiler.workloads import Workload


@pytest.mark.parametrize("kind", [kind for kind in ARITHMETIC.values() if kind.name != "tf32"], ids=lambda k: k.name)
def test_numbers_are_those_of_the_dtype(kind):
    assert str(kind.storage) == kind.name
    assert kind.unit_roundoff == float(ml_dtypes.finfo(kind.storage).eps) / 2
    assert kind.item_bytes == np.zeros(1, kind.storage).nbytes
    assert kind.accumulator == master_of(kind.storage)
    assert (kind.storage in HALVES) == (kind.item_bytes == 2)


def test_tf32_rounds_float32():
    kind = ARITHMETIC["tf32"]
    assert kind.storage == kind.accumulator == np.float32
    beside_one = np.float32([1 + kind.unit_roundoff, np.nextafter(np.float32(1 + kind.unit_roundoff), np.float32(0))])
    np.testing.assert_array_equal(round_to_tf32(beside_one), np.float32([1 + 2 * kind.unit_roundoff, 1]))


@pytest.mark.parametrize("kind", ARITHMETIC.values(), ids=lambda k: k.name)
def test_either_name_is_understood(kind):
    assert canonical("dtype", kind.name) == canonical("dtype", kind.short) == kind.name
    if kind.tensor_cores:
        made = [Network([4, 3], precision=name, backend="numpy") for name in (kind.name, kind.short)]
        assert [net.precision for net in made] == [PRECISIONS[kind.short]] * 2
        assert made[0].config() == made[1].config()
        assert made[0].precision_name == kind.short
    else:
        assert Network([4, 3], dtype=kind.short, backend="numpy").dtype == kind.name


@pytest.mark.parametrize("wrong", ["float8", "f", None, 32, ["float32"]])
def test_another_name_is_refused_with_all_that_there_are(wrong):
    with pytest.raises(ArgumentError, match=r"dtype was .* of float32, float64, tf32, bfloat16, float16"):
        canonical("dtype", wrong)
    with pytest.raises(ArgumentError, match=r"dtype was 'bf16'; it must be one of float32, float64$"):
        canonical("dtype", "bf16", dtypes.PLAIN)


def test_kinds_are_split_by_tensor_cores():
    assert set(dtypes.PLAIN) | set(dtypes.MIXED) == set(dtypes.NAMES)
    assert not set(dtypes.PLAIN) & set(dtypes.MIXED)
    assert [kind.name for kind in ARITHMETIC.values() if kind.blas] == list(dtypes.PLAIN)


@pytest.mark.parametrize("kind", ARITHMETIC.values(), ids=lambda k: k.name)
def test_either_name_makes_the_same(kind):
    def made(name):
        rung = ("tensorcore", name, 64, 64, 64) if kind.tensor_cores else ("naive", name, 8, 32)
        sizes = {"stages": 3, "warp_m": 32, "warp_n": 32} if kind.tensor_cores else {}
        case = f"hidden_delta:{rung[0]}:{name}:5x6x7:relu:-:1:random:0:0"
        yield Plan(*rung, **sizes)
        yield cost("hidden_delta", (5, 6, 7), name)
        yield Workload("hidden_delta", (5, 6, 7), name)
        yield Primitive("hidden_delta", (5, 6, 7), name)
        yield Selection(dtypes=(name, kind.name))
        yield cases.parse(case)
        yield works.choose(works.QUICK, primitives=["hidden_delta"], shapes=[(5, 6, 7)], dtypes=[name, kind.name])

    assert list(made(kind.short)) == list(made(kind.name))


@pytest.mark.parametrize(
    "verb",
    [
        ("profile", "softmax", "--shape", "8x8", "--dtype"),
        ("check", "--backend", "numpy", "--primitive", "softmax", "--shape", "3x4", "--dtype"),
    ],
    ids=lambda verb: verb[0],
)
def test_either_name_is_taken_by_the_command_line(verb):
    def run(name):
        return CliRunner().invoke(cli.app, [*verb, name])

    assert run("bf16").exit_code == run("bfloat16").exit_code == 0
    wrong = run("bf8")
    assert wrong.exit_code == 2
    assert "dtype was 'bf8'; it must be one of float32, float64, tf32, bfloat16, float16" in wrong.stderr
