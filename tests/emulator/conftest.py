"""The test kernels, for every test of the emulator."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import gpubp.emulator as cp
from gpubp.kernels.cuda.compile import compile_file

KERNELS = Path(__file__).parent / "kernels"


@pytest.fixture(scope="session")
def kernel_folder() -> Path:
    """Where the test kernels lie."""
    return KERNELS


@pytest.fixture(scope="session")
def cuda_kernel() -> Callable[..., cp.RawKernel]:
    """A kernel of a .cu file: `cuda_kernel("reductions", "tree_sum")`; the file's name is the default kernel name."""

    def get(file: str, name: str | None = None) -> cp.RawKernel:
        name = name or file
        template = "<" in name
        compiled = compile_file(KERNELS / f"{file}.cu", name_expressions=[name] if template else [])
        return cp.RawModule(path=str(compiled.cubin_path)).get_function(name)

    return get


@pytest.fixture(scope="session")
def numba_kernels() -> ModuleType:
    """The module of test kernels in Python."""
    spec = importlib.util.spec_from_file_location("numba_kernels", KERNELS / "numba_kernels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
