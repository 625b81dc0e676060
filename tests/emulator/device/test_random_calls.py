"""Random programs of functions that call each other: inlined, not inlined and through pointers, against a model."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

import gpubp.emulator as cp
from gpubp.emulator import launch, limits, observe
from gpubp.emulator.program import inlining

MASK = 0xFFFF_FFFF
LANES = 70


@dataclass(frozen=True)
class Step:
    """In a function: if bit `bit` of y is set, y = y * factor ^ callee(y + x), the callee by its name or by a table."""

    bit: int
    factor: int
    callees: tuple[int, ...]  # more than one: a table, indexed by y
    by_pointer: bool


@dataclass(frozen=True)
class Made:
    """A function of x: y = x * factor + 1, then the steps, then y + x + a word of a local array."""

    factor: int
    steps: tuple[Step, ...]


def make(seed: int) -> list[Made]:
    """Return functions that call earlier ones."""
    source = random.Random(seed)
    functions: list[Made] = []
    for number in range(6):
        steps = []
        for _ in range(source.randint(1, 3) if number else 0):
            by_pointer = source.random() < 0.5
            count = source.choice((1, 2, 3)) if by_pointer else 1
            callees = tuple(source.randrange(number) for _ in range(count))
            steps.append(Step(source.randrange(4), source.randrange(1, 99, 2), callees, by_pointer))
        functions.append(Made(source.randrange(1, 99, 2), tuple(steps)))
    return functions


def model(functions: list[Made], number: int, x: int) -> int:
    """Return what a function gives, one thread at a time."""
    function = functions[number]
    y = (x * function.factor + 1) & MASK
    array = [(x + i) & MASK for i in range(4)]
    for step in function.steps:
        if y >> step.bit & 1:
            callee = step.callees[y % len(step.callees)]
            y = (y * step.factor & MASK) ^ model(functions, callee, (y + x) & MASK)
            array[y & 3] = y
    return (y + x + array[x & 3]) & MASK


def text(functions: list[Made]) -> str:
    """Return the functions and a kernel that calls the last one, as PTX."""
    lines = [".version 8.5", ".target sm_90", ".address_size 64"]
    lines += [f".func (.param .b32 out) f{number} (.param .b32 x);" for number in range(len(functions))]
    for number, function in enumerate(functions):
        for index, step in enumerate(function.steps):
            if step.by_pointer:
                names = ", ".join(f"f{callee}" for callee in step.callees)
                lines.append(f".global .align 8 .u64 table_{number}_{index}[{len(step.callees)}] = {{{names}}};")
    for number, function in enumerate(functions):
        lines.append(f".func (.param .b32 out) f{number} (.param .b32 x) {{")
        lines.append(".reg .pred %p<9>; .reg .b32 %r<20>; .reg .b64 %rd<9>; .local .align 4 .b8 array[16];")
        lines.append("mov.u64 %rd1, array; ld.param.u32 %r1, [x];")
        lines.append(f"mad.lo.u32 %r2, %r1, {function.factor}, 1;")
        for i in range(4):
            lines.append(f"add.u32 %r3, %r1, {i}; st.local.u32 [array+{4 * i}], %r3;")
        for index, step in enumerate(function.steps):
            lines.append(f"and.b32 %r4, %r2, {1 << step.bit}; setp.eq.u32 %p1, %r4, 0; @%p1 bra L{index};")
            lines.append("add.u32 %r5, %r2, %r1; { .param .b32 a; .param .b32 o; st.param.b32 [a], %r5;")
            if step.by_pointer:
                lines.append(f"rem.u32 %r6, %r2, {len(step.callees)}; mul.wide.u32 %rd2, %r6, 8;")
                lines.append(f"mov.u64 %rd3, table_{number}_{index}; add.u64 %rd2, %rd2, %rd3;")
                lines.append("ld.global.u64 %rd4, [%rd2]; p: .callprototype (.param .b32 _) _ (.param .b32 _);")
                lines.append("call (o), %rd4, (a), p;")
            else:
                lines.append(f"call (o), f{step.callees[0]}, (a);")
            lines.append(f"ld.param.b32 %r7, [o]; }} mul.lo.u32 %r2, %r2, {step.factor}; xor.b32 %r2, %r2, %r7;")
            lines.append("and.b32 %r8, %r2, 3; mul.wide.u32 %rd5, %r8, 4; add.u64 %rd5, %rd5, %rd1;")
            lines.append(f"st.local.u32 [%rd5], %r2; L{index}:")
        lines.append("and.b32 %r9, %r1, 3; mul.wide.u32 %rd6, %r9, 4; add.u64 %rd6, %rd6, %rd1;")
        lines.append("ld.local.u32 %r10, [%rd6]; add.u32 %r2, %r2, %r1; add.u32 %r2, %r2, %r10;")
        lines.append("st.param.b32 [out], %r2; ret; }")
    lines.append(".visible .entry k(.param .u64 result) { .reg .b32 %r<9>; .reg .b64 %rd<9>;")
    lines.append("ld.param.u64 %rd1, [result]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4;")
    lines.append("add.u64 %rd1, %rd1, %rd2; { .param .b32 a; .param .b32 o; st.param.b32 [a], %r1;")
    lines.append(f"call (o), f{len(functions) - 1}, (a); ld.param.b32 %r2, [o]; }} st.global.u32 [%rd1], %r2; ret; }}")
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(8))
def test_random_functions(seed, monkeypatch):
    functions = make(seed)
    expected = [model(functions, len(functions) - 1, x) for x in range(LANES)]
    for inlined in (True, False):
        if not inlined:
            monkeypatch.setattr(inlining, "_recursive", lambda module: set(module.functions) - {"k"})
        kernel = launch.load(text(functions)).kernel("k")
        out = cp.zeros(LANES, np.uint32)
        with limits(stack=1 << 14), observe(races=True, uninitialised=True) as report:
            launch.launch(kernel, (1, 1, 1), (LANES, 1, 1), [int(out.data.ptr).to_bytes(8, "little")])
        assert out.get().tolist() == expected
        assert not report.findings
        assert inlined or len(kernel.decoded().program.sections) > 1
