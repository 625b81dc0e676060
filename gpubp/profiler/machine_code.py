"""The machine code of a kernel, read with nvdisasm: its instructions by class, and those of its main loop.

The compiler's report does not say how much of the work is arithmetic. The main loop is the innermost loop with the most
tensor instructions. If no loop has any, it is the one with the most multiply-adds, and a loop that reads shared memory
goes first, because an epilogue may have more of them. The share of arithmetic among its instructions bounds the share
of the peak rate that a kernel can reach, as a scheduler issues one instruction a clock.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from gpubp.errors import BackendError
from gpubp.toolchain.nvdisasm import disassemble

# HFMA2 of zeros is how the compiler makes a constant, and HADD2.F32 how it widens a float16.
_CLASSES = (
    ("FMA", r"[FD]FMA2?\b"),
    ("tensor", r"([HDIQ]|OM|BM)MMA\b|[HIQ]GMMA\b|UTC\w*MMA\b"),
    ("special function", r"MUFU\b"),
    ("other float", r"[FD](ADD|MUL|MNMX|SWZADD|CHK|ADD2|MUL2)\b|HMUL2|HMNMX2"),
    ("conversion", r"HADD2|F2F|F2I|I2F|I2I|F2FP|FRND"),
    ("compare and select", r"[FDI]SETP|[FI]SEL\b|SEL\b|[FD]SET\b|ISET\b|UISETP|USEL|PLOP3|UPLOP3|HSETP2|VOTE"),
    ("load matrix", r"LDSM\b"),
    ("load shared", r"LDS\b|ULDS\b"),
    ("store shared", r"STS\b|STSM\b"),
    ("asynchronous copy", r"LDGSTS\b|UBLKCP\b|UTMA\w*"),
    ("load global", r"LDG\b|LD\b"),
    ("store global", r"STG\b|ST\b"),
    ("atomic", r"ATOM\w*|RED\b|REDG\b|ATOMS\b"),
    ("local", r"LDL\b|STL\b"),
    ("constant", r"U?LDCU?\b"),
    ("barrier", r"BAR\b|DEPBAR|LDGDEPBAR|MEMBAR|SYNCS|ERRBAR|WARPSYNC|UCGABAR\w*|ARRIVES"),
    ("warp", r"SHFL|MATCH|REDUX|MOVM"),
    ("control", r"BRA|BRX|EXIT|RET|CALL|JMP|BSSY|BSYNC|BREAK|NOP|YIELD|NANOSLEEP|KILL|BPT|ACQBULK|PREEXIT"),
    ("move", r"HFMA2|MOV\b|UMOV|S2R|S2UR|CS2R|R2UR|IMAD\.MOV|IMAD\.U32|P2R|R2P|UP2UR|UR2UP|PRMT|UPRMT"),
)
"""Classes by opcode, the first that matches; the names are the emulator's where both have the class."""
OTHER = "integer"

_PATTERNS = [(name, re.compile(pattern)) for name, pattern in _CLASSES]


@dataclass(frozen=True)
class MachineCode:
    """The number of instructions in the machine code of one kernel, not of those executed.

    Attributes:
        classes: of the whole kernel, by class.
        main_loop: of the main loop, by class; empty if no loop multiplies.
        opcodes: of the main loop, by opcode without modifiers.
    """

    classes: Mapping[str, int]
    main_loop: Mapping[str, int]
    opcodes: Mapping[str, int]

    @property
    def instructions(self) -> int:
        """Return the number of instructions of the whole kernel."""
        return sum(self.classes.values())

    @property
    def loop_instructions(self) -> int:
        """Return the number of instructions of the main loop."""
        return sum(self.main_loop.values())

    def share(self, name: str) -> float:
        """Return the share of a class among the main loop's instructions; 0 without a main loop."""
        return self.main_loop.get(name, 0) / self.loop_instructions if self.main_loop else 0.0

    @property
    def arithmetic_share(self) -> float:
        """Return the share of multiply-adds and tensor instructions among those of the main loop."""
        return self.share("FMA") + self.share("tensor")


def read(cubin: bytes, kernel: str) -> MachineCode:
    """Return the machine code of one kernel.

    Args:
        cubin: contains the kernel.
        kernel: the kernel's name in the cubin.

    Raises:
        BackendError: nvdisasm is missing or cannot read the cubin, or the kernel is not in it.
    """
    instructions, loops = _parse(_section(disassemble(cubin), kernel))
    loop = main_loop(instructions, loops)
    return MachineCode(
        dict(Counter(map(classify, instructions)).most_common()),
        dict(Counter(map(classify, loop)).most_common()),
        dict(Counter(each.split(".")[0] for each in loop).most_common()),
    )


def classify(opcode: str) -> str:
    """Return the class of an instruction by its opcode with modifiers, such as "IMAD.MOV.U32"."""
    return next((name for name, pattern in _PATTERNS if pattern.match(opcode)), OTHER)


def main_loop(instructions: list[str], loops: list[tuple[int, int]]) -> list[str]:
    """Return the instructions of the main loop (see the head of this module); [] if no loop multiplies.

    Args:
        instructions: opcodes of the kernel, in order.
        loops: positions of each loop's first instruction and of its jump back.
    """
    innermost = [
        (first, last)
        for first, last in loops
        if not any(first <= start and end <= last and (start, end) != (first, last) for start, end in loops)
    ]
    bodies = [instructions[first : last + 1] for first, last in innermost]
    best = max(bodies, key=_arithmetic, default=[])
    return best if any(_arithmetic(best)) else []


def _arithmetic(instructions: list[str]) -> tuple[int, int, int]:
    """Return what ranks loops: the one with the greatest value is the main loop."""
    classes = Counter(map(classify, instructions))
    return classes["tensor"], classes["FMA"] if classes["load shared"] else 0, classes["FMA"]


def _section(text: str, kernel: str) -> str:
    """Return the part of a disassembly that is this kernel's code."""
    for part in re.split(r"\.section\s+\.text\.", text)[1:]:
        if part.startswith(f"{kernel},"):
            return part
    raise BackendError(f"the machine code has no kernel {kernel}")


def _parse(section: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Return the opcodes, without predicates, and the loops as positions among them."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    loops = []
    for line in section.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@\S+\s+)?(\S.*?);", line):
            instructions.append(instruction[1].split()[0])
            jump = re.search(r"BRA.*?(\.L_x_\d+)", instruction[1])
            if jump and jump[1] in labels:
                loops.append((labels[jump[1]], len(instructions) - 1))
    return instructions, loops
