"""Tensor maps: what an encoding keeps, and every argument that the driver refuses."""

import numpy as np
import pytest

from gpubp.emulator.tensor_maps import DataType, Swizzle, decode, encode_tiled
from gpubp.errors import ArgumentError

GOOD = {
    "tensorDataType": 9,
    "tensorRank": 2,
    "globalAddress": 0x7_0000_0100,
    "globalDim": [100, 37],
    "globalStrides": [208],
    "boxDim": [64, 32],
    "elementStrides": [1, 2],
    "swizzle": 3,
}


def test_a_map_keeps_what_it_was_made_of():
    found = decode(encode_tiled(**GOOD).tobytes())
    assert (found.type, found.address, found.sides, found.strides) == (
        DataType.BFLOAT16,
        0x7_0000_0100,
        (100, 37),
        (2, 208),
    )
    assert (found.box, found.steps, found.swizzle) == ((64, 32), (1, 2), Swizzle.B128)
    assert (found.shape, found.box_bytes) == ((64, 16), 2048)


@pytest.mark.parametrize("rank", range(1, 6))
def test_every_rank(rank):
    sides, strides = [1 << 32, 2, 3, 4, 5][:rank], [16, 32, 48, (1 << 40) - 16][: rank - 1]
    made = encode_tiled(7, rank, 16, sides, strides, [4] * rank, [1, 8, 7, 6, 5][:rank], 0, 0, 2, 1)
    found = decode(made.tobytes())
    assert (found.sides, found.strides, found.steps) == (tuple(sides), (4, *strides), (1, 8, 7, 6, 5)[:rank])
    assert found.fill == 1


@pytest.mark.parametrize(
    ("argument", "value", "what"),
    [
        ("tensorDataType", 13, "0 .UINT8."),
        ("tensorRank", 0, "1 to 5"),
        ("tensorRank", 6, "1 to 5"),
        ("globalAddress", 0x7_0000_0108, "multiple of 16"),
        ("globalAddress", 0, "the address of an array"),
        ("globalDim", [0, 37], "1 to 4,294,967,296"),
        ("globalDim", [100], "2 numbers"),
        ("globalStrides", [200], "multiple of 16 bytes"),
        ("globalStrides", [1 << 40], "1 to 1,099,511,627,775"),
        ("boxDim", [64, 257], "1 to 256"),
        ("boxDim", [64, 0], "1 to 256"),
        ("boxDim", [60, 1], "a multiple of 16 bytes, and 60 of BFLOAT16 are 120"),
        ("boxDim", [128, 1], "at most the swizzle's 128 bytes, and 128 of BFLOAT16 are 256"),
        ("elementStrides", [1, 9], "1 to 8"),
        ("elementStrides", [1, 0], "1 to 8"),
        ("interleave", 1, "the emulated device knows no other"),
        ("interleave", 7, "0 .NONE., 1"),
        ("swizzle", 4, "3 .B128."),
        ("l2Promotion", 4, "3 .B256."),
        ("oobFill", 2, "1 .NAN_REQUEST_ZERO_FMA."),
        ("tensorDataType", "bfloat16", "0 .UINT8."),
        ("tensorDataType", 9.0, "0 .UINT8."),
        ("swizzle", None, "3 .B128."),
        ("tensorRank", 2.0, "a whole number"),
        ("globalAddress", "x", "a whole number"),
        ("globalAddress", None, "a whole number"),
        ("globalAddress", -16, "the address of an array"),
        ("globalAddress", 1 << 64, "the address of an array"),
        ("globalDim", ["a", 37], "a whole number"),
        ("globalDim", [float("nan"), 37], "a whole number"),
        ("globalDim", 100, "2 numbers"),
        ("globalStrides", None, "1 numbers"),
        ("globalStrides", [208.5], "a whole number"),
        ("boxDim", [64, None], "a whole number"),
        ("elementStrides", [1, 2j], "a whole number"),
    ],
)
def test_what_the_driver_refuses(argument, value, what):
    with pytest.raises(ArgumentError, match=rf"^{argument}.*{what}"):
        encode_tiled(**{**GOOD, argument: value})


def test_integers_have_no_nan_to_fill_with():
    with pytest.raises(ArgumentError, match=r"^oobFill was 1; it must be 0 for UINT16"):
        encode_tiled(**{**GOOD, "tensorDataType": 1, "oobFill": 1})


def test_what_is_no_map_is_told_apart():
    made = encode_tiled(**GOOD)
    for place in (0, 9, 60, 127):
        other = made.copy()
        other[place] ^= 1
        assert decode(other.tobytes()) is None
    assert decode(np.zeros(128, np.uint8).tobytes()) is None
