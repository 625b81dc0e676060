"""The PTX parser: names, scopes, operands, locations, variables."""

import pytest

from gpubp.emulator.errors import PTXSyntaxError
from gpubp.emulator.program import ptx
from gpubp.emulator.program.ptx import (
    Address,
    Immediate,
    Label,
    Location,
    Pair,
    Register,
    Sink,
    Special,
    Symbol,
    Vector,
)


def parse_body(body: str, declarations: str = ".reg .b32 %r<9>; .reg .pred %p<9>; .reg .b64 %rd<9>; .reg .f32 %f<9>;"):
    """The function of a body of PTX."""
    header = '.version 8.5\n.target sm_90\n.address_size 64\n.file 1 "/a/b.cu"\n'
    return ptx.parse(f"{header}.visible .entry k()\n{{ {declarations}\n{body}\n}}").functions["k"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%r1", Register("%r1")),
        ("!%p2", Register("%p2", True)),
        ("-12", Immediate(-12)),
        ("0x7F", Immediate(127)),
        ("0b101", Immediate(5)),
        ("017", Immediate(15)),
        ("4294967295U", Immediate(0xFFFFFFFF)),
        ("0f3F800000", Immediate(0x3F800000, 32)),
        ("0d3FF0000000000000", Immediate(0x3FF0000000000000, 64)),
        ("1.0", Immediate(0x3FF0000000000000, 64)),
        ("%tid.x", Special("tid.x")),
        ("_", Sink()),
        ("name+8", Symbol("name", 8)),
        ("[%rd1+-16]", Address(Register("%rd1"), -16)),
        ("[%rd1]", Address(Register("%rd1"), 0)),
        ("[name+4]", Address(Symbol("name"), 4)),
        ("[64]", Address(None, 64)),
        ("{%r1, _, 3}", Vector((Register("%r1"), Sink(), Immediate(3)))),
        ("%r1|%p1", Pair(Register("%r1"), Register("%p1"))),
    ],
)
def test_operands(text, expected):
    (instruction,) = parse_body(f"op {text};").instructions
    assert instruction.operands == (expected,)


def test_an_instruction_with_all_its_parts():
    (instruction,) = parse_body("@!%p1 ld.global.nc.L2::128B.v2.f32 {%f1, %f2},\n   [%rd1+8]; // comment").instructions
    assert instruction.opcode == "ld"
    assert instruction.modifiers == ("global", "nc", "L2::128B", "v2", "f32")
    assert instruction.guard == Register("%p1", True)
    assert instruction.operands[1] == Address(Register("%rd1"), 8)


def test_locations_name_the_line_and_where_it_was_inlined():
    body = ".loc 1 7 3\nadd.s32 %r1, %r1, 1;\n.loc 1 20 1, function_name $L__info_string0, inlined_at 1 9 5\nret;"
    add, ret = parse_body(body).instructions
    assert (add.location.line, add.location.inlined_at) == (7, None)
    assert str(ret.location) == "b.cu:20 (inlined at b.cu:9)"


CHAIN = """
.loc 1 11 3
.loc 1 7 18, function_name $L__info_string0, inlined_at 1 11 3
.loc 1 6 18, function_name $L__info_string1, inlined_at 1 7 18
add.s32 %r1, %r1, 1;
.loc 1 5 9, function_name $L__info_string2, inlined_at 1 6 18
ret;"""


def test_locations_chain_through_every_level_of_inlining():
    add, ret = parse_body(CHAIN).instructions
    assert [place.line for place in ret.location.chain()] == [5, 6, 7, 11]
    assert str(add.location) == "b.cu:6 (inlined at b.cu:7, inlined at b.cu:11)"
    assert str(ret.location) == "b.cu:5 (inlined at b.cu:6, inlined at b.cu:7, inlined at b.cu:11)"


@pytest.mark.parametrize(
    "header",
    [
        "/home/me/.cache/gpubp/cuda-headers/13.5/cuda_fp8.hpp",
        "/usr/local/cuda/include/cuda_fp16.hpp",
        "/usr/local/cuda-12.4/include/mma.hpp",
        "/venv/lib/python3.12/site-packages/nvidia/cu13/include/cuda_bf16.hpp",
        "/home/me/cccl/cub/block/block_scan.cuh",
        "/venv/lib/python3.12/site-packages/numba/np/arrayobj.py",
    ],
)
def test_a_location_leads_with_the_users_own_line(header):
    deep = Location(header, 308, Location(header, 2558, Location("/home/me/k.cu", 13, Location("/home/me/k.cu", 40))))
    assert deep.own.line == 13
    assert str(deep) == f"k.cu:13 (in {header.rsplit('/', 1)[1]}:308, inlined at k.cu:40)"
    assert str(Location(header, 308)) == f"{header.rsplit('/', 1)[1]}:308"


@pytest.mark.parametrize("file", ["/home/me/gpubp/kernels/cuda/update.cu", "/x/site-packages/gpubp/kernels/numba/u.py"])
def test_kernels_of_ones_own_are_no_library(file):
    assert Location(file, 3, Location("/home/me/k.cu", 13)).own.line == 3


def test_comments_are_not_code_and_strings_are_not_comments():
    function = parse_body('/* ret; */ .pragma "no//unroll"; // ret;\nexit;')
    assert [instruction.opcode for instruction in function.instructions] == ["exit"]


def test_scopes_have_registers_variables_and_labels_of_their_own():
    body = """
    { .reg .b32 t; mov.b32 t, 1; DONE: bra DONE; }
    { .reg .b64 t; mov.b64 t, 2; DONE: bra DONE; }
    """
    function = parse_body(body)
    first, loop, second, other_loop = function.instructions
    assert first.operands[0] != second.operands[0]
    assert function.registers[first.operands[0].name] == "b32"
    assert function.registers[second.operands[0].name] == "b64"
    assert loop.operands != other_loop.operands
    assert function.labels[loop.operands[0].name] == 1
    assert function.labels[other_loop.operands[0].name] == 3


def test_an_inner_scope_sees_the_outer_ones():
    function = parse_body("{ .reg .b32 t; { add.s32 t, %r1, 1; bra END; } }\nEND: ret;")
    add, branch, _ = function.instructions
    assert add.operands[1] == Register("%r1")
    assert branch.operands == (Label("END"),)


def test_declarations_need_no_spaces():
    function = parse_body("{.reg.b32 f, g; .shared.align 4.b8 s[8]; add.s32 f, g, 1;}")
    assert set(function.registers.values()) == {"b32"}
    assert [variable.nbytes for variable in function.variables.values()] == [8]


def test_branch_tables():
    function = parse_body("ts: .branchtargets A, B;\nA: brx.idx %r1, ts;\nB: ret;")
    assert function.branch_targets == {"ts": ("A", "B")}


def test_variables_with_initialisers():
    module = ptx.parse(
        """.version 8.5
        .global .align 4 .u32 one = 1;
        .const .align 8 .f64 halves[2] = {0d3FE0000000000000, 0.5};
        .global .align 8 .u64 pointer = one+4;
        .global .align 1 .b8 text[] = {72, 105, 0};
        .extern .shared .align 16 .b8 dynamic[];
        .visible .global .align 16 .v4 .f32 vector;
        .global .align 8 .u64 addresses[2] = {generic(one), 0};
        """
    )
    variables = module.variables
    assert variables["one"].initial == (1,)
    assert variables["halves"].initial == (0.5, 0.5)
    assert variables["pointer"].initial == (Symbol("one", 4),)
    assert variables["text"].nbytes == 3
    assert variables["dynamic"].external
    assert variables["dynamic"].nbytes == 0
    assert variables["vector"].nbytes == 16
    assert variables["addresses"].initial == (Symbol("one"), 0)


def test_parameters_and_performance_directives():
    module = ptx.parse(
        """.visible .entry k(.param .u64 .ptr .global .align 16 k_0, .param .align 8 .b8 k_1[24], .param .f32 k_2)
        .maxntid 16, 8, 1
        .minnctapersm 2
        { ret; }
        .func (.param .b32 r) f(.param .b64 a) ;"""
    )
    kernel = module.functions["k"]
    assert [(p.type, p.nbytes, p.align) for p in kernel.parameters] == [("u64", 8, 8), ("b8", 24, 8), ("f32", 4, 4)]
    assert kernel.max_threads == 128
    assert not module.functions["f"].defined
    assert module.functions["f"].returns[0].type == "b32"


@pytest.mark.parametrize("body", ["add.s32 %r1, ?;", "bra NOWHERE_ELSE;\n.reg .b77 x;", ".reg .v4 .f32 x;"])
def test_what_is_not_understood_raises(body):
    with pytest.raises(PTXSyntaxError, match="PTX line"):
        parse_body(body)
