"""The same Python kernel gives the same PTX, whatever was compiled before."""

import subprocess
import sys

import numpy as np
import pytest
from numba.cuda import types

from gpubp.emulator import cuda
from gpubp.emulator.numba.compiler import canonical
from gpubp.emulator.numba.compilers import compile_kernel

KERNEL = """; ModuleID = "k$9"
define void @"_ZN1kB3v40E"() {
  %"x_v41_i" = alloca i64
  call @"_ZN1gB3v50E"()
  call @"_ZN1fB3v51E"()
}"""
F = '; ModuleID = "f$51"\ndefine linkonce_odr i32 @"_ZN1fB3v51E"() {\n  load @_cudapy_smem_77\n}'
G = '; ModuleID = "g$50"\ndefine linkonce_odr i32 @"_ZN1gB3v50E"() {\n}'


def test_functions_are_numbered_and_ordered_as_they_are_called():
    assert canonical([KERNEL, F, G]) == [
        'define void @"_ZN1kB2v1E"() {\n  %"x_v2_i" = alloca i64\n  call @"_ZN1gB2v3E"()\n  call @"_ZN1fB2v4E"()\n}',
        'define linkonce_odr i32 @"_ZN1gB2v3E"() {\n}',
        'define linkonce_odr i32 @"_ZN1fB2v4E"() {\n  load @_cudapy_smem_5\n}',
    ]


def test_neither_numbers_nor_order_matter():
    later = [
        module.replace("v5", "v123").replace("B3v123", "B5v123").replace("smem_77", "smem_8")
        for module in (KERNEL, G, F)
    ]
    assert canonical(later) == canonical([KERNEL, F, G])


def test_functions_that_differ_in_their_number_alone_stay_apart():
    twin = F.replace("v51", "v52")
    caller = KERNEL.replace("}", '  call @"_ZN1fB3v52E"()\n}')
    made = canonical([caller, twin, G, F])
    assert made == canonical([caller, F, twin, G])
    assert len(set(made)) == 4


def test_what_belongs_to_the_user_is_left_alone():
    module = "\n".join(
        [
            'define void @"_ZN1kB3v40E"() {',
            '  store c"loss_v77_mean 100%_v77_x B2v7\\00"',
            "  call @foreign_v77_B2v7()",
            "}",
            '!1 = !DIFile(directory: "/home/@me/50%_v77_x", filename: "net_v77_B2v7.py")',
        ]
    )
    assert canonical([module]) == [module.replace("B3v40", "B2v1")]


def test_texts_of_a_kernel_are_printed_as_they_are(capfd):
    @cuda.jit
    def speak(x):
        print("loss_v77_mean B2v7 100%_v7_", x[0])

    speak[1, 1](np.array([2.0]))
    assert capfd.readouterr().out.startswith("loss_v77_mean B2v7 100%_v7_ 2.0")


def test_a_file_keeps_its_name(tmp_path):
    file = tmp_path / "net_v77_final" / "prog_v8_x.py"
    code = compile("\n\ndef kernel(x):\n    x[0] = 1\n", str(file), "exec")
    file.parent.mkdir()
    file.write_text("\n\ndef kernel(x):\n    x[0] = 1\n")
    space = {}
    exec(code, space)
    assert f'"{file}"' in compile_kernel(space["kernel"], (types.float64[::1],), "sm_90")


ORDERS = r"""
import hashlib, sys
from gpubp.emulator import cuda
from gpubp.kernels.numba import activations, hidden_delta, product, transpose_product, forms
from gpubp.kernels.numba.ladder import Pipelined, Tiled

MAKE = {
    "a": lambda: hidden_delta.make(
        cuda.jit, Tiled(16), "float32", activations.make(cuda.jit, "tanh", 0.5, "float32")
    ),
    "b": lambda: product.partial(cuda.jit, Pipelined(16, 16, 2, 2), "float32", forms.TN),
    "c": lambda: transpose_product.make(cuda.jit, Tiled(16), "float32"),
}
for name in sys.argv[1]:
    (made,) = MAKE[name]().overloads.values()
    print(name, hashlib.sha256(made.ptx.encode()).hexdigest(), hashlib.sha256(made.assembled.cubin).hexdigest())
"""


@pytest.mark.slow
def test_the_order_of_compilation_changes_nothing(reproducible, tmp_path, monkeypatch):
    found = set()
    for number, order in enumerate(("abc", "cba")):
        monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / str(number)))
        result = subprocess.run([sys.executable, "-c", ORDERS, order], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        found |= set(result.stdout.splitlines())
    assert len(found) == 3
