"""Control flow: blocks, their running order, inlining; and which registers share storage."""

import pytest

from gpubp.emulator.errors import PTXSyntaxError, UnsupportedInstruction
from gpubp.emulator.program import cfg, ptx, registers
from gpubp.emulator.program.inlining import Call
from gpubp.emulator.program.ptx import Label

HEADER = ".version 8.5\n.target sm_90\n.address_size 64\n"


def build(body: str, functions: str = "") -> cfg.Program:
    text = f"{HEADER}{functions}\n.entry k() {{ .reg .b32 %r<99>; .reg .pred %p<9>;\n{body}\n}}"
    module = ptx.parse(text)
    return cfg.build(module, module.functions["k"])


def marks(program: cfg.Program) -> list[int]:
    """The constants that `mov.u32 %r1, N` puts in, in running order: they name the blocks."""
    return [
        instruction.operands[1].value
        for block in program.blocks
        for instruction in block.instructions
        if instruction.opcode == "mov"
    ]


def test_a_loop_runs_before_what_follows_it_wherever_it_stands_in_the_text():
    program = build(
        """
        mov.u32 %r1, 0;
        bra HEAD;
    AFTER: mov.u32 %r1, 3; ret;
    HEAD: mov.u32 %r1, 1;
        @%p1 bra AFTER;
        mov.u32 %r1, 2;
        bra HEAD;
        """
    )
    assert marks(program) == [0, 1, 2, 3]


def test_both_sides_of_a_branch_run_before_they_meet():
    program = build(
        """
        @%p1 bra ELSE;
        mov.u32 %r1, 1; bra JOIN;
    JOIN: mov.u32 %r1, 3; ret;
    ELSE: mov.u32 %r1, 2; bra JOIN;
        """
    )
    assert marks(program) == [1, 2, 3]


def test_a_loop_with_two_ways_back_has_one_that_runs_last():
    """So threads that take the first one do not begin the next round before the others."""
    program = build(
        """
    LOOP: mov.u32 %r1, 1;
        @%p1 bra LOOP;
        mov.u32 %r1, 2;
        @%p2 bra LOOP;
        mov.u32 %r1, 3; ret;
        """
    )
    assert marks(program) == [1, 2, 3]
    assert [block.successors for block in program.blocks] == [(2, 1), (2, 3), (0,), (cfg.EXIT,)]
    assert not program.blocks[2].instructions
    assert program.blocks[2].end is None


def test_inner_loops_stay_inside_the_outer_one():
    program = build(
        """
    OUTER: mov.u32 %r1, 1;
    INNER: mov.u32 %r1, 2;
        @%p1 bra INNER;
        mov.u32 %r1, 3;
        @%p2 bra OUTER;
        mov.u32 %r1, 4;
        ret;
        """
    )
    assert marks(program) == [1, 2, 3, 4]


def test_the_blocks_of_a_loop_run_in_their_order_not_that_of_the_text():
    program = build(
        """
    HEAD: mov.u32 %r1, 1; bra SECOND;
    THIRD: mov.u32 %r1, 3; @%p1 bra HEAD;
        mov.u32 %r1, 4; ret;
    SECOND: mov.u32 %r1, 2; bra THIRD;
        """
    )
    assert marks(program) == [1, 2, 3, 4]


def test_a_branch_to_a_lone_return_ends_the_thread():
    program = build("@%p1 bra END;\nmov.u32 %r1, 1;\nEND: ret;")
    assert program.blocks[0].successors[0] == cfg.EXIT


def test_a_guarded_barrier_becomes_a_branch_around_one():
    program = build("@%p1 bar.sync 0;\nmov.u32 %r1, 1; ret;")
    barrier = next(block for block in program.blocks if block.end is not None and block.end.opcode == "bar")
    assert barrier.end.guard is None
    assert program.blocks[0].end.opcode == "bra"


FUNCTION = """.func (.param .b32 out) f(.param .b32 x) {
    .reg .b32 %r<9>;
    ld.param.b32 %r1, [x]; add.s32 %r1, %r1, 1; st.param.b32 [out], %r1; ret; }
"""


def test_a_call_is_inlined_with_names_of_its_own():
    call = "{ .param .b32 a; st.param.b32 [a], %r1; .param .b32 o; call.uni (o), f, (a); ld.param.b32 %r2, [o]; }\n"
    program = build(call * 2 + "ret;", FUNCTION)
    assert {"%r1", "%r1@1", "%r1@2"} <= set(program.registers)
    assert not any(instruction.opcode == "call" for block in program.blocks for instruction in block.instructions)


RECURSIVE = """.func (.param .b32 out) f(.param .b32 x) {
    .reg .b32 %r<9>; .reg .pred %p<2>;
    ld.param.b32 %r1, [x]; mov.u32 %r1, 7;
    setp.eq.u32 %p1, %r1, 0;
    @%p1 ret;
    { .param .b32 a; st.param.b32 [a], %r1; .param .b32 o; call.uni (o), f, (a); ld.param.b32 %r2, [o]; }
    add.u32 %r2, %r2, %r1;
    st.param.b32 [out], %r2;
    ret; }
"""
CALL = "{ .param .b32 a; st.param.b32 [a], %r1; .param .b32 o; call.uni (o), f, (a); ld.param.b32 %r2, [o]; }\n"


def test_a_function_that_calls_itself_stands_once_and_before_the_kernel():
    program = build("mov.u32 %r1, 1;\n" + 2 * CALL + "add.u32 %r2, %r2, %r1; ret;", RECURSIVE)
    assert marks(program) == [7, 1]
    assert list(program.sections) == ["f"]
    assert program.sections["f"].entry == 0
    assert 0 < program.entry < len(program.blocks)
    calls = [block.end for block in program.blocks if isinstance(block.end, Call)]
    assert [(call.function, call.section) for call in calls] == [("f", "f"), ("f", ""), ("f", "")]


def test_a_call_saves_the_registers_that_its_caller_needs_afterwards_and_no_others():
    program = build("mov.u32 %r1, 1;\n" + 2 * CALL + "add.u32 %r2, %r2, %r1; ret;", RECURSIVE)
    saved = registers.saved(program)
    own, first, second = (saved[index] for index in sorted(saved))
    assert [name.split("@")[0] for name in own] == ["%r1"]
    assert first == second == ["%r1"]


def test_functions_that_call_each_other_are_both_sections():
    functions = (
        ".func g(); .func f() { call.uni g; ret; } .func g() { call.uni f; ret; } .func h() { call.uni f; ret; }"
    )
    program = build("call.uni h; ret;", functions)
    assert sorted(program.sections) == ["f", "g"]


POINTED = """.func (.param .b32 out) one(.param .b32 x) { st.param.b32 [out], 1; ret; }
.func (.param .b32 out) two(.param .b32 x) { st.param.b32 [out], 2; ret; }
.func (.param .b32 out) unused(.param .b32 x) { st.param.b32 [out], 3; ret; }
.func (.param .b64 out) wider(.param .b32 x) { st.param.b64 [out], 4; ret; }
.global .u64 table[2] = {one, wider};
"""
POINTER = """.reg .b64 %rd<3>; mov.u64 %rd1, two;
{{ .param .b32 a; .param .b32 o; {} call (o), %rd1, (a), list; }}
ret;"""


def test_a_call_through_a_pointer_may_reach_functions_with_an_address_that_fit():
    program = build(POINTER.format("list: .callprototype (.param .b32 _) _ (.param .b32 _);"), POINTED)
    assert sorted(program.sections) == ["one", "two"]


def test_a_call_through_a_pointer_with_a_list_of_targets_may_reach_these():
    program = build(POINTER.format("list: .calltargets two, unused;"), POINTED)
    assert sorted(program.sections) == ["two", "unused"]


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("_ ()", ((), ())),
        ("()_ (.param .b64 _)", ((8,), ())),
        ("(.param .b32 _) _ (.param .align 8 .b8 _[24], .param .b16 _)", ((24, 2), (4,))),
    ],
)
def test_prototypes_say_what_is_passed(text, signature):
    module = ptx.parse(f"{HEADER}.func f() {{ p : .callprototype {text}; ret; }}")
    assert module.functions["f"].prototypes == {"p": signature}


def test_calls_of_functions_without_a_body_raise():
    with pytest.raises(UnsupportedInstruction, match=r"a call of f \(it has no body in this module\)"):
        build("call.uni f; ret;", ".extern .func f;")


def test_a_call_that_is_not_inlined_takes_no_arguments_in_registers():
    function = ".func f(.reg .b32 x) { call.uni f, (x); ret; }"
    with pytest.raises(UnsupportedInstruction, match="registers as arguments"):
        build("call.uni f, (%r1); ret;", function)


def test_calls_through_a_pointer_raise():
    with pytest.raises(UnsupportedInstruction, match="indirect"):
        build(".reg .b64 %rd<3>; call %rd1, (), proto; ret;")


def test_a_branch_to_a_label_that_is_not_there_is_named():
    with pytest.raises(PTXSyntaxError, match="bra NOWHERE leads to a label that is not there"):
        build("bra NOWHERE;")


def slots(body: str) -> dict[str, registers.Slot]:
    return registers.allocate(build(body))


def test_registers_that_are_live_together_never_share():
    shared = slots("mov.u32 %r1, 1; mov.u32 %r2, 2; add.u32 %r3, %r1, %r2; add.u32 %r4, %r3, %r2; ret;")
    assert len({shared["%r1"], shared["%r2"]}) == 2
    assert shared["%r3"] != shared["%r2"]


def test_registers_that_are_never_live_together_share():
    body = "".join(f"mov.u32 %r{n}, {n}; add.u32 %r{n + 1}, %r{n}, 1;\n" for n in range(1, 90, 2))
    assert len(set(slots(body + "ret;").values())) <= 2


def test_what_a_loop_keeps_is_kept_through_the_loop():
    shared = slots(
        """
        mov.u32 %r1, 7;
    HEAD: mov.u32 %r2, 1; add.u32 %r3, %r2, 1;
        setp.eq.u32 %p1, %r3, 5;
        @%p1 bra HEAD;
        add.u32 %r4, %r1, 1;
        ret;
        """
    )
    assert shared["%r1"] not in (shared["%r2"], shared["%r3"])


LOOP = """
        mov.u32 %r1, 7;
    HEAD: {first}
        add.u32 %r4, %r1, 1;
        mov.u32 %r2, 1; add.u32 %r3, %r2, 1;
        setp.eq.u32 %p2, %r3, 5;
        @%p2 bra HEAD;
        ret;
"""


@pytest.mark.parametrize("first", ["", "@%p1 mov.u32 %r1, 9;"])
def test_what_the_next_time_round_reads_is_kept(first):
    shared = slots(LOOP.format(first=first))
    assert shared["%r1"] not in (shared["%r2"], shared["%r3"], shared["%r4"])


def test_a_guarded_write_keeps_the_old_value_alive():
    shared = slots(
        """
        mov.u32 %r1, 7; mov.u32 %r2, 8; add.u32 %r3, %r2, %r2;
        @%p1 mov.u32 %r1, 9;
        add.u32 %r4, %r1, %r3; ret;
        """
    )
    assert shared["%r1"] not in (shared["%r2"], shared["%r3"])


def test_two_results_never_overlap_the_sources():
    shared = slots("mov.u32 %r1, 1; ld.global.v2.u32 {%r2, %r3}, [%r1]; add.u32 %r4, %r2, %r3; ret;")
    assert shared["%r1"] not in (shared["%r2"], shared["%r3"])


@pytest.mark.parametrize(
    ("atomics", "depends"),
    [
        ("red.global.add.u32 [%r1], 1;", False),
        ("atom.global.add.u32 %r2, [%r1], 1;", False),
        ("atom.shared.add.f32 %r2, [%r1], %r3;", False),
        ("atom.max.s32 %r2, [%r1], 1;", False),
        ("red.global.add.f32 [%r1], %r2;", True),
        ("red.global.add.noftz.bf16x2 [%r1], %r2;", True),
        ("atom.global.exch.b32 %r2, [%r1], 1;", True),
        ("atom.global.inc.u32 %r2, [%r1], 1;", True),
        ("atom.global.add.u32 %r2, [%r1], 1; st.global.u32 [%r1], %r2;", True),
    ],
)
def test_whether_the_order_of_atomics_shows(atomics, depends):
    assert registers.depends_on_atomic_order(build(atomics + " ret;")) == depends


def test_labels_are_unique_in_an_inlined_copy():
    function = ".func f() { .reg .pred %p<2>; L: @%p1 bra L; ret; }"
    program = build("call.uni f; call.uni f; ret;", function)
    targets = [
        block.end.operands[0].name
        for block in program.blocks
        if block.end is not None and block.end.operands and isinstance(block.end.operands[0], Label)
    ]
    assert len(targets) == len(set(targets))
