"""Reading machine code: classes, loops, and what is said where it cannot be read."""

import pytest

from gpubp.errors import BackendError
from gpubp.profiler import machine_code

LISTING = """
\t.section\t.text.other,"ax",@progbits
        /*0000*/                   EXIT ;
\t.section\t.text.kernel,"ax",@progbits
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/               @P0 LDG.E R2, desc[UR4][R2.64] ;
.L_x_0:
        /*0020*/                   LDS.128 R4, [R3] ;
        /*0030*/                   FFMA R5, R4, R4, R5 ;
        /*0040*/                   FFMA R6, R4, R4, R6 ;
        /*0050*/                   IADD3 R3, R3, 0x10, RZ ;
        /*0060*/              @!P1 BRA `(.L_x_0) ;
.L_x_3:
        /*0070*/                   FFMA R5, R4, R4, R5 ;
        /*0080*/              @!P1 BRA `(.L_x_3) ;
        /*0090*/              @P2  BRA `(.L_x_2) ;
        /*00a0*/               @P2 BRA `(.L_x_1) ;
.L_x_1:
        /*00b0*/                   EXIT ;
.L_x_4:
        /*00c0*/                   BRA `(.L_x_4);
"""


def test_the_main_loop_is_the_innermost_with_most_multiply_adds(monkeypatch):
    monkeypatch.setattr(machine_code, "disassemble", lambda cubin: LISTING)
    code = machine_code.read(b"", "kernel")
    assert code.main_loop == {"FMA": 2, "load shared": 1, "integer": 1, "control": 1}
    assert code.opcodes == {"FFMA": 2, "LDS": 1, "IADD3": 1, "BRA": 1}
    assert code.arithmetic_share == code.share("FMA") == 0.4
    assert code.instructions == 13
    assert code.classes["control"] == 6
    assert machine_code.read(b"", "other").main_loop == {}
    with pytest.raises(BackendError, match="no kernel kern"):
        machine_code.read(b"", "kern")


@pytest.mark.parametrize("multiply", [["HMMA.16816.F32.BF16", "LDSM.16.M88.4"], ["FFMA", "LDS.128"]])
def test_the_main_loop_is_not_an_epilogue_that_multiplies_more(multiply):
    instructions = [*multiply, "BRA", *["FFMA"] * 30, "BRA"]
    assert machine_code.main_loop(instructions, [(0, 2), (3, 33)]) == instructions[:3]
    assert machine_code.main_loop(instructions[3:], [(0, 30)]) == instructions[3:]
    assert machine_code.main_loop(["IADD3", "BRA"], [(0, 1)]) == []


@pytest.mark.parametrize(
    ("opcode", "name"),
    [
        ("FFMA", "FMA"),
        ("DFMA.RP", "FMA"),
        ("HMMA.16816.F32.BF16", "tensor"),
        ("HFMA2", "move"),
        ("FADD.FTZ", "other float"),
        ("MUFU.EX2", "special function"),
        ("LDSM.16.M88.4", "load matrix"),
        ("LDS.U.128", "load shared"),
        ("LDG.E.128.CONSTANT", "load global"),
        ("LDGSTS.E.BYPASS.128", "asynchronous copy"),
        ("LDGDEPBAR", "barrier"),
        ("LDL.LU", "local"),
        ("LDC.64", "constant"),
        ("ULDC.64", "constant"),
        ("LDCU.128", "constant"),
        ("STS.128", "store shared"),
        ("BAR.SYNC.DEFER_BLOCKING", "barrier"),
        ("IMAD.MOV.U32", "move"),
        ("IMAD.WIDE", "integer"),
        ("LEA.HI.X", "integer"),
        ("UIADD3", "integer"),
        ("ISETP.GE.AND", "compare and select"),
        ("F2FP.BF16.F32.PACK_AB", "conversion"),
        ("SHFL.BFLY", "warp"),
        ("BRA.U", "control"),
    ],
)
def test_classes(opcode, name):
    assert machine_code.classify(opcode) == name
