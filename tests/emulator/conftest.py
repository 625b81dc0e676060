"""The test kernels, for every test of the emulator."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import launch
from gpubp.emulator.device.memory import MEMORY
from gpubp.toolchain.nvrtc import compile_file

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
        return cp.RawModule(path=str(compiled.cubin_path)).get_function(compiled.lowered_names.get(name, name))

    return get


@pytest.fixture(scope="session")
def numba_kernels() -> ModuleType:
    """The module of test kernels in Python."""
    spec = importlib.util.spec_from_file_location("numba_kernels", KERNELS / "numba_kernels.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PTX_HEADER = """.version 8.5
.target sm_90
.address_size 64
.file 1 "test.cu"
{module}
.visible .entry test({parameters})
{directives}
{{
    .reg .pred %p<20>;
    .reg .b16 %h<20>;
    .reg .b32 %r<60>;
    .reg .b64 %rd<60>;
    .reg .f32 %f<20>;
    .reg .f64 %fd<20>;
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %rd0, %r0, 4;
{pointers}
"""


@pytest.fixture(scope="session")
def ptx_text() -> Callable[..., str]:
    """`ptx_text(body, count, module, directives)`: a module with a kernel `test` around a body of PTX.

    It takes `count` pointers, which the body finds in %rd1, %rd2, ...; %r0 is tid.x and %rd0 four times that. Line n of
    the body is source line n of test.cu.
    """

    def text(body: str, count: int, module: str = "", directives: str = "") -> str:
        lines = "\n".join(f".loc 1 {n} 1\n{line}" for n, line in enumerate(body.strip().splitlines(), 1))
        pointers = "\n".join(f"    ld.param.u64 %rd{n + 1}, [p{n}];" for n in range(count))
        header = PTX_HEADER.format(
            module=module,
            directives=directives,
            parameters=", ".join(f".param .u64 p{n}" for n in range(count)),
            pointers=pointers,
        )
        return f"{header}{lines}\nret;\n}}\n"

    return text


@pytest.fixture
def run_ptx(ptx_text: Callable[..., str]) -> Callable[..., list[np.ndarray]]:
    """`run_ptx(body, *arrays, grid=, block=, shared=, lanes=, module=, directives=)` runs such a kernel on copies of
    the arrays in device memory and gives what they hold afterwards."""

    def run(
        body: str,
        *arrays: np.ndarray,
        grid: int | tuple[int, ...] = 1,
        block: int | tuple[int, ...] = 32,
        shared: int = 0,
        lanes: int | None = None,
        module: str = "",
        directives: str = "",
    ) -> list[np.ndarray]:
        sides = [(x,) if isinstance(x, int) else x for x in (grid, block)]
        grid, block = (side + (1,) * (3 - len(side)) for side in sides)
        kernel = launch.load(ptx_text(body, len(arrays), module, directives)).kernel("test")
        addresses = [upload(array) for array in arrays]
        try:
            launch.launch(kernel, grid, block, [a.to_bytes(8, "little") for a in addresses], shared, lanes=lanes)
            return [
                MEMORY.view(address, array.nbytes).view(array.dtype).reshape(array.shape).copy()
                for address, array in zip(addresses, arrays, strict=True)
            ]
        finally:
            for address in addresses:
                MEMORY.free(address)

    return run


def upload(array: np.ndarray) -> int:
    """A copy of an array in device memory."""
    address = MEMORY.allocate(array.nbytes, "test array")
    MEMORY.view(address, array.nbytes)[:] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    MEMORY.mark_written(address, array.nbytes)
    return address
