"""Every lane-wise instruction against the scalar model, bit for bit: special values, combinations, random bits."""

from __future__ import annotations

import functools
import os
import random
import re
import subprocess
import sys
import zlib
from collections import defaultdict
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import scalar_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_model import FORMATS, FORMS, Model, Real, cut, decode, encode, width

from gpubp.emulator.device.fused import fuse
from gpubp.emulator.device.state import Active
from gpubp.emulator.device.steps import Computation
from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.isa.arithmetic import OPCODES, operation
from gpubp.emulator.isa.lanecode import lane_code
from gpubp.emulator.isa.operations import Operation
from gpubp.emulator.program.ptx import Register
from gpubp.emulator.program.registers import Slot

BY_OPCODE: dict[str, list[str]] = defaultdict(list)
for text in FORMS:
    BY_OPCODE[text.split(".")[0]].append(text)


def find(text: str) -> Operation:
    instruction, *destinations = text.split()
    opcode, *modifiers = instruction.split(".")
    found = operation(opcode, tuple(modifiers), pair=bool(destinations))
    assert found is not None, text
    return found


# --- operands


def integer_specials(bits: int) -> list[int]:
    top = 1 << (bits - 1)
    values = [0, 1, 2, 3, 7, 8, 100, top - 1, top, top + 1, 2 * top - 1, 2 * top - 2, 2 * top - 7, 0x55, 0x80, 0xFF]
    return [cut(value, bits) for value in (*values, int("55" * (bits // 8), 16), int("a7" * (bits // 8), 16))]


def float_specials(name: str) -> list[int]:
    format_ = FORMATS[name]
    fraction = format_.fraction_bits
    infinity = (1 << format_.exponent_bits) - 1 << fraction
    one = format_.bias << fraction
    bits = [
        *(0, 1, 2, (1 << fraction) - 1, 1 << fraction, (1 << fraction) + 1),  # zero, subnormals, the least normals
        *(one, one + 1, one - 1, infinity - 1, infinity, infinity + 1, infinity + (1 << fraction - 1), infinity + 99),
    ]
    values = [0.5, 1.5, 2.5, 3.5, 127.5, 128.0, 255.5, 256.0, 32767.5, 65504.0, 65519.0, 65520.0, 65536.0, 0.25, 1e-5]
    values += [2.0**31, 2.0**32, 2.0**63, 2.0**64, 2.0**31 - 0.5, 2.0**-25, 1.5 * 2.0**-25, 2.0**-14 - 2.0**-26, 3e-39]
    for narrow in FORMATS.values():  # halfway between two neighbours of a narrower format, and just beside
        half = 2.0 ** -(narrow.fraction_bits + 1)
        least = 2.0 ** (1 - narrow.bias - narrow.fraction_bits) if narrow.bias < 1023 else 0.0
        values += [
            1 + half,
            1 + 3 * half,
            0.5 * least,
            1.5 * least,
            2.5 * least,
            float(narrow.largest) * (1 + half / 2),
        ]
        bits += [
            encode(scalar_model.from_float(1 + half), name) + 1,
            encode(scalar_model.from_float(1 + half), name) - 1,
        ]
    bits += [encode(scalar_model.from_float(value), name, "rz") for value in values]
    sign = 1 << (format_.exponent_bits + fraction)
    return sorted(set(bits) | {b ^ sign for b in bits})


@functools.cache
def specials(type_: str) -> list[int]:
    if type_ in FORMATS:
        return float_specials(type_)
    if type_.endswith("x2"):
        part = type_[:-2]
        low = specials(part)
        return [a | low[(7 * i + 3) % len(low)] << width(part) for i, a in enumerate(low)]
    fixed = {
        "pred": [0, 1],
        "carry": [0, 1],
        "lane": list(range(32)),
        "small": [cut(value, 32) for value in (*range(-34, 35), 2**31 - 1, -(2**31))],
        "count": [0, 1, 5, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 255, 256, 2**31, 2**32 - 1],
        "table": [0x80, 0x96, 0xE8, 0xFE, 0xCA, 0x3C, 0x00, 0xFF, 0x01],
    }
    return fixed[type_] if type_ in fixed else integer_specials(width(type_))


def at_random(type_: str, rng: random.Random) -> int:
    if type_ in ("lane", "small", "count", "table", "pred", "carry"):
        return rng.choice(specials(type_))
    if type_ in FORMATS and rng.random() < 0.5:  # of similar size, so that sums cancel and products stay in range
        format_ = FORMATS[type_]
        exponent = format_.bias + rng.randint(-3, 3)
        sign = rng.getrandbits(1) << format_.exponent_bits
        return (sign | exponent) << format_.fraction_bits | rng.getrandbits(format_.fraction_bits)
    return rng.getrandbits(width(type_))


def cancelling(model: Model, rng: random.Random, rounds: int) -> list[tuple[int, ...]]:
    """a * b + c with c near -(a * b) or far below its last place: what tells a fused operation from two roundings."""
    type_ = model.sources[0]
    if len(model.sources) != 3 or type_ not in FORMATS or set(model.sources) != {type_}:
        return []
    cases = []
    for _ in range(rounds):
        a, b = (at_random(type_, rng) for _ in range(2))
        exact = scalar_model.multiply(decode(a, type_), decode(b, type_))
        near = encode(scalar_model.negate(exact), type_, rng.choice(("rn", "rz", "rm", "rp")))
        tiny = rng.choice((1, 1 << FORMATS[type_].fraction_bits)) | rng.getrandbits(1) << (width(type_) - 1)
        # Half a last place away from a short product: rounding twice goes wrong exactly here.
        short = a >> FORMATS[type_].fraction_bits << FORMATS[type_].fraction_bits
        cases += [(a, b, near), (short, b | 1, tiny), (a, b, tiny)]
    return cases


def operand_sets(text: str, model: Model, sampled: int, drawn: int) -> list[tuple[int, ...]]:
    rng = random.Random(zlib.crc32(text.encode()))
    columns = [specials(type_) for type_ in model.sources]
    total = int(np.prod([len(column) for column in columns]))
    if total <= sampled:
        cases = list(product(*columns))
    else:
        cases = [tuple(rng.choice(column) for column in columns) for _ in range(sampled)]
    cases += cancelling(model, rng, drawn // 6)
    cases += [tuple(at_random(type_, rng) for type_ in model.sources) for _ in range(drawn)]
    return cases


# --- running


def as_array(values: list[int], dtype: np.dtype) -> np.ndarray:
    if dtype == np.bool_:
        return np.array(values, bool)
    return np.array(values, np.dtype(f"u{dtype.itemsize}")).view(dtype)


def as_bits(array: np.ndarray) -> list[int]:
    return (
        array.astype(np.uint8).tolist() if array.dtype == np.bool_ else array.view(f"u{array.dtype.itemsize}").tolist()
    )


def run(found: Operation, model: Model, cases: list[tuple[int, ...]], alias: int | None = None) -> list[list[int]]:
    """The results' bits; with `alias` that source's array is also the first out."""
    dtypes = [*found.sources, *([np.dtype(bool)] if found.carry_in else [])]
    sources = [as_array(list(column), dtype) for column, dtype in zip(zip(*cases, strict=True), dtypes, strict=True)]
    outs = [
        as_array([0] * len(cases), dtype) for dtype in (*found.results, *([np.dtype(bool)] if found.carry_out else []))
    ]
    if alias is not None:
        outs[0] = sources[alias].view(outs[0].dtype)
    if "table" in model.sources:  # an immediate
        position = model.sources.index("table")
        sources[position] = sources[position][:1].reshape(())
    with np.errstate(all="ignore"):
        found.apply(*outs, *sources)
    return [as_bits(out) for out in outs]


def expected(model: Model, cases: list[tuple[int, ...]]) -> list[list[int]]:
    results = [model.function(*case) for case in cases]
    tuples = [result if isinstance(result, tuple) else (result,) for result in results]
    return [list(map(int, column)) for column in zip(*tuples, strict=True)]


def close(type_: str, got: int, wanted: int, ulps: int) -> bool:
    if got == wanted or not ulps:
        return got == wanted
    if type_.endswith("x2"):
        half, bits = type_[:-2], width(type_[:-2])
        return all(close(half, cut(got >> s, bits), cut(wanted >> s, bits), ulps) for s in (0, bits))
    return decode(got, type_) is not None and decode(wanted, type_) is not None and abs(got - wanted) <= ulps


def disagreement(text: str, cases: list[tuple[int, ...]], alias: int | None = None) -> str:
    """Where the emulator and the model differ, or nothing."""
    model, found = FORMS[text], find(text)
    names = model.results
    for name, got, wanted in zip(names, run(found, model, cases, alias), expected(model, cases), strict=True):
        for case, g, w in zip(cases, got, wanted, strict=True):
            if not close(name, g, w, model.ulps):
                how = "" if alias is None else f" with source {alias} as destination"
                return f"{text}{how} of {', '.join(map(hex, case))}: {g:#x}, the model has {w:#x}"
    return ""


def group_cases(text: str) -> list[tuple[int, ...]]:
    model = FORMS[text]
    cases = operand_sets(text, model, *((20, 4) if text.startswith("set") else (100, 48)))
    if "table" in model.sources:  # one table an instruction
        position = model.sources.index("table")
        table = cases[0][position]
        cases = [(*case[:position], table, *case[position + 1 :]) for case in cases]
    return cases


@pytest.mark.parametrize("opcode", sorted(BY_OPCODE))
def test_agrees_with_the_scalar_model(opcode: str) -> None:
    failures = [wrong for text in BY_OPCODE[opcode] if (wrong := disagreement(text, group_cases(text)))]
    assert not failures, "\n".join(failures[:20])


def some_forms(forms: list[str]) -> list[str]:
    """Return all forms of an opcode. Where hundreds differ in types and conditions alone, return some, with every pair
    of these."""
    if len(forms) <= 500:
        return forms
    seen: set[tuple[str, str]] = set()
    chosen = []
    for text in forms:
        pairs = set(combinations(re.split(r"[. ]", text), 2))
        if not pairs <= seen:
            seen |= pairs
            chosen.append(text)
    return chosen


@pytest.mark.parametrize("opcode", sorted(BY_OPCODE))
def test_destination_may_be_a_source(opcode: str) -> None:
    failures = []
    for text in some_forms(BY_OPCODE[opcode]):
        found, cases = find(text), group_cases(text)[:8]
        for position, dtype in enumerate(found.sources):
            same = dtype.itemsize == found.results[0].itemsize and (dtype == np.bool_) == (found.results[0] == np.bool_)
            if same and FORMS[text].sources[position] != "table":
                failures.append(disagreement(text, cases, alias=position))
    failures = [failure for failure in failures if failure]
    assert not failures, "\n".join(failures[:20])


@pytest.mark.parametrize("opcode", sorted(BY_OPCODE))
def test_immediates_are_arrays_without_dimensions(opcode: str) -> None:
    for text in some_forms(BY_OPCODE[opcode]):
        model, found = FORMS[text], find(text)
        if len(found.sources) < 2:
            continue
        for position in range(len(found.sources)):
            cases = group_cases(text)[-6:]
            fixed = cases[0][position]
            cases = [(*case[:position], fixed, *case[position + 1 :]) for case in cases]
            dtypes = [*found.sources, *([np.dtype(bool)] if found.carry_in else [])]
            sources = [as_array(list(c), d) for c, d in zip(zip(*cases, strict=True), dtypes, strict=True)]
            immediates = [s[:1].reshape(()) if i == position else s for i, s in enumerate(sources)]
            if "table" in model.sources:
                table = model.sources.index("table")
                sources[table] = immediates[table] = sources[table].reshape(-1)[:1].reshape(())
            results = []
            for values in (sources, immediates):
                flags = [np.dtype(bool)] if found.carry_out else []
                outs = [as_array([0] * len(cases), dtype) for dtype in (*found.results, *flags)]
                with np.errstate(all="ignore"):
                    found.apply(*outs, *values)
                results.append([as_bits(out) for out in outs])
            assert results[0] == results[1], f"{text}, operand {position} immediate"


ALL_FORMS = sorted(text for text in FORMS if not text.startswith(("set.", "setp.")) and "lop3" not in text)


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(text=st.sampled_from(ALL_FORMS), seed=st.integers(0, 2**32 - 1))
def test_agrees_on_random_bits(text: str, seed: int) -> None:
    rng = random.Random(seed)
    cases = [tuple(at_random(type_, rng) for type_ in FORMS[text].sources) for _ in range(16)]
    assert not disagreement(text, cases)


@pytest.mark.parametrize("text", [text for text in FORMS if text.startswith("prmt.")])
def test_permute_by_an_immediate(text: str) -> None:
    rng = random.Random(text)
    for _ in range(20):
        control = rng.getrandbits(16)
        cases = [(rng.getrandbits(32), rng.getrandbits(32), control) for _ in range(3)]
        columns = [as_array(list(column), np.dtype(np.uint32)) for column in zip(*cases, strict=True)]
        out = np.empty(3, np.uint32)
        find(text).apply(out, *columns[:2], columns[2][:1].reshape(()))
        assert out.tolist() == expected(FORMS[text], cases)[0], hex(control)


def test_three_input_logic_has_every_table() -> None:
    rng = random.Random(3)
    for table in range(256):
        cases = [(*(rng.getrandbits(32) for _ in range(3)), table) for _ in range(4)]
        assert not disagreement("lop3.b32", cases), f"table {table:#04x}"


# --- what is supported

MODIFIERS = sorted(
    {m for text in FORMS for m in text.split()[0].split(".")[1:]} | {"oob", "rs", "noftz", "e2m1x2", "b8"}
)


def is_supported(opcode: str, modifiers: tuple[str, ...]) -> bool:
    for pair in (False, True):
        try:
            if operation(opcode, modifiers, pair) is not None:
                return True
        except UnsupportedInstruction:
            pass
    return False


def neighbours(modifiers: tuple[str, ...]) -> set[tuple[str, ...]]:
    """All lists of modifiers that differ in one: one more, one fewer, one changed."""
    found = {modifiers[:i] + modifiers[i + 1 :] for i in range(len(modifiers))}
    for name in MODIFIERS:
        found |= {(*modifiers[:i], name, *modifiers[i:]) for i in range(len(modifiers) + 1)}
        found |= {(*modifiers[:i], name, *modifiers[i + 1 :]) for i in range(len(modifiers))}
    return found


@pytest.mark.parametrize("opcode", sorted(OPCODES))
def test_every_supported_form_has_a_model(opcode: str) -> None:
    """Walks from the modelled forms to everything one modifier away; what runs there must be modelled as well."""
    modelled = {tuple(text.split()[0].split(".")[1:]) for text in BY_OPCODE[opcode]}
    as_sets = {tuple(sorted(modifiers)) for modifiers in modelled}
    rng = random.Random(zlib.crc32(opcode.encode()))
    starts = sorted(modelled)
    starts = starts if len(starts) <= 60 else rng.sample(starts, 60)
    unmodelled = {
        ".".join((opcode, *near))
        for modifiers in starts
        for near in neighbours(modifiers)
        if tuple(sorted(near)) not in as_sets and is_supported(opcode, near)
    }
    assert not unmodelled


@pytest.mark.parametrize(
    "text",
    ["add.e4m3.f32", "fma.f32", "fma.rn.oob.f16", "setp.maybe.s32", "cvt.rs.f16x2.f32", "add.sat.u32", "shf.l.b32"],
)
def test_unknown_modifiers_are_refused(text: str) -> None:
    opcode, *modifiers = text.split(".")
    with pytest.raises(UnsupportedInstruction, match=text.replace(".", r"\.")):
        operation(opcode, tuple(modifiers))


def test_other_opcodes_are_not_lane_wise() -> None:
    assert operation("ld", ("global", "f32")) is None
    assert operation("bra", ()) is None


def test_fma_rounds_once() -> None:
    """(1 + e)(1 - e) - 1 is -e**2; with a rounding in between it would be 0."""
    e = np.float32(2.0**-12)
    a, b, c, d = (np.array([x], np.float32) for x in (1 + e, 1 - e, -1, 0))
    find("fma.rn.f32").apply(d, a, b, c)
    assert d[0] == -(2.0**-24)


WITHOUT_HARDWARE_FMA = """
import sys
sys.path[:0] = sys.argv[1:]
import random
from test_arithmetic import FORMS, cancelling, disagreement
from numba.core.registry import cpu_target
assert "+fma" not in cpu_target.target_context.codegen()._get_host_cpu_features()
for text in ("fma.rn.f32", "fma.rn.f64", "fma.rz.f32", "div.rz.f32"):
    wrong = disagreement(text, cancelling(FORMS[text], random.Random(0), 60) or [(0x3F800000, 0x40400000)])
    assert not wrong, wrong
"""


@pytest.mark.slow
def test_cpus_without_a_fused_instruction(tmp_path: Path) -> None:
    """LLVM then calls the C library, which is exact too."""
    settings = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support")]
    subprocess.run([sys.executable, "-c", WITHOUT_HARDWARE_FMA, *folders], check=True, env=os.environ | settings)


def test_a_lane_does_not_depend_on_the_others() -> None:
    """NaN payloads included: vector code and the remainder loop of a ufunc must agree."""
    rng = random.Random(0)
    for text in ("add.f32", "fma.rn.f32", "mul.f64", "min.f32", "fma.rn.f64", "sub.f64", "max.f64", "div.rn.f32"):
        found, model = find(text), FORMS[text]
        nans = [value for value in specials(model.sources[0]) if decode(value, model.sources[0]) is None]
        cases = [tuple(rng.choice(nans) for _ in model.sources) for _ in range(37)]
        together = run(found, model, cases)[0]
        alone = [run(found, model, [case])[0][0] for case in cases]
        assert together == alone, text


def test_model_rounds_like_the_machine() -> None:
    """The model's own decoding and rounding, against the interpreter's float64."""
    rng = random.Random(1)
    for _ in range(500):
        x, y = (rng.uniform(-1, 1) * 2.0 ** rng.randint(-1070, 1000) for _ in range(2))
        bits = [encode(scalar_model.from_float(value), "f64") for value in (x, y)]
        total = FORMS["add.f64"].function(*bits)
        assert decode(total, "f64") == scalar_model.from_float(x + y)
        quotient = FORMS["div.rn.f64"].function(*bits)
        if 0 < abs(x / y) < float("inf"):
            assert decode(quotient, "f64") == scalar_model.from_float(x / y)
    assert decode(encode(Real(False, None), "f16"), "f16") == Real(False, None)


# --- as code for one lane (lanecode.py), of which loops are made (fused.py)


def opcode_of(text: str) -> tuple[str, tuple[str, ...], bool]:
    instruction, *destinations = text.split()
    opcode, *modifiers = instruction.split(".")
    return opcode, tuple(modifiers), bool(destinations)


WITH_LANE_CODE: dict[str, list[str]] = defaultdict(list)
for form in FORMS:
    if lane_code(*opcode_of(form)) is not None:
        WITH_LANE_CODE[opcode_of(form)[0]].append(form)
LANES = 128


class Registers:
    """As much of a machine as a loop over its registers needs."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self.rows: dict[str, np.ndarray] = {}
        self.lanes = LANES
        self.mask = np.zeros(LANES, bool)
        self.mask_address = self.mask.ctypes.data
        self.active = Active(self.mask)

    def add(self, name: str, values: np.ndarray) -> Register:
        size = 0 if values.dtype == bool else values.itemsize
        self.slots[name] = (size, len(self.slots))
        self.rows[name] = values.copy() if size == 0 else values.view(f"u{size}").copy()
        return Register(name)

    def row(self, register: Register) -> np.ndarray:
        return self.rows[register.name]


def lanes_of_cases(text: str) -> list[tuple[int, ...]]:
    """As many cases as there are lanes, some of them more than once."""
    cases = group_cases(text)
    chosen = random.Random(text).sample(cases, min(LANES, len(cases)))
    return (chosen * LANES)[:LANES]


@pytest.mark.parametrize("opcode", sorted(WITH_LANE_CODE))
def test_same_bits_as_the_function(opcode: str) -> None:
    check_lane_code(some_forms(WITH_LANE_CODE[opcode]))


@pytest.mark.exhaustive
def test_same_bits_as_the_function_for_every_comparison() -> None:
    """LLVM takes ten seconds for all of them."""
    check_lane_code(WITH_LANE_CODE["setp"])


def check_lane_code(forms: list[str]) -> None:
    """One loop over all these forms gives the bits that their functions give, in the lanes that it runs for."""
    machine = Registers()
    steps, wanted = [], {}
    for text in forms:
        opcode, modifiers, pair = opcode_of(text)
        found, emit = operation(opcode, modifiers, pair), lane_code(opcode, modifiers, pair)
        assert found is not None
        assert emit is not None
        cases = lanes_of_cases(text)
        columns = [as_array(list(c), d) for c, d in zip(zip(*cases, strict=True), found.sources, strict=True)]
        sources: list = [machine.add(f"{text} {index}", column) for index, column in enumerate(columns)]
        if "table" in FORMS[text].sources:
            sources[-1] = int(columns[-1][0])
        names = [f"{text} result {index}" for index in range(len(found.results))]
        targets = [machine.add(name, np.full(LANES, 1).astype(d)) for name, d in zip(names, found.results, strict=True)]
        wanted |= dict(zip(names, run(found, FORMS[text], cases), strict=True))
        steps.append(
            Computation(
                emit,
                list(zip(sources, found.sources, strict=True)),
                list(zip(targets, found.results, strict=True)),
                None,
            )
        )
    before = {name: machine.rows[name].copy() for name in wanted}
    mask = np.arange(LANES) % 3 == 0
    for masked in (True, False):
        machine.active = Active(mask if masked else np.ones(LANES, bool))
        fuse(machine, steps, masked)()  # type: ignore[arg-type]
        for name, values in wanted.items():
            full = np.array(values, machine.rows[name].dtype)
            expected = np.where(mask, full, before[name]) if masked else full
            where = np.flatnonzero(machine.rows[name] != expected)
            assert not where.size, (name, masked, int(where[0]), machine.rows[name][where[0]], expected[where[0]])
