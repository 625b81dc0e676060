"""Undefined bits through each kind of instruction, in PTX: `s` is shared memory whose first 256 bytes are written."""

import numpy as np
import pytest

from gpubp.emulator import launch
from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.observe.observers import observe

OUT = np.zeros(512, np.uint32)
# %r2 is the thread's own word of what is written, %r3 that of what is not.
START = (
    ".shared .align 16 .b8 s[4096]; mov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1; add.u32 %r3, %r2, 512; "
    "st.shared.u32 [%r2], %r0; st.shared.u32 [%r2+128], %r0; add.u64 %rd9, %rd1, %rd0; bar.sync 0;"
)
BAD = "ld.shared.u32 %r4, [%r3];"
BRANCH = "setp.eq.u32 %p9, {}, 0; @%p9 mov.u32 %r50, 0;"
MATRIX = "and.b32 %r40, %r0, 15; mad.lo.u32 %r41, %r40, 16, %r1;"


def upload(array):
    """The address of an array in device memory, the poison in which counts as unwritten."""
    address = MEMORY.allocate(array.nbytes)
    MEMORY.view(address, array.nbytes)[:] = array.reshape(-1).view(np.uint8)
    return address


@pytest.fixture
def found(run_ptx):
    """The lines of the findings of a kernel of 32 threads; its body begins in line 2."""

    def run(body, *arrays, line=START, **options):
        with observe(uninitialised=True) as report:
            run_ptx(f"{line}\n{body}", *(arrays or (OUT,)), **options)
        assert report.findings == report.uninitialised
        return [finding.line for finding in report.findings]

    return run


def branch(register):
    return BRANCH.format(register)


# Each leaves a defined value in %r6 and an undefined one in %r5.
MOVES = [
    "mov.b64 %rd20, {%r4, %r0}; mov.b64 {%r5, %r6}, %rd20;",
    ("mov.b64 %rd20, {%r0, %r4}; shr.u64 %rd21, %rd20, 32; cvt.u32.u64 %r5, %rd21; cvt.u32.u64 %r6, %rd20;"),
    "prmt.b32 %r5, %r4, %r0, 0x0004; prmt.b32 %r6, %r4, %r0, 0x7654;",
    "bfi.b32 %r5, %r4, %r0, 8, 8; and.b32 %r6, %r5, 255;",
    "and.b32 %r5, %r4, 1; and.b32 %r6, %r4, 0;",
    "or.b32 %r5, %r4, 0; or.b32 %r6, %r4, -1;",
    "setp.lt.u32 %p1, %r0, 99; selp.b32 %r6, %r0, %r4, %p1; selp.b32 %r5, %r4, %r0, %p1;",
    "add.cc.u32 %r5, %r4, %r4; addc.u32 %r5, %r0, 0; add.cc.u32 %r7, %r0, %r0; addc.u32 %r6, %r0, 0;",
    "shfl.sync.idx.b32 %r6, %r0, 0, 31, -1; shfl.sync.idx.b32 %r5, %r4, 0, 31, -1;",
    "shfl.sync.up.b32 %r6|%p2, %r4, 1, 0, -1; selp.u32 %r6, 1, 2, %p2; mov.u32 %r5, %r4;",
    (
        "cvta.shared.u64 %rd20, %rd0; cvt.u32.u64 %r6, %rd20; cvt.u64.u32 %rd21, %r4; "
        "cvta.shared.u64 %rd21, %rd21; cvt.u32.u64 %r5, %rd21;"
    ),
    "redux.sync.add.s32 %r5, %r4, -1; redux.sync.add.s32 %r6, %r0, -1;",
    "match.any.sync.b32 %r5, %r4, -1; match.any.sync.b32 %r6, %r0, -1;",
    "st.local.u32 [l], %r4; st.local.u32 [l+4], %r0; ld.local.v2.u32 {%r5, %r6}, [l];",
    ("st.shared.v2.u32 [%r1+2048], {%r4, %r0}; ld.shared.u32 %r5, [%r1+2048]; ld.shared.u32 %r6, [%r1+2052];"),
    "st.shared.u32 [%r3], 7; ld.shared.u32 %r6, [%r3]; mov.u32 %r5, %r4;",
    "atom.shared.exch.b32 %r5, [%r3], %r0; ld.shared.u32 %r6, [%r3];",
    "atom.shared.exch.b32 %r6, [%r2], %r4; ld.shared.u32 %r5, [%r2];",
    "ld.shared.u16 %h1, [%r3]; mov.b32 %r5, {%h1, %h2}; mov.u16 %h2, 5; mov.b32 %r6, {%h2, %h2};",
    "lop3.b32 %r5, %r4, %r0, %r0, 0x96; lop3.b32 %r6, %r4, %r0, %r0, 0xAA;",
    (
        "fma.rn.f16x2 %r7, %r4, %r0, %r0; and.b32 %r8, %r4, 0xffff; fma.rn.f16x2 %r8, %r8, %r0, %r0; "
        "shr.u32 %r6, %r8, 16; shr.u32 %r5, %r7, 16;"
    ),
]


@pytest.mark.parametrize("move", MOVES)
def test_moves(found, move):
    local = ".local .align 16 .b8 l[16];" if "[l]" in move else ""
    body = f"{local}{BAD}\n{move}\n"
    assert found(body + branch("%r6")) == []
    assert found(body + branch("%r5")) == [4]


@pytest.mark.parametrize(
    ("use", "reported"),
    [
        ("cvt.u64.u32 %rd20, %r4; add.u64 %rd20, %rd20, %rd9; and.b64 %rd20, %rd20, 0; add.u64 %rd20, %rd20, %rd9;"
         "ld.global.u32 %r5, [%rd20];", False),
        ("and.b32 %r5, %r4, 28; add.u32 %r5, %r5, %r1; ld.shared.u32 %r6, [%r5];", True),
        ("and.b32 %r5, %r4, 28; add.u32 %r5, %r5, %r1; st.shared.u32 [%r5], 1;", True),
        ("setp.lt.u32 %p1, %r4, 7; @%p1 bra NEXT; mov.u32 %r5, 0; NEXT: mov.u32 %r6, 0;", True),
        ("setp.lt.u32 %p1, %r4, 7; setp.lt.u32 %p2, %r0, 0; and.pred %p1, %p1, %p2; @%p1 bra NEXT; mov.u32 %r5, 0;"
         "NEXT: mov.u32 %r6, 0;", False),
        ("and.b32 %r5, %r4, 1; brx.idx %r5, TABLE; NEXT: mov.u32 %r6, 0;", True),
        ("setp.lt.u32 %p1, %r4, 7; bar.red.popc.u32 %r5, 0, %p1;", True),
        ("and.b32 %r5, %r4, 1; shfl.sync.idx.b32 %r6, %r0, %r5, 31, -1;", True),
        ("red.shared.add.u32 [%r2], %r4;", True),
        ("red.shared.add.u32 [%r3], 1;", True),
        ("atom.shared.cas.b32 %r5, [%r3], 1, 2;", True),
        ("red.shared.add.u32 [%r2], 1;", False),
        ("setp.lt.u32 %p1, %r4, 7; vote.sync.any.pred %p2, %p1, -1; @%p2 mov.u32 %r5, 0;", True),
        ("setp.lt.u32 %p1, %r4, 7; setp.lt.u32 %p3, %r0, 7; or.pred %p1, %p1, %p3; vote.sync.any.pred %p2, %p1, -1;"
         "@%p2 mov.u32 %r5, 0;", False),
        ("st.global.u32 [%rd9], %r4;", True),
        ("add.u32 %r5, %r4, 1; st.global.u32 [%rd9], %r5;", True),
        ("add.u32 %r5, %r4, 1; st.shared.u32 [%r2], %r5;", False),
        ("st.global.v2.u32 [%rd1], {%r0, %r4};", False),
        ("st.global.v2.u32 [%rd1], {%r4, %r4};", True),
        ("add.u32 %r5, %r4, 1; st.global.v4.u32 [%rd1], {%r0, %r4, %r5, %r0};", True),
        ("st.global.u32 [%rd1], %r0; st.global.u32 [%rd1+4], %r4;", False),
        ("st.global.u32 [%rd1], %r4; st.global.u32 [%rd1+4], %r0;", False),
        ("st.global.u32 [%rd1], %r4; st.global.u32 [%rd1+4], %r4;", True),
        ("st.global.u32 [%rd1], %r0; st.global.u8 [%rd1+8], %r0; st.global.u32 [%rd1+16], %r4;", False),
        ("st.global.u32 [%rd1], %r0; st.global.u32 [%rd1+128], %r4;", True),
        ("st.global.u32 [%rd1], %r4; st.global.u32 [%rd9+128], %r0;", True),
    ],
)  # fmt: skip
def test_uses(found, use, reported):
    before = "TABLE: .branchtargets NEXT, NEXT;" if "TABLE" in use else ""
    assert found(f"{BAD}\n{before}{use}") == ([3] if reported else [])


@pytest.mark.parametrize("register", ["%r44", "%r45"])
def test_a_register_that_nothing_has_written(found, register):
    body = "setp.lt.u32 %p1, %r0, 16; @%p1 mov.u32 %r45, 5;\n"
    body += "add.u32 %r5, %r45, 1; mov.u32 %r6, %r44;\n@%p1 mov.u32 %r44, 1;"
    assert found(f"{body}\n@%p1 st.global.u32 [%rd9], %r5;") == []
    assert found(f"{body}\n{branch(register)}") == [5]


def test_only_the_lane_that_is_asked(found):
    """Each thread's own bits: thread 5 alone has none, and it alone stores."""
    body = "setp.ne.u32 %p1, %r0, 5; @%p1 st.shared.u32 [%r3], %r0;\nld.shared.u32 %r5, [%r3]; add.u32 %r5, %r5, 1;\n"
    assert found(f"{body}@%p1 st.global.u32 [%rd9], %r5;") == []
    assert found(f"{body}@!%p1 st.global.u32 [%rd9], %r5;") == [3]


# -- matrices ---------------------------------------------------------------------------------------------------------

ROWS = f"{MATRIX}\nldmatrix.sync.aligned.m8n8.x1{{}}.shared.b16 {{{{%r5}}}}, [%r41+{{}}];"


@pytest.mark.parametrize(("offset", "reported"), [(0, False), (128, False), (144, True)])
@pytest.mark.parametrize("transposed", ["", ".trans"])
def test_ldmatrix(found, offset, reported, transposed):
    """Rows of 16 bytes; of those behind the first 256 bytes, the last one is not written."""
    body = ROWS.format(transposed, offset)
    assert found(f"{body}\n{branch('%r5')}") == ([4] if reported else [])


@pytest.mark.parametrize(("transposed", "lanes"), [("", 28), (".trans", 32)])
def test_ldmatrix_gives_each_lane_its_part(found, transposed, lanes):
    """The last of 8 rows is not written: the last 4 lanes hold it, or, transposed, every fourth one."""
    body = f"{ROWS.format(transposed, 144)}\nsetp.lt.u32 %p1, %r0, 28; and.b32 %r6, %r0, 3; setp.ne.u32 %p2, %r6, 3;\n"
    chosen = "%p2" if transposed else "%p1"
    use = "add.u32 %r7, %r5, 1;\n@{} st.global.u32 [%rd9], %r7;"
    assert found(body + use.format(chosen)) == []
    assert found(body + use.format(f"!{chosen}")) == [5]


@pytest.mark.parametrize(("read", "reported"), [(0, False), (28, True)])
def test_stmatrix(found, read, reported):
    """Lanes 28 to 31 hold the last row."""
    body = f"setp.lt.u32 %p1, %r0, 28; ld.shared.u32 %r4, [%r3]; @%p1 mov.u32 %r4, 5;\n{MATRIX}\n"
    body += "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r41+1024], {%r4};\n"
    body += f"ld.shared.u32 %r5, [%r1+{1024 + 4 * read}]; {branch('%r5')}"
    assert found(body) == ([5] if reported else [])


@pytest.mark.parametrize(
    ("operands", "reported"),
    [
        ("{%r0, %r0}, {%r0}", []),
        ("{%r0, %r5}, {%r0}", [5]),  # the lower rows of A
        ("{%r5, %r0}, {%r0}", []),  # the upper ones, which go to other results
        ("{%r0, %r0}, {%r5}", [5]),
    ],
)
def test_products_of_matrices(found, operands, reported):
    """mma.m16n8k8: a lane's first two results belong to the upper rows, the others to the lower ones."""
    body = f"{BAD} mov.u32 %r5, %r4;\nmov.f32 %f1, 0f00000000;\n"
    body += "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f2, %f3, %f4, %f5}, "
    body += f"{operands}, {{%f1, %f1, %f1, %f1}};\nmov.b32 %r6, %f4; {branch('%r6')}"
    assert found(body) == reported


def test_a_row_of_a_product(found):
    """One undefined element of A: one row of the result."""
    body = f"setp.ne.u32 %p1, %r0, 9; {BAD} @%p1 mov.u32 %r4, 0;\nmov.f32 %f1, 0f00000000; shr.u32 %r7, %r0, 2;\n"
    body += "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f2, %f3, %f4, %f5}, {%r4, %r0}, {%r0}, "
    body += "{%f1, %f1, %f1, %f1};\nsetp.ne.u32 %p2, %r7, 2;\n"
    assert found(f"{body}@%p2 st.global.f32 [%rd9], %f2;") == []
    assert found(f"{body}@!%p2 st.global.f32 [%rd9], %f2;") == [4]


@pytest.mark.parametrize(("element", "reported"), [("%r0", []), ("%r4", [5])])
@pytest.mark.parametrize(
    "product",
    [
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {{%r10, %r11, %r12, %r13}}, {{%r0, {0}, %r0, %r0}}, "
        "{{%r0, %r0}}, {{%r0, %r0, %r0, %r0}};",
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {{%f2, %f3, %f4, %f5}}, {{%r0, {0}, %r0, %r0}}, "
        "{{%r0, %r0}}, {{%f1, %f1, %f1, %f1}}; mov.b32 %r12, %f4;",
        "mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {{%fd2, %fd3}}, {{%fd4}}, {{%fd5}}, {{%fd5, %fd5}}; "
        "mov.b64 {{%r12, %r13}}, %fd2;",
        "movmatrix.sync.aligned.m8n8.trans.b16 %r12, {0};",
    ],
)
def test_products_of_other_types(found, product, element, reported):
    body = f"{BAD} mov.u32 %r4, %r4;\nmov.f32 %f1, 0f00000000; mov.f64 %fd5, 0d0000000000000000; "
    body += f"cvt.u64.u32 %rd20, {element}; mov.b64 %fd4, %rd20;\n{product.format(element)}\n{branch('%r12')}"
    assert found(body) == reported


# -- asynchronous copies ----------------------------------------------------------------------------------------------

COPY = (
    "mul.wide.u32 %rd5, %r0, 16; add.u64 %rd6, %rd1, %rd5; mad.lo.u32 %r10, %r0, 16, %r1; "
    "cp.async.ca.shared.global [%r10], [%rd6], 16{}; cp.async.wait_all; bar.sync 0;\n"
)


@pytest.mark.parametrize(("size", "word", "reported"), [("", 0, []), ("", 12, [3]), (", 8", 12, []), (", 8", 4, [])])
def test_a_copy_of_what_is_not_written(ptx_text, size, word, reported):
    """The last word of each 16 bytes is not written, and a copy of 8 bytes fills it with zeros."""
    array = np.ones((32, 4), np.uint32)
    array[:, 3] = 0xFFF5FFF5
    address = upload(array)
    body = f"{START}\n{COPY.format(size)}ld.shared.u32 %r5, [%r10+{word}]; {branch('%r5')}"
    kernel = launch.load(ptx_text(body, 1)).kernel("test")
    with observe(uninitialised=True) as report:
        launch.launch(kernel, (1, 1, 1), (32, 1, 1), [address.to_bytes(8, "little")])
    MEMORY.free(address)
    assert [finding.line for finding in report.findings] == reported
