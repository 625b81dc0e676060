"""check_product: right functions pass in every form, wrong ones raise with the worst call."""

import inspect
import textwrap

import ml_dtypes
import numpy as np
import pytest
from mistakes import last_depth_left_out

from gpubp.crosscheck import ProductError, check_product
from gpubp.crosscheck.cases import PRODUCT_SHAPES
from gpubp.errors import ArgumentError
from gpubp.nn.precision import round_to_tf32

RIGHT = {
    "NT": lambda a, b, c: np.matmul(a, b.T, out=c),
    "NN": lambda a, b, c: np.matmul(a, b, out=c),
    "TN": lambda a, b, c: np.matmul(a.T, b, out=c),
}
SHAPES = [(1, 1, 1), (5, 3, 17), (16, 16, 16)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", RIGHT)
def test_right_products_pass(form, dtype):
    outcomes = check_product(RIGHT[form], form, dtype=dtype, shapes=SHAPES)
    assert len(outcomes) == len(SHAPES) * 12
    assert max(outcome.comparison.share for outcome in outcomes) < 1


@pytest.mark.parametrize("dtype", ["tf32", "bfloat16", "float16"])
def test_products_of_tensor_cores_are_held_to_their_operands(dtype):
    def right(a, b, c):
        a, b = (round_to_tf32(x) if dtype == "tf32" else x.astype(np.float32) for x in (a, b))
        np.matmul(a, b, out=c)

    def of_fewer_bits(a, b, c):
        fewer = ml_dtypes.float8_e5m2 if dtype == "bfloat16" else ml_dtypes.bfloat16
        np.matmul(*(x.astype(fewer).astype(np.float32) for x in (a, b)), out=c)

    assert all(outcome.passed for outcome in check_product(right, "NN", dtype=dtype, shapes=SHAPES))
    with pytest.raises(ProductError, match="products are wrong"):
        check_product(of_fewer_bits, "NN", dtype=dtype, shapes=SHAPES)


def test_a_wrong_product_raises_with_the_worst_call():
    def drops_the_last_term(a, b, c):
        c[...] = last_depth_left_out(a @ b, a, b)

    with pytest.raises(ProductError, match="products are wrong; the worst: FAILED") as raised:
        check_product(drops_the_last_term, "NN", shapes=SHAPES)
    assert raised.value.outcomes


def test_an_unwritten_product_raises():
    with pytest.raises(ProductError):
        check_product(lambda a, b, c: None, "NN", shapes=SHAPES)


@pytest.mark.parametrize("value", [0, np.nan])
def test_what_is_written_beside_the_product_is_named(value):
    def writes_behind(a, b, c):
        np.matmul(a, b, out=c)
        c.base[len(c)] = value

    def changes_an_input(a, b, c):
        np.matmul(a, b, out=c)
        b[0, 0] += 1

    with pytest.raises(ProductError, match="it wrote behind c"):
        check_product(writes_behind, "NN", shapes=SHAPES)
    with pytest.raises(ProductError, match="it changed an input"):
        check_product(changes_an_input, "NN", shapes=SHAPES)


def test_the_example_runs(capsys):
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed: pip install 'gpubp[emulator]'")
    example = textwrap.dedent(inspect.getdoc(check_product).partition("as well::")[2])
    exec(example, {"np": np})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12 * len(PRODUCT_SHAPES)
    assert all(line.startswith("passed ") for line in lines)


def test_unknown_forms_and_dtypes_are_named():
    with pytest.raises(ArgumentError, match="form"):
        check_product(RIGHT["NN"], "nn")
    with pytest.raises(ArgumentError, match="dtype"):
        check_product(RIGHT["NN"], dtype="float8")
