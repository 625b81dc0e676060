"""cuTensorMapEncodeTiled of the virtual driver."""

import ctypes

import numpy as np
import pytest

from gpubp.emulator.driver import api, calls, results  # noqa: F401 (api notes the functions)
from gpubp.emulator.tensor_maps import decode, encode_tiled

GOOD = [9, 2, 0x7_0000_0100, (100, 37), (208,), (64, 32), (1, 2), 0, 3, 2, 0]


def encode(arguments: list) -> tuple[int, bytes]:
    """Call the driver's function as C does; return its result and the map."""
    memory = np.zeros(256, np.uint8)
    at = memory.ctypes.data + -memory.ctypes.data % 64
    kinds = {3: ctypes.c_uint64, 4: ctypes.c_uint64, 5: ctypes.c_uint, 6: ctypes.c_uint}
    kept = [(kinds[i] * 5)(*one) if i in kinds else one for i, one in enumerate(arguments)]
    given = [ctypes.addressof(one) if i in kinds else one for i, one in enumerate(kept)]
    function = calls.callback(calls.EXPORTS["cuTensorMapEncodeTiled"])
    return function(at, *given), ctypes.string_at(at, 128)


def test_the_driver_makes_the_emulators_map():
    status, made = encode(GOOD)
    assert status == 0
    names = ["globalDim", "globalStrides", "boxDim", "elementStrides"]
    assert made == encode_tiled(*GOOD[:3], *map(list, GOOD[3:7]), *GOOD[7:]).tobytes(), names
    assert decode(made).sides == (100, 37)


@pytest.mark.parametrize(("place", "value", "what"), [
    (2, 0x7_0000_0101, "globalAddress"), (1, 6, "tensorRank"), (5, (64, 300), r"boxDim\[1\]"), (8, 9, "swizzle"),
    (4, (200,), r"globalStrides\[0\] was 200; it must be a multiple of 16 bytes"),
])  # fmt: skip
def test_what_it_refuses(place, value, what):
    status, made = encode([*GOOD[:place], value, *GOOD[place + 1 :]])
    assert results.NAMES[status] == "CUDA_ERROR_INVALID_VALUE"
    assert made == bytes(128)
    assert what.replace("\\", "").split(" ")[0] in results.explain(status)


def test_the_map_must_be_aligned():
    function = calls.callback(calls.EXPORTS["cuTensorMapEncodeTiled"])
    assert results.NAMES[function(72, *[0] * 11)] == "CUDA_ERROR_INVALID_VALUE"
    assert "multiple of 64" in results.explain(1)
