"""Names of kernels in messages."""

import pytest

from gpubp.emulator.program.names import kernel_name


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("_ZN8__main__3revB2v1B92cw51cXTLSUwv1sDUaKthqaNgoKmjgE5ArrayIfLi1E1C7mutable7alignedE", "rev"),
        ("_ZN6module5Outer12_3clocals_3e5innerB3v12B2cwE", "inner"),
        ("_ZN3abc6kernelEPf", "_ZN3abc6kernelEPf"),  # a C++ function in a namespace
        ("_Z4axpyIfEvPT_", "_Z4axpyIfEvPT_"),
        ("saxpy", "saxpy"),
        ("_ZN", "_ZN"),
    ],
)
def test_a_function_of_numba_is_called_by_its_name_in_python(name, plain):
    assert kernel_name(name) == plain
