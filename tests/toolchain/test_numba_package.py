"""Which package compiles kernels in Python: the choice, and what it says of a wrong one."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from gpubp.errors import ArgumentError, BackendError
from gpubp.toolchain import numba_package
from gpubp.toolchain.numba_package import NUMBA_CUDA, NUMBA_CUDA_MLIR, VARIABLE, choose

BOTH = ("numba-cuda-mlir", "numba-cuda")


@pytest.mark.parametrize(
    ("named", "installed", "package"),
    [
        ("", BOTH, NUMBA_CUDA),
        ("", ["numba-cuda"], NUMBA_CUDA),
        ("", ["numba-cuda-mlir"], NUMBA_CUDA_MLIR),
        ("numba-cuda", BOTH, NUMBA_CUDA),
        ("numba-cuda-mlir", BOTH, NUMBA_CUDA_MLIR),
    ],
)
def test_numba_cuda_is_taken_unless_another_is_named_or_alone(named, installed, package):
    assert choose(named, installed) is package


def test_a_package_that_is_named_and_missing_is_an_error():
    with pytest.raises(BackendError, match="numba-cuda-mlir, which GPUBP_NUMBA names, is not installed"):
        choose("numba-cuda-mlir", ["numba-cuda"])


def test_without_either_the_error_names_both():
    with pytest.raises(BackendError, match="numba-cuda or numba-cuda-mlir, which compiles kernels in Python, is not"):
        choose("", [])


def test_another_name_is_an_error():
    with pytest.raises(ArgumentError, match="GPUBP_NUMBA was 'numba'; it must be one of numba-cuda, numba-cuda-mlir"):
        choose("numba", BOTH)


def test_the_installed_one_is_found_and_its_cuda_is_what_kernels_get():
    package = numba_package.chosen()
    assert find_spec(package.own) is not None
    assert numba_package.cuda.__name__ == package.cuda
    assert numba_package.part("types").float32 is numba_package.cuda.types.float32
    with pytest.raises(AttributeError, match="has no attribute 'cupy'"):
        _ = numba_package.cupy


def test_the_environment_is_asked():
    code = "from gpubp.backends import get; get('numba', 'emulator')"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={VARIABLE: "numba"}, check=False
    )
    assert ended.returncode == 1
    assert "GPUBP_NUMBA was 'numba'; it must be one of numba-cuda, numba-cuda-mlir" in ended.stderr
