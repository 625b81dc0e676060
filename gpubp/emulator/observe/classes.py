"""Which class an instruction is counted in, and how many floating point operations it is."""

from __future__ import annotations

import re
from math import prod

from gpubp.chips import WARP
from gpubp.emulator.isa import matrix
from gpubp.emulator.isa.arithmetic import operation
from gpubp.emulator.program.ptx import Instruction, Pair

_LANEWISE_CLASSES = {
    "fma": "FMA",
    "float": "other float",
    "special": "special function",
    "integer": "integer",
    "logic": "integer",
    "compare": "compare and select",
    "conversion": "conversion",
    "move": "move",
}
_CLASSES = {
    **dict.fromkeys(("shfl", "vote", "match", "redux", "elect", "activemask"), "warp"),
    **dict.fromkeys(("bar", "barrier", "mbarrier", "membar", "fence"), "barrier"),
    **dict.fromkeys(("bra", "brx", "ret", "exit", "call", "return", "trap", "brkpt"), "control"),
    **dict.fromkeys(("cvta", "isspacep"), "integer"),
    **dict.fromkeys(("mma", "wmma.mma", "wgmma.mma_async"), "tensor"),
    **dict.fromkeys(("wgmma.fence", "wgmma.commit_group", "wgmma.wait_group"), "barrier"),
    "movmatrix": "warp",
    "ldmatrix": "load shared",
    "stmatrix": "store shared",
    "cp": "asynchronous copy",
}
_ACCESSES = {
    **dict.fromkeys(("ld", "ldu", "wmma.load"), "load"),
    **dict.fromkeys(("st", "wmma.store"), "store"),
    **dict.fromkeys(("atom", "red"), "atomic"),
}


def instruction_class(instruction: Instruction) -> str:
    """Return the class under which an instruction is counted, such as "FMA", "integer", "load global" or "tensor"."""
    opcode = _name(instruction)
    if opcode in _ACCESSES:
        spaces = ("global", "shared", "local", "param", "const")
        named = [m.split("::")[0] for m in instruction.modifiers if m.split("::")[0] in spaces]
        return f"{_ACCESSES[opcode]} {named[0] if named else 'generic'}"
    if opcode in _CLASSES:
        return _CLASSES[opcode]
    found = operation(opcode, instruction.modifiers, _has_pair(instruction))
    return "other" if found is None else _LANEWISE_CLASSES[found.kind]


def flops_of(instruction: Instruction) -> int:
    """Return the floating point operations of a thread; those of a matrix instruction are shared by the threads of its
    warp, or of its warpgroup."""
    name = _name(instruction)
    if name == "wgmma.mma_async":
        return _of_warpgroup(instruction)
    if name in ("mma", "wmma.mma"):
        find = matrix.matrix_multiply if name == "mma" else matrix.wmma_multiply
        return find(instruction.modifiers).flops // WARP
    if name in _CLASSES or name in _ACCESSES:
        return 0
    found = operation(instruction.opcode, instruction.modifiers, _has_pair(instruction))
    return 0 if found is None else found.flops


def _of_warpgroup(instruction: Instruction) -> int:
    """Return a thread's share of 2 M N K operations, none of which is one of floating point on integers."""
    if "s32" in instruction.modifiers:
        return 0
    shape = next(sides for each in instruction.modifiers if (sides := re.fullmatch(r"m(\d+)n(\d+)k(\d+)", each)))
    return 2 * prod(map(int, shape.groups())) // (4 * WARP)


def _name(instruction: Instruction) -> str:
    """Return the opcode, of wmma and wgmma with what it does: "wmma.load"."""
    opcode = instruction.opcode
    return f"{opcode}.{instruction.modifiers[0]}" if opcode in ("wmma", "wgmma") else opcode


def _has_pair(instruction: Instruction) -> bool:
    return bool(instruction.operands) and isinstance(instruction.operands[0], Pair)
