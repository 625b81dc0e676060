"""The machine code of a kernel, read with nvdisasm: its instructions by class, and those of its main loop.

What the compiler's report does not say is how much of the work is arithmetic. The main loop is the innermost loop with
the most tensor instructions; where none has any, with the most multiply-adds, before others one that reads shared
memory: an epilogue may have more of them. Their share among its instructions bounds the share of the peak rate that a
kernel can reach, as a scheduler issues one instruction a clock.
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
    ("tensor", r"([HDIQ]|OM|BM)MMA\b|UTC\w*MMA\b"),
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
    """The instructions of one kernel as they stand in the machine code, not as often as they run.

    classes: of the whole kernel. main_loop: of that loop, empty where no loop multiplies. opcodes: of that loop, by
    their name without modifiers.
    """

    classes: Mapping[str, int]
    main_loop: Mapping[str, int]
    opcodes: Mapping[str, int]

    @property
    def instructions(self) -> int:
        """Of the whole kernel."""
        return sum(self.classes.values())

    @property
    def loop_instructions(self) -> int:
        """Of the main loop."""
        return sum(self.main_loop.values())

    def share(self, name: str) -> float:
        """Of a class among the main loop's instructions; 0 without a main loop."""
        return self.main_loop.get(name, 0) / self.loop_instructions if self.main_loop else 0.0

    @property
    def arithmetic_share(self) -> float:
        """Multiply-adds and tensor instructions among those of the main loop."""
        return self.share("FMA") + self.share("tensor")


def read(cubin: bytes, kernel: str) -> MachineCode:
    """The machine code of one kernel.

    cubin: with that kernel in it. kernel: its name there.

    Raises BackendError where nvdisasm is missing or cannot read it.
    """
    instructions, loops = _parse(_section(disassemble(cubin), kernel))
    loop = main_loop(instructions, loops)
    return MachineCode(
        dict(Counter(map(classify, instructions)).most_common()),
        dict(Counter(map(classify, loop)).most_common()),
        dict(Counter(each.split(".")[0] for each in loop).most_common()),
    )


def classify(opcode: str) -> str:
    """The class of an instruction, by its opcode with modifiers, such as "IMAD.MOV.U32"."""
    return next((name for name, pattern in _PATTERNS if pattern.match(opcode)), OTHER)


def main_loop(instructions: list[str], loops: list[tuple[int, int]]) -> list[str]:
    """The instructions of the main loop, as said at the head of this module; [] where no loop multiplies.

    loops: each as the positions of its first instruction and of its jump back.
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
    """What makes a loop the main one, by rank."""
    classes = Counter(map(classify, instructions))
    return classes["tensor"], classes["FMA"] if classes["load shared"] else 0, classes["FMA"]


def _section(text: str, kernel: str) -> str:
    """The part of a disassembly that is this kernel's code."""
    for part in re.split(r"\.section\s+\.text\.", text)[1:]:
        if part.startswith(f"{kernel},"):
            return part
    raise BackendError(f"the machine code has no kernel {kernel}")


def _parse(section: str) -> tuple[list[str], list[tuple[int, int]]]:
    """The opcodes, without predicates, and the loops as positions among them."""
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
