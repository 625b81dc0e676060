"""Random programs, run with other contents of unwritten memory: what changes in their results is marked undefined."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpubp.emulator import launch
from gpubp.emulator.device import state
from gpubp.emulator.observe import observers, shadow

# d, a, b, c are words; q a predicate; n a small number. %rd30 and %h are scratch.
INSTRUCTIONS = [
    "mov.b32 {d}, {a};",
    "and.b32 {d}, {a}, {b};",
    "or.b32 {d}, {a}, {b};",
    "xor.b32 {d}, {a}, {b};",
    "not.b32 {d}, {a};",
    "shl.b32 {d}, {a}, {n};",
    "shr.s32 {d}, {a}, {n};",
    "shr.u32 {d}, {a}, {b};",
    "prmt.b32 {d}, {a}, {b}, 0x1{n}94;",
    "bfi.b32 {d}, {a}, {b}, {n}, 7;",
    "bfe.s32 {d}, {a}, {n}, 9;",
    "lop3.b32 {d}, {a}, {b}, {c}, 0xe8;",
    "add.u32 {d}, {a}, {b};",
    "sub.u32 {d}, {a}, {b};",
    "mul.lo.u32 {d}, {a}, {b};",
    "mad.lo.u32 {d}, {a}, {b}, {c};",
    "add.cc.u32 {d}, {a}, {b}; addc.u32 {d}, {c}, {c};",
    "mul.wide.u32 %rd30, {a}, {b}; shr.u64 %rd30, %rd30, {n}; cvt.u32.u64 {d}, %rd30;",
    "min.s32 {d}, {a}, {b};",
    "popc.b32 {d}, {a};",
    "cvt.s32.s8 {d}, {a};",
    "cvt.rn.f32.s32 %f1, {a}; add.rn.f32 %f1, %f1, 0f3F800000; mov.b32 {d}, %f1;",
    "add.rn.f16x2 {d}, {a}, {b};",
    "mov.b32 {{%h1, %h2}}, {a}; mov.b32 {d}, {{%h2, %h1}};",
    "mov.b64 %rd30, {{{a}, {b}}}; mov.b64 {{{d}, {e}}}, %rd30;",
    "setp.lt.s32 {q}, {a}, {b};",
    "setp.eq.u32 {q}, {a}, {b};",
    "setp.ne.and.u32 {q}, {a}, {b}, {p};",
    "and.pred {q}, {q}, !{p};",
    "or.pred {q}, {q}, {p};",
    "selp.b32 {d}, {a}, {b}, {q};",
    "selp.b32 {d}, 1, 0, {p};",
    "slct.b32.s32 {d}, {a}, {b}, {c};",
    "shfl.sync.bfly.b32 {d}, {a}, {n}, 31, -1;",
    "shfl.sync.up.b32 {d}|{q}, {a}, {n}, 0, -1;",
    "vote.sync.ballot.b32 {d}, {q}, -1;",
    "vote.sync.any.pred {q}, {p}, -1;",
    "vote.sync.all.pred {q}, !{p}, -1;",
    "vote.sync.uni.pred {q}, {p}, -1;",
    "redux.sync.xor.b32 {d}, {a}, -1;",
    "match.any.sync.b32 {d}, {a}, -1;",
    "st.shared.u32 [%r3+1024], {a}; ld.shared.u8 {d}, [%r3+1025];",
    "st.shared.v2.u32 [%r4+2048], {{{a}, {b}}}; ld.shared.v2.u32 {{{d}, {e}}}, [%r4+2048];",
    "atom.shared.exch.b32 {d}, [%r3+1024], {a};",
    "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {{%f2, %f3, %f4, %f5}}, {{{a}, {b}}}, {{{c}}}, "
    "{{%f1, %f1, %f1, %f1}}; mov.b32 {d}, %f3;",
    "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {{{d}}}, [%r5];",
    "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r5], {{{a}}};",
    "@%p1 mov.b32 {d}, {a};",
]
START = """
.shared .align 16 .b8 s[8192]; .local .align 16 .b8 kept[48]; mov.u32 %r1, s; mov.f32 %f1, 0f00000000;
mad.lo.u32 %r3, %r0, 4, %r1; mad.lo.u32 %r4, %r0, 8, %r1; and.b32 %r5, %r0, 7; mad.lo.u32 %r5, %r5, 16, %r1;
setp.lt.u32 %p1, %r0, 20; setp.lt.u32 %p2, %r0, 7; setp.gt.u32 %p3, %r0, 3;
setp.gt.u32 %p4, %r0, 8; @%p4 st.shared.u32 [%r3], %r0; st.shared.u8 [%r3+512], %r0; bar.sync 0;
ld.shared.u32 %r10, [%r3]; ld.shared.u32 %r11, [%r3+512]; ld.shared.u8 %r12, [%r3+515]; mov.u32 %r13, %r0;
mul.lo.u32 %r14, %r0, 1234567; mov.u32 %r15, -1;
"""
WORDS = [f"%r{10 + index}" for index in range(6)]
END = "\n".join(f"st.local.u32 [kept+{4 * index}], {word};" for index, word in enumerate(WORDS))
END += "".join(f"\nselp.u32 %r20, 1, 0, %p{p}; st.local.u32 [kept+{16 + 4 * p}], %r20;" for p in (2, 3))


@st.composite
def instructions(draw):
    word, predicate = st.sampled_from(WORDS), st.sampled_from(["%p2", "%p3"])
    d, e = draw(st.permutations(WORDS))[:2]
    a, b, c = (draw(word) for _ in range(3))
    text = draw(st.sampled_from(INSTRUCTIONS))
    q, p, n = draw(predicate), draw(predicate), draw(st.integers(1, 7))
    return text.format(d=d, e=e, a=a, b=b, c=c, q=q, p=p, n=n)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.lists(instructions(), min_size=1, max_size=12))
def test_what_depends_on_unwritten_memory_is_marked(ptx_text, monkeypatch, body):
    kernel = launch.load(ptx_text("\n".join([START.strip(), *body, END]), 0)).kernel("test")
    results, masks = [], []
    for content in (0x0000, 0xFFFF, 0x5A01):
        monkeypatch.setattr(state, "POISON", content)
        with observers.observe(uninitialised=True):
            launch.launch(kernel, (1, 1, 1), (32, 1, 1), [])
            observer = observers.current()
            (wave,) = observer.waves.values()
            results.append(wave.machine.local[:, :32].copy())
            states, _, _ = observer.tracker(wave.machine).memory("local")
            masks.append(~states.reshape(wave.machine.local.shape)[:, :32])
    for other in results[1:]:
        assert not (results[0] ^ other)[(masks[0] | masks[1] | masks[2]) == 0].any()
        assert not ((results[0] ^ other) & ~masks[0] & ~masks[1]).any()


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_defined_values_stay_defined(ptx_text, text):
    body = text.format(d="%r13", e="%r15", a="%r13", b="%r14", c="%r15", q="%p2", p="%p3", n=3)
    start = START.replace("@%p4 st", "st") + "st.shared.v2.u32 [%r4], {%r0, %r0}; st.shared.u32 [%r3+1024], 1;"
    kernel = launch.load(ptx_text("\n".join([start.strip(), body, END]), 0)).kernel("test")
    with observers.observe(uninitialised=True) as report:
        launch.launch(kernel, (1, 1, 1), (32, 1, 1), [])
        observer = observers.current()
        (wave,) = observer.waves.values()
        states, _, _ = observer.tracker(wave.machine).memory("local")
        kept = states.reshape(wave.machine.local.shape)
        assert (kept[:, 12:32] == shadow.DEFINED).all()
    assert report.findings == []
