"""Several PTX modules made one: which names meet, which stay apart, and what is refused. ptxas takes what is made."""

import re

import pytest

from gpubp.emulator.program import ptx
from gpubp.emulator.program.linker import LinkError, Unit, definitions, link, undefined
from gpubp.toolchain.nvjitlink import assemble
from gpubp.toolchain.nvrtc import compile_source

HEADER = ".version 8.0\n.target sm_80\n.address_size 64\n"


def unit(text, name="first", header=HEADER):
    return Unit(header + text, name)


def two(first, second, **options):
    """Return the module made of two texts, which the emulator's parser and ptxas have taken."""
    text = link([unit(first), unit(second, "second")], **options)
    assemble(text, "sm_80")
    return ptx.parse(text)


ADD = """
.{linkage} .func (.param .b32 r) add(.param .b32 a)
{{
    .reg .b32 %r<3>;
    ld.param.b32 %r1, [a];
    add.s32 %r2, %r1, {number};
    st.param.b32 [r], %r2;
    ret;
}}
"""
CALL = """
.extern .func (.param .b32 r) add(.param .b32 a);
.visible .entry {name}(.param .u64 p)
{{
    .reg .b32 %r<3>;
    .reg .b64 %rd<2>;
    {{
    .param .b32 x;
    .param .b32 y;
    st.param.b32 [x], 1;
    call (y), add, (x);
    ld.param.b32 %r1, [y];
    }}
    ld.param.u64 %rd1, [p];
    st.global.u32 [%rd1], %r1;
    ret;
}}
"""


def added(module):
    """Return the number that the function `add` of a module adds."""
    return next(int(each.operands[2].value) for each in module.functions["add"].instructions if each.opcode == "add")


@pytest.mark.parametrize("order", [1, -1])
def test_a_function_of_another_module(order):
    module = two(*[CALL.format(name="k"), ADD.format(linkage="visible", number=5)][::order])
    assert added(module) == 5
    assert module.functions["k"].defined


@pytest.mark.parametrize(
    ("first", "second", "taken"),
    [("weak", "weak", 1), ("weak", "visible", 2), ("visible", "weak", 1)],
)
def test_weak_definitions(first, second, taken):
    module = two(
        ADD.format(linkage=first, number=1) + CALL.format(name="k").split(";", 1)[1],
        ADD.format(linkage=second, number=2),
    )
    assert added(module) == taken


def test_two_definitions():
    with pytest.raises(LinkError, match=r"^add is defined in first and in second$"):
        two(ADD.format(linkage="visible", number=1), ADD.format(linkage="visible", number=2))
    with pytest.raises(LinkError, match=r"^k is defined in first and in second$"):
        two(*[CALL.format(name="k")] * 2, supplied={"add"})


def test_a_name_that_is_defined_nowhere():
    with pytest.raises(LinkError, match=r"^second: undefined reference to add$"):
        two("", CALL.format(name="k"))
    assert undefined([unit(CALL.format(name="k"))]) == ["add"]
    assert undefined([unit(CALL.format(name="k")), unit(ADD.format(linkage="weak", number=1))]) == []
    assert definitions(unit(ADD.format(linkage="weak", number=1))) == {"add"}
    link([unit(CALL.format(name="k"))], supplied={"add"})
    link([unit(".extern .func (.param .b32 r) add(.param .b32 a);")])  # which nothing uses


def test_a_name_of_one_module_does_not_answer_for_another():
    own = ADD.format(linkage="weak", number=1).replace(".weak ", "")
    with pytest.raises(LinkError, match=r"^first: undefined reference to add$"):
        two(CALL.format(name="k"), own)


def test_names_of_one_module_are_kept_apart():
    """Functions and variables; what is named so in text and in comments stays."""
    own = ADD.format(linkage="weak", number=1).replace(".weak ", "").replace("ret;", "ret; // add\n")
    caller = CALL.format(name="k").split(";", 1)[1]
    module = two(own + caller, own.replace("1;", "2;").replace("%r1, 1", "%r1, 2") + caller.replace(" k(", " k2("))
    called = {
        name: next(each.operands[1].name for each in module.functions[name].instructions if each.opcode == "call")
        for name in ("k", "k2")
    }
    assert called == {"k": "add_unit1", "k2": "add_unit2"}
    assert module.functions["add_unit1"].defined
    assert module.functions["add_unit2"].defined


def test_variables():
    """Declared in one, defined in the other; of the same name in both; one that holds the address of a later one."""
    first = """
.extern .global .align 4 .b8 table[8];
.extern .const .f32 scale;
.global .align 8 .u64 place = generic(own);
.global .u32 own = 1;
.extern .shared .align 16 .b8 dynamic[];
.visible .entry k()
{
    .reg .b32 %r<9>;
    ld.global.u32 %r1, [table+4];
    ld.const.b32 %r2, [scale];
    ld.shared.u32 %r3, [dynamic];
    ld.global.u32 %r4, [own];
    ret;
}
"""
    second = """
.visible .global .align 4 .b8 table[8] = {1, 0, 0, 0, 2};
.visible .const .f32 scale = 0f40000000;
.global .u32 own = 2;
.extern .shared .align 16 .b8 dynamic[];
"""
    module = two(first, second)
    assert module.variables["table"].initial[:5] == (1, 0, 0, 0, 2)
    assert not module.variables["table"].external
    assert module.variables["scale"].space == "const"
    assert [module.variables[f"own_unit{number}"].initial for number in (1, 2)] == [(1,), (2,)]
    assert module.variables["dynamic"].external
    with pytest.raises(LinkError, match="undefined reference to scale, table"):
        two(first, ".global .u32 own = 2;")


def test_versions_and_targets():
    text = link(
        [unit("", header=".version 7.8\n.target sm_80, debug\n"), unit("", header=".version 8.10\n.target sm_90a\n")]
    )
    module = ptx.parse(text)
    assert (module.version, module.target) == ("8.10", "sm_90a")
    module = ptx.parse(
        link([unit("", header=".version 9.0\n.target sm_75\n"), unit("", header=".version 8.10\n.target sm_70\n")])
    )
    assert (module.version, module.target) == ("9.0", "sm_75")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (".target sm_80\n", r"second: the PTX has no \.version"),
        (".version 8.0\n", r"second: the PTX has no \.target"),
        (f"{HEADER}.alias f, g;\n", r"second: '\.alias f, g;' cannot be linked"),
    ],
)
def test_what_is_no_module(text, message):
    with pytest.raises(LinkError, match=message):
        link([unit(""), Unit(text, "second")])


def test_a_bound_of_registers():
    text = link(
        [unit(".visible .entry a() .maxntid 64 { ret; }\n.visible .entry b() .maxnreg 16 { ret; }\n")],
        most_registers=32,
    )
    assert re.findall(r"entry (\w)\(\)[^{]*?(?:\.maxnreg (\d+))", text) == [("a", "32"), ("b", "16")]
    assemble(text, "sm_80")


def test_a_single_module_stays_as_it_is():
    text = f"// a comment\n{HEADER}.visible .entry k() {{ ret; }}"
    assert link([Unit(text, "only")]) == text


def test_two_files_of_cuda():
    """Functions, templates, variables, a pointer, texts and statics of the same name; lines name each file."""
    first = """
extern __device__ int helper(int x);
extern __device__ int table[4];
static __device__ int hidden = 5;
static __device__ __noinline__ int twist(int x) { return x + hidden; }
template <typename T> __device__ __noinline__ T weak(T x) { return x * 2; }
extern "C" __global__ void k(int *out) {
  out[0] = helper(out[0]) + table[1] + twist(out[1]) + weak(3);
  printf("one\\n");
}
"""
    second = """
__device__ int table[4] = {1, 2, 3, 4};
static __device__ int hidden = 7;
static __device__ __noinline__ int twist(int x) { return x * hidden; }
template <typename T> __device__ __noinline__ T weak(T x) { return x * 2; }
__device__ int (*pointer)(int) = twist;
__device__ int helper(int x) { printf("two %d\\n", x); return twist(x) + weak(x) + pointer(1); }
"""
    made = [compile_source(text, "sm_80", name=f"{name}.cu", options=["-rdc=true"]).ptx
            for name, text in (("first", first), ("second", second))]  # fmt: skip
    text = link([Unit(made[0], "first"), Unit(made[1], "second")], supplied={"vprintf"})
    assert assemble(text, "sm_80").resources["k"].registers > 0
    module = ptx.parse(text)
    files = {
        name: {each.location.own.file for each in function.instructions if each.location}
        for name, function in module.functions.items()
    }
    assert {path.rsplit("/")[-1] for path in files["k"]} == {"first.cu"}
    assert {path.rsplit("/")[-1] for path in files["_Z6helperi"]} == {"second.cu"}
    assert module.variables["hidden_unit1"].initial == (5,)
    assert module.variables["hidden_unit2"].initial == (7,)
    strings = [variable for name, variable in module.variables.items() if name.startswith("$str")]
    assert sorted(bytes(map(int, each.initial)).rstrip(b"\0") for each in strings) == [b"one\n", b"two %d\n"]
