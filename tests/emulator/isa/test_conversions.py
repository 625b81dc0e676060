"""Floats of eight bits: every byte, and every float16 that becomes one, against ml_dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.isa.arithmetic import operation

FORMATS = {"e4m3": (ml_dtypes.float8_e4m3fn, 448.0), "e5m2": (ml_dtypes.float8_e5m2, 57344.0)}


def convert(modifiers: str, source: np.ndarray, result: type) -> np.ndarray:
    found = operation("cvt", tuple(modifiers.split(".")))
    assert found is not None
    out = np.empty(source.size, result)
    with np.errstate(all="ignore"):  # as when a kernel runs
        found.apply(out, source)
    return out


@pytest.mark.parametrize("name", FORMATS)
def test_every_byte(name: str) -> None:
    dtype, _ = FORMATS[name]
    codes = np.arange(2**16, dtype=np.uint16)  # both bytes at once
    halves = convert(f"rn.f16x2.{name}x2", codes, np.uint32).view(np.float16).reshape(-1, 2)
    np.testing.assert_array_equal(halves, codes.view(np.uint8).reshape(-1, 2).view(dtype).astype(np.float16))
    assert (halves.view(np.uint16)[np.isnan(halves)] == 0x7FFF).all()


@pytest.mark.parametrize("relu", ["", ".relu"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_half(name: str, relu: str) -> None:
    dtype, most = FORMATS[name]
    bits = np.arange(2**16, dtype=np.uint16)
    halves: Any = bits.view(np.float16)
    nan = np.isnan(halves)
    values = np.where(nan, np.float16(0), halves).astype(np.float32)
    got = convert(f"rn.satfinite{relu}.{name}x2.f16x2", bits.view(np.uint32), np.uint16).view(np.uint8)
    clipped = np.clip(values, 0.0 if relu else -most, most)
    if relu:
        clipped += 0.0  # no negative zero
    wanted = np.where(nan, 0x7F, clipped.astype(dtype).view(np.uint8))
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    "text",
    ["rn.e4m3x2.f32", "rz.satfinite.e4m3x2.f32", "rn.satfinite.e2m1x2.f32", "rn.satfinite.f16x2.e4m3x2", "f32.e5m2x2"],
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedInstruction, match="cvt"):
        operation("cvt", tuple(text.split(".")))
