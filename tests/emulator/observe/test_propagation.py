"""Undefined bits through lane-wise instructions, against trying every value that they may have."""

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scalar_model import FORMS, width

from gpubp.emulator.isa.arithmetic import operation
from gpubp.emulator.observe.propagation import rule, unsigned
from gpubp.emulator.program.ptx import Immediate, Instruction, Register


def texts(*lines):
    return [text for line in lines for text in line.split()]


# Of these the mask says no bit too many, whatever is undefined.
EXACT = texts(
    "and.b16 and.b32 and.b64 and.pred or.b16 or.b32 or.b64 or.pred xor.b16 xor.b32 xor.b64 xor.pred not.b16 not.b32",
    "not.b64 not.pred mov.pred mov.b16 mov.b32 mov.u32 mov.s32 mov.b64 mov.f32 mov.f64 brev.b32 brev.b64 cvt.u32.u16",
    "cvt.s32.s16 cvt.u16.u32 cvt.s64.s32 cvt.u64.u32 cvt.u32.u64",
)
# Of these it says none too many if those operands are defined that say where bits go.
EXACT_BUT_FOR_CONTROLS = texts(
    "shl.b16 shl.b32 shl.b64 shr.b32 shr.u16 shr.u32 shr.s32 shr.u64 shr.s64 shf.l.wrap.b32 shf.l.clamp.b32",
    "shf.r.wrap.b32 shf.r.clamp.b32 prmt.b32 prmt.b32.f4e prmt.b32.rc8 bfe.u32 bfe.s32 bfe.u64 bfe.s64 bfi.b32 bfi.b64",
    "selp.b16 selp.b32 selp.f32 selp.b64 slct.b32.s32 szext.wrap.u32 szext.clamp.s32",
)
CONTROLS = {"shl": 1, "shr": 1, "shf": 2, "prmt": 2, "bfe": 1, "bfi": 2, "selp": 2, "slct": 2, "szext": 1, "lop3": 3}
SOUND = texts(
    "add.u16 add.s32 add.u64 sub.s16 sub.u32 sub.s64 mul.lo.u16 mul.lo.s32 mul.lo.u64 mul.wide.u16 mul.wide.s32",
    "mul.hi.u32 mad.lo.s32 mad.wide.u32 mad.hi.s32 neg.s32 abs.s32 min.u32 max.s64 div.u32 rem.s32 popc.b32 clz.b64",
    "bfind.u32 sad.u32 setp.eq.b32 setp.ne.u64 setp.lt.u32 setp.le.s32 setp.gt.u16 setp.ge.s64 setp.lo.u32 setp.ls.u32",
    "setp.hi.u32 setp.hs.u32 setp.eq.f32 setp.lt.f32 setp.lt.and.s32 setp.ge.or.u32 setp.eq.xor.b32 set.lt.u32.u32",
    "cnot.b32 add.rn.f32 mul.rn.f64 fma.rn.f32 max.f32 add.rn.f16x2 mul.rn.bf16x2 fma.rn.f16x2 add.rn.f16",
    "cvt.rn.f32.s32 cvt.rzi.s32.f32 cvt.f32.f16 cvt.rn.f16x2.f32 cvt.sat.u8.s32 add.cc.u32 addc.u32 addc.cc.u32",
    "sub.cc.u32 subc.u32 mad.lo.cc.u32 madc.hi.u32 copysign.f32 testp.finite.f32 dp4a.u32.u32",
)


def bits_of(type_):
    """The bits of an operand; the model names some by what they mean."""
    return 32 if type_ in ("count", "small", "lane") else 8 if type_ == "table" else width(type_)


def undefined(text, values, masks):
    """The masks of the results, by the emulator."""
    opcode, *modifiers = text.split(".")
    found = operation(opcode, tuple(modifiers))
    named = [Register(f"%r{index}") for index in range(len(values))]
    if opcode == "lop3":
        named[3] = Immediate(values[3])
    instruction = Instruction(opcode, tuple(modifiers), (Register("%d"), *named), None, None, text)
    dtypes = [unsigned(dtype) for dtype in (*found.sources, *([np.dtype(bool)] if found.carry_in else []))]
    arrays = [
        [np.array([x]).astype(dtype) for x, dtype in zip(numbers, dtypes, strict=True)] for numbers in (values, masks)
    ]
    results = rule(instruction, found)(arrays[0][: len(found.sources)], arrays[1])
    return [int(np.broadcast_to(result, 1)[0]) for result in results]


def truth(model, values, masks):
    """Which bits of the results change with the undefined bits, by trying all their values."""
    places = [(index, bit) for index, mask in enumerate(masks) for bit in range(64) if mask >> bit & 1]
    first = None
    for choice in product((0, 1), repeat=len(places)):
        tried = [value & ~mask for value, mask in zip(values, masks, strict=True)]
        for (index, bit), one in zip(places, choice, strict=True):
            tried[index] |= one << bit
        results = model.function(*tried)
        results = results if isinstance(results, tuple) else (results,)
        if first is None:
            first, changed = results, [0] * len(results)
        changed = [bits | (one ^ other) for bits, one, other in zip(changed, first, results, strict=True)]
    return changed


@st.composite
def operands(draw, texts, defined=None):
    """An instruction, its values, and masks with a few undefined bits; operands from `defined` on have none."""
    text = draw(st.sampled_from(texts))
    bits = [bits_of(type_) for type_ in FORMS[text].sources]
    small = st.integers(0, 40)
    values = [draw(st.one_of(st.integers(0, 2**n - 1), small.map(lambda x, n=n: x % 2**n))) for n in bits]
    first = len(bits) if defined is None else defined(text)
    choices = [(index, bit) for index, n in enumerate(bits[:first]) for bit in range(n)]
    chosen = draw(st.lists(st.sampled_from(choices), max_size=5, unique=True))
    masks = [sum(1 << bit for place, bit in chosen if place == index) for index in range(len(bits))]
    return text, values, masks


@settings(max_examples=300, deadline=None)
@given(operands(EXACT))
def test_logic_and_moves_are_followed_exactly(case):
    text, values, masks = case
    assert undefined(text, values, masks) == truth(FORMS[text], values, masks)


@settings(max_examples=300, deadline=None)
@given(operands([*EXACT_BUT_FOR_CONTROLS, "lop3.b32"], lambda text: CONTROLS[text.split(".")[0]]))
def test_shifts_fields_and_selections_are_followed_exactly(case):
    text, values, masks = case
    assert undefined(text, values, masks) == truth(FORMS[text], values, masks)


@settings(max_examples=1000, deadline=None)
@given(operands([*EXACT, *EXACT_BUT_FOR_CONTROLS, *SOUND]))
def test_no_bit_that_may_change_counts_as_defined(case):
    text, values, masks = case
    for mask, bits in zip(undefined(text, values, masks), truth(FORMS[text], values, masks), strict=True):
        assert bits & ~mask == 0
        assert mask == 0 or any(masks)
