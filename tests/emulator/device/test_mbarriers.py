"""mbarriers: each instruction against a model in plain Python, the rules that are checked, waits, copies, and races."""

import contextlib
import random
import re

import numpy as np
import pytest

from gpubp.emulator import observe
from gpubp.emulator.errors import BarrierError, HangError, MemoryAccessError, UnsupportedInstruction

MOST = (1 << 20) - 1
SHARED = ".shared .align 16 .b8 bars[64];\n.shared .align 16 .b8 data[1024];"
OUT = np.zeros(64, np.uint32)

# Every test's %r10 is the first mbarrier, %r11 the second, %r12 the thread's word of `data`.
START = """mov.u32 %r10, bars; add.u32 %r11, %r10, 8;
mov.u32 %r12, data; shl.b32 %r13, %r0, 2; add.u32 %r12, %r12, %r13;
setp.eq.u32 %p1, %r0, 0;
"""


def run(run_ptx, body: str, *arrays: np.ndarray, **how) -> list[np.ndarray]:
    return run_ptx(START + body, *arrays, module=SHARED, **how)


# -- a model ----------------------------------------------------------------------------------------------------------


class Model:
    """One mbarrier, as the PTX ISA tells it."""

    def __init__(self, expected: int) -> None:
        self.expected = self.pending = expected
        self.phase = self.nbytes = 0

    def arrive(self, count: int, drop: bool = False) -> tuple[int, int]:
        before = self.phase, self.pending
        self.pending -= count
        self.expected -= count * drop
        self._complete()
        return before

    def transact(self, nbytes: int) -> None:
        self.nbytes += nbytes
        self._complete()

    def _complete(self) -> None:
        if self.pending == 0 and self.nbytes == 0:
            self.phase += 1
            self.pending = self.expected


def random_program(seed: int) -> tuple[str, list[int]]:
    """A random program of one thread, which stores what it learns, and what that should be."""
    pick = random.Random(seed)
    expected = pick.choice([1, 2, 3, 7, MOST])
    model, results, lines = Model(expected), [], [f"mbarrier.init.shared.b64 [%r10], {expected};"]
    token = None  # (phase, pending)

    def store(value: int) -> None:
        lines.append(f"st.global.u32 [%rd1+{4 * len(results)}], %r20;")
        results.append(value)

    for _ in range(60):
        kind = pick.randrange(8)
        space = pick.choice([".shared", ".shared::cta"])
        if model.expected == 0 or len(results) > 50:
            break
        if kind <= 1 and model.pending:
            count = pick.randint(1, min(model.pending, 4))
            order = pick.choice(["", ".release.cta"])
            token = model.arrive(count)
            lines.append(f"mbarrier.arrive{order}{space}.b64 %rd10, [%r10], {count};")
        elif kind == 2 and model.pending > 1:
            count = pick.randint(1, min(model.pending - 1, 4))
            token = model.arrive(count)
            lines.append(f"mbarrier.arrive.noComplete{space}.b64 %rd10, [%r10], {count};")
        elif kind == 3 and model.pending and pick.random() < 0.3:
            token = model.arrive(1, drop=True)
            lines.append(f"mbarrier.arrive_drop{space}.b64 %rd10, [%r10];")
        elif kind == 4:
            nbytes = pick.choice([16, -16])
            name = "expect_tx" if nbytes > 0 else "complete_tx"
            model.transact(nbytes)
            lines.append(f"mbarrier.{name}.relaxed.cta{space}.b64 [%r10], 16;")
        elif kind == 5 and model.pending:
            model.nbytes += 32
            token = model.arrive(1)
            lines.append(f"mbarrier.arrive.expect_tx.release.cta{space}.b64 %rd10, [%r10], 32;")
            model.transact(-32)
            lines.append(f"mbarrier.complete_tx.relaxed.cta{space}.b64 [%r10], 32;")
        elif kind == 6:
            parity = pick.randrange(2)
            wait = pick.choice(["test_wait.parity", "try_wait.parity"])
            lines.append(f"mbarrier.{wait}{space}.b64 %p2, [%r10], {parity}; selp.u32 %r20, 1, 0, %p2;")
            store(int(model.phase & 1 != parity))
        elif kind == 7 and token is not None and token[0] >= model.phase - 1:
            wait = pick.choice(["test_wait", "try_wait"])
            lines.append(f"mbarrier.{wait}{space}.b64 %p2, [%r10], %rd10; selp.u32 %r20, 1, 0, %p2;")
            store(int(model.phase > token[0]))
            lines.append("mbarrier.pending_count.b64 %r20, %rd10;")
            store(token[1])
    lines.append("mbarrier.inval.shared.b64 [%r10];")
    return "\n".join(lines), results


@pytest.mark.parametrize("seed", range(12))
def test_each_instruction_does_what_the_model_does(run_ptx, seed):
    for number in range(5 * seed, 5 * seed + 5):
        body, expected = random_program(number)
        (out,) = run(run_ptx, body, OUT, block=1)
        assert out[: len(expected)].tolist() == expected, body


def test_threads_arrive_one_after_the_other_and_phases_go_on(run_ptx):
    """80 threads on a count of 32: two phases are over, and 16 have arrived in the third."""
    body = """@%p1 mbarrier.init.shared.b64 [%r10], 32;
bar.sync 0;
mbarrier.arrive.shared.b64 %rd10, [%r10];
mbarrier.pending_count.b64 %r20, %rd10;
add.u64 %rd2, %rd1, %rd0;
st.global.u32 [%rd2], %r20;
"""
    (out,) = run(run_ptx, body, np.zeros(80, np.uint32), block=80)
    assert out.tolist() == [*range(32, 0, -1), *range(32, 0, -1), *range(32, 16, -1)]


def test_generic_addresses_and_the_sink(run_ptx):
    body = """cvta.shared.u64 %rd11, 0; mov.u32 %r14, bars; cvt.u64.u32 %rd12, %r14; cvta.shared.u64 %rd11, %rd12;
mbarrier.init.b64 [%rd11], 2;
mbarrier.arrive.b64 _, [%rd11];
mbarrier.arrive.b64 _, [%rd11], 1;
mbarrier.test_wait.parity.b64 %p2, [%rd11], 0; selp.u32 %r20, 1, 0, %p2;
st.global.u32 [%rd1], %r20;
"""
    assert run(run_ptx, body, OUT, block=1)[0][0] == 1


# -- rules ------------------------------------------------------------------------------------------------------------

INIT = "@%p1 mbarrier.init.shared.b64 [%r10], 4;\nbar.sync 0;\n"
RULES = {
    "use before init": ("mbarrier.arrive.shared.b64 _, [%r10];", "no mbarrier.init has made an mbarrier there"),
    "a wait before init": (
        "mbarrier.test_wait.parity.shared.b64 %p2, [%r11], 0;", "no mbarrier.init has made an mbarrier there"
    ),
    "use of another than was made": (f"{INIT}mbarrier.arrive.shared.b64 _, [%r11];", "no mbarrier.init"),
    "use after inval": (
        f"{INIT}@%p1 mbarrier.inval.shared.b64 [%r10];\nbar.sync 0;\nmbarrier.arrive.shared.b64 _, [%r10];",
        "no mbarrier.init",
    ),
    "inval of none": ("@%p1 mbarrier.inval.shared.b64 [%r10];", "no mbarrier.init"),
    "init of one in use": (
        f"{INIT}mbarrier.arrive.shared.b64 _, [%r10];\nbar.sync 0;\n@%p1 mbarrier.init.shared.b64 [%r10], 4;",
        r"it is an mbarrier already.*phase 8 of the mbarrier 0 bytes into bars of 64 bytes misses 4 of 4 arrivals",
    ),
    "init by two threads": ("mbarrier.init.shared.b64 [%r10], 4;", "it is an mbarrier already"),
    "count 0": ("@%p1 mbarrier.init.shared.b64 [%r10], 0;", r"the count must be 1 to 1,048,575; it is 0"),
    "count too high": ("@%p1 mbarrier.init.shared.b64 [%r10], 1048576;", "the count must be .*; it is 1,048,576"),
    "no arrival": (f"{INIT}mbarrier.arrive.shared.b64 _, [%r10], 0;", "the count must be .*; it is 0"),
    "an arrive too many": (
        f"{INIT}@%p1 mbarrier.arrive.shared.b64 _, [%r10], 5;",
        "more arrivals than the phase misses; phase 0 .* misses 4 of 4 arrivals",
    ),
    "an arrive while bytes are missing": (
        f"{INIT}@%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [%r10], 16;\nbar.sync 0;\n"
        "mbarrier.arrive.shared.b64 _, [%r10];",
        "more arrivals than the phase misses; phase 0 .* misses 0 of 4 arrivals and 16 bytes",
    ),
    "noComplete that completes": (
        f"{INIT}@%p1 mbarrier.arrive.noComplete.shared.b64 %rd10, [%r10], 4;", "must leave the phase incomplete"
    ),
    "more bytes than can be counted": (
        f"{INIT}@%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [%r10], 1048576;", "the bytes under way must stay within"
    ),
    "fewer bytes than can be counted": (
        f"{INIT}@%p1 mbarrier.complete_tx.relaxed.cta.shared.b64 [%r10], 1048576;", "the bytes under way must stay"
    ),
    "a store into it": (
        f"{INIT}@%p1 st.shared.u32 [%r10], 7;\nbar.sync 0;\nmbarrier.arrive.shared.b64 _, [%r10];",
        "something else has been stored in the mbarrier since",
    ),
    "a state of no phase": (
        f"{INIT}mov.u64 %rd10, 0x500000004;\nmbarrier.test_wait.shared.b64 %p2, [%r10], %rd10;",
        "the state is none of the current phase",
    ),
    "inval of one at which threads wait": (
        f"{INIT}@%p1 bra L;\nmbarrier.try_wait.parity.shared.b64 %p2, [%r10], 0;\n"
        "mbarrier.try_wait.parity.shared.b64 %p2, [%r10], 0;\nL: @!%p1 exit;\nmbarrier.inval.shared.b64 [%r10];",
        "threads wait at it: phase 0",
    ),
    "in global memory": ("mbarrier.init.b64 [%rd1], 4;", "an mbarrier lies in shared memory"),
}  # fmt: skip


@pytest.mark.parametrize(("body", "says"), RULES.values(), ids=RULES.keys())
def test_a_broken_rule_is_named_with_its_line(run_ptx, body, says):
    line = len((START + body).strip().splitlines())
    with pytest.raises(BarrierError, match=rf"kernel test, test.cu:{line}, block \(0, 0, 0\), thread .*{says}"):
        run(run_ptx, body, OUT)


@pytest.mark.parametrize(
    "body",
    [
        f"{INIT}mbarrier.arrive.shared.b64 _, [%r10];\nbar.sync 0;\n@%p1 mbarrier.inval.shared.b64 [%r10];\n{INIT}"
        "mbarrier.arrive.shared.b64 _, [%r10];",
        f"{INIT}@%p1 mbarrier.inval.shared.b64 [%r10];\nbar.sync 0;\nst.shared.u32 [%r12], %r0;",
        f"@%p1 mbarrier.init.shared.b64 [%r10], {MOST};\n@%p1 mbarrier.arrive.shared.b64 _, [%r10], {MOST};",
        f"{INIT}@%p1 mbarrier.arrive.noComplete.shared.b64 %rd10, [%r10], 3;",
        f"{INIT}@%p1 mbarrier.complete_tx.relaxed.cta.shared.b64 [%r10], {MOST};",
    ],
)
def test_what_keeps_the_rules_runs(run_ptx, body):
    with observe(races=True, uninitialised=True) as report:
        run(run_ptx, body, OUT)
    assert not report.findings


def test_an_address_is_checked(run_ptx):
    with pytest.raises(MemoryAccessError, match="misaligned"):
        run(run_ptx, "mbarrier.init.shared.b64 [%r10+4], 1;", OUT)
    with pytest.raises(MemoryAccessError, match="past the end of bars"):
        run(run_ptx, "mbarrier.init.shared.b64 [%r10+64], 1;", OUT)


@pytest.mark.parametrize(
    "instruction",
    [
        "mbarrier.init.shared::cluster.b64 [%r10], 1;",
        "mbarrier.arrive.release.cluster.shared::cluster.b64 %rd10, [%r10];",
        "mbarrier.arrive.strange.shared.b64 _, [%r10];",
        "mbarrier.test_wait.shared.b32 %p2, [%r10], %rd10;",
        "mbarrier.test_wait.parity.shared.b64 %p2, [%r10], 0, 17;",
        "cp.async.mbarrier.strange.shared.b64 [%r10];",
    ],
)
def test_other_forms_are_refused_by_name(run_ptx, instruction):
    with pytest.raises(UnsupportedInstruction, match=rf"test.cu:6.*{re.escape(instruction[:24])}"):
        run(run_ptx, f"{INIT}{instruction}", OUT)


# -- waiting ----------------------------------------------------------------------------------------------------------

WAIT = "mbarrier.try_wait.parity.shared.b64 %p2, [%r10], 0;\n@!%p2 bra {0};\n"


def test_a_wait_that_can_never_end_says_how_many_arrivals_are_missing(run_ptx):
    body = "@%p1 mbarrier.init.shared.b64 [%r10], 40;\nbar.sync 0;\nmbarrier.arrive.shared.b64 _, [%r10];\nW:\n"
    says = (
        r"kernel test, test.cu:8, .*thread \(0, 0, 0\): 32 threads of the block wait for ever: phase 0 of the mbarrier"
    )
    with pytest.raises(HangError, match=f"{says} 0 bytes into bars of 64 bytes misses 8 of 40 arrivals"):
        run(run_ptx, body + WAIT.format("W"), OUT)
    with pytest.raises(HangError, match="misses 8 of 40 arrivals"):  # test_wait, and the answer is looked at
        run(run_ptx, (body + WAIT.format("W")).replace("try_wait", "test_wait"), OUT)
    run(run_ptx, body.replace("40", "32") + WAIT.format("W"), OUT)


def test_an_exit_is_no_arrival(run_ptx):
    body = "@%p1 mbarrier.init.shared.b64 [%r10], 32;\nbar.sync 0;\n@%p1 exit;\n"
    body += "mbarrier.arrive.shared.b64 _, [%r10];\nW:\n"
    with pytest.raises(HangError, match=r"31 threads of the block wait for ever: .*misses 1 of 32 arrivals"):
        run(run_ptx, body + WAIT.format("W"), OUT)
    dropped = body.replace("@%p1 exit", "@%p1 mbarrier.arrive_drop.shared.b64 _, [%r10];\n@%p1 exit")
    run(run_ptx, dropped + WAIT.format("W"), OUT)


def test_missing_bytes_are_named(run_ptx):
    body = "@%p1 mbarrier.init.shared.b64 [%r10], 1;\nbar.sync 0;\n"
    body += "@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r10], 64;\nW:\n"
    with pytest.raises(HangError, match="misses 0 of 1 arrivals and 64 bytes"):
        run(run_ptx, body + WAIT.format("W"), OUT)


def test_who_fails_to_wait_may_do_something_else(run_ptx):
    """Thread 0 sees that the phase is not over, and makes it so itself."""
    body = (
        INIT
        + """@!%p1 exit;
mbarrier.test_wait.parity.shared.b64 %p2, [%r10], 0;
selp.u32 %r20, 1, 0, %p2;
mbarrier.arrive.shared.b64 _, [%r10], 4;
mbarrier.test_wait.parity.shared.b64 %p3, [%r10], 0;
selp.u32 %r21, 1, 0, %p3;
st.global.v2.u32 [%rd1], {%r20, %r21};
"""
    )
    assert run(run_ptx, body, OUT)[0][:2].tolist() == [0, 1]


def test_a_phase_is_over_when_all_have_arrived_and_not_before(run_ptx):
    """Warp 2 waits for warps 0 and 1, of which one counts to 500 first, when the other has arrived."""
    body = """@%p1 mbarrier.init.shared.b64 [%r10], 64;
mov.u32 %r20, 0;
bar.sync 0;
setp.lt.u32 %p3, %r0, 64;
@%p3 bra ARRIVE;
W: mbarrier.try_wait.parity.shared.b64 %p2, [%r10], 0;
@!%p2 bra W;
ld.shared.u32 %r16, [%r12+-128];
add.u64 %rd2, %rd1, %rd0;
st.global.u32 [%rd2], %r16;
exit;
ARRIVE: setp.lt.u32 %p3, %r0, 32;
@!%p3 bra COUNT;
mbarrier.arrive.shared.b64 _, [%r10];
exit;
COUNT: add.u32 %r20, %r20, 1;
setp.lt.u32 %p3, %r20, 500;
@%p3 bra COUNT;
st.shared.u32 [%r12], %r0;
mbarrier.arrive.shared.b64 _, [%r10];
"""
    with observe(races=True, uninitialised=True) as report:
        (out,) = run(run_ptx, body, np.zeros(96, np.uint32), block=96)
    assert not report.findings
    assert out[64:].tolist() == list(range(32, 64))


def test_a_wait_may_have_a_time_limit_of_its_own(run_ptx):
    body = INIT + """mov.u64 %rd2, %globaltimer;
W: mov.u64 %rd3, %globaltimer;
sub.u64 %rd3, %rd3, %rd2;
setp.gt.u64 %p3, %rd3, 1000000000000;
@%p3 bra LATE;
""" + WAIT.format("W") + """exit;
LATE: add.u64 %rd4, %rd1, %rd0;
st.global.u32 [%rd4], 7;
"""  # fmt: skip
    assert run(run_ptx, body, OUT)[0][:32].tolist() == [7] * 32


def test_a_failed_wait_hands_over_nothing(run_ptx):
    """Warp 0 has arrived, and others are missing; in a program whose atomics and fences order threads."""
    body = """@%p1 mbarrier.init.shared.b64 [%r10], 64;
fence.acq_rel.cta;
bar.sync 0;
setp.lt.u32 %p3, %r0, 32;
@!%p3 bra LOOK;
st.shared.u32 [%r12], %r0;
mbarrier.arrive.release.cta.shared.b64 _, [%r10];
exit;
LOOK: mbarrier.test_wait.parity.acquire.cta.shared.b64 %p2, [%r10], 0;
ld.shared.u32 %r16, [%r12+-128];
"""
    for text, kinds in ((body, {"race"}), (body.replace("[%r10], 64", "[%r10], 32"), set())):
        with observe(races=True) as report:
            run(run_ptx, text, OUT, block=64)
        assert {finding.kind for finding in report.findings} == kinds


def test_an_mbarrier_made_anew_begins_anew(run_ptx):
    """Two phases, then another mbarrier at the same place, by which words are handed over."""
    init = "@%p1 mbarrier.init.shared.b64 [%r10], 32;\nbar.sync 0;\n"
    body = init + 2 * "mbarrier.arrive.shared.b64 _, [%r10];\n" + "V:\n" + WAIT.format("V").replace("0;", "1;")
    body += "bar.sync 0;\n@%p1 mbarrier.inval.shared.b64 [%r10];\n" + init
    body += "st.shared.u32 [%r12], %r0;\nmbarrier.arrive.shared.b64 _, [%r10];\nW:\n" + WAIT.format("W")
    body += "xor.b32 %r14, %r12, 4;\nld.shared.u32 %r16, [%r14];"
    with observe(races=True) as report:
        run(run_ptx, body, OUT)
    assert not report.findings


PING_PONG = """
@%p1 mbarrier.init.shared.b64 [%r10], 32;
@%p1 mbarrier.init.shared.b64 [%r11], 32;
bar.sync 0;
mov.u32 %r20, 0;
mov.u32 %r25, 0;
setp.lt.u32 %p4, %r0, 32;
@!%p4 bra CONSUMER;
PRODUCER:
xor.b32 %r21, %r20, 1;
and.b32 %r21, %r21, 1;
PW: mbarrier.try_wait.parity.shared.b64 %p2, [%r11], %r21;
@!%p2 bra PW;
add.u32 %r22, %r20, %r0;
st.shared.u32 [%r12], %r22;
mbarrier.arrive.shared.b64 _, [%r10];
add.u32 %r20, %r20, 1;
setp.lt.u32 %p3, %r20, 10;
@%p3 bra PRODUCER;
exit;
CONSUMER:
and.b32 %r21, %r20, 1;
CW: mbarrier.try_wait.parity.shared.b64 %p2, [%r10], %r21;
@!%p2 bra CW;
ld.shared.u32 %r22, [%r12+-128];
add.u32 %r25, %r25, %r22;
mbarrier.arrive.shared.b64 _, [%r11];
add.u32 %r20, %r20, 1;
setp.lt.u32 %p3, %r20, 10;
@%p3 bra CONSUMER;
add.u64 %rd2, %rd1, %rd0;
st.global.u32 [%rd2], %r25;
"""


def test_blocks_that_come_later_find_no_mbarriers(run_ptx):
    (out,) = run(run_ptx, PING_PONG, OUT, block=64, lanes=1, grid=3)
    assert out[32:].tolist() == [10 * t + 45 for t in range(32)]


@pytest.mark.parametrize("lanes", [1, None])
def test_warps_hand_over_to_each_other_round_after_round(run_ptx, lanes):
    with observe(races=True, uninitialised=True) as report:
        (out,) = run(run_ptx, PING_PONG, OUT, block=64, lanes=lanes)
    assert not report.findings
    assert out[32:].tolist() == [10 * t + 45 for t in range(32)]


def without(body: str, line: str) -> str:
    assert body.count(line) == 1, line
    return body.replace(line, "")


CONSUMER_WAITS = "CW: mbarrier.try_wait.parity.shared.b64 %p2, [%r10], %r21;\n@!%p2 bra CW;"
PRODUCER_WAITS = "PW: mbarrier.try_wait.parity.shared.b64 %p2, [%r11], %r21;\n@!%p2 bra PW;"


def test_a_hand_over_without_a_wait_races(run_ptx):
    with observe(races=True) as report:
        run(run_ptx, without(PING_PONG, CONSUMER_WAITS), OUT, block=64)
    assert "race" in {f.kind for f in report.findings}


@pytest.mark.parametrize(
    "body",
    [
        without(PING_PONG, PRODUCER_WAITS),  # it is phases ahead
        PING_PONG.replace(
            "CONSUMER:\nand.b32 %r21, %r20, 1;", "CONSUMER:\nnot.b32 %r21, %r20;\nand.b32 %r21, %r21, 1;"
        ),
    ],
    ids=["the producer does not wait", "the consumer waits for the phase before"],
)
def test_a_hand_over_that_is_out_of_step_hangs(run_ptx, body):
    assert body != PING_PONG
    with pytest.raises(HangError, match=r"32 threads of the block wait for ever: phase \d+ of the mbarrier"):
        run(run_ptx, body, OUT, block=64)


@pytest.mark.parametrize("order", range(6))
def test_any_order_of_execution_gives_the_same(run_ptx, order):
    with observe(races=True, order=order) as report:
        (out,) = run(run_ptx, PING_PONG, OUT, block=64)
    assert not report.findings
    assert out[32:].tolist() == [10 * t + 45 for t in range(32)]


def test_some_order_shows_a_wait_whose_answer_nobody_looks_at(run_ptx):
    found = set()
    for order in range(8):
        with contextlib.suppress(HangError), observe(races=True, order=order) as report:
            run(run_ptx, without(PING_PONG, "@!%p2 bra CW;"), OUT, block=64)
        found |= {finding.kind for finding in report.findings}
    assert found == {"race"}


def test_an_init_that_nobody_waits_for_races(run_ptx):
    body = "@%p1 mbarrier.init.shared.b64 [%r10], 32;\nmbarrier.arrive.shared.b64 _, [%r10];"
    with observe(races=True) as report:
        run(run_ptx, body, OUT)
    assert [f.kind for f in report.findings] == ["race"]
    assert (
        "updates shared memory that the same block, thread (0, 0, 0) writes at test.cu:4" in report.findings[0].message
    )
    with observe(races=True) as report:
        run(run_ptx, body.replace(";\n", ";\nbar.sync 0;\n"), OUT)
    assert not report.findings


def test_a_relaxed_arrival_hands_over_nothing_without_a_fence(run_ptx):
    body = (
        INIT.replace("4;", "32;")
        + """st.shared.u32 [%r12], %r0;
mbarrier.arrive.relaxed.cta.shared.b64 _, [%r10];
W: mbarrier.try_wait.parity.shared.b64 %p2, [%r10], 0;
@!%p2 bra W;
xor.b32 %r14, %r13, 124;
mov.u32 %r15, data;
add.u32 %r15, %r15, %r14;
ld.shared.u32 %r16, [%r15];
"""
    )
    for text, races in (
        (body, 1),
        (body.replace(".relaxed", ".release"), 0),
        (body.replace("mbarrier.arrive", "fence.acq_rel.cta;\nmbarrier.arrive"), 0),
        (body.replace("arrive.relaxed", "arrive.release").replace("wait.parity", "wait.parity.relaxed.cta"), 1),
        (body.replace("arrive.relaxed", "arrive.release").replace("wait.parity", "wait.parity.acquire.cta"), 0),
        (body.replace("mbarrier.arrive.relaxed.cta", "mbarrier.arrive"), 0),
    ):
        with observe(races=True) as report:
            run(run_ptx, text, OUT)
        assert len(report.findings) == races, text


# -- copies -----------------------------------------------------------------------------------------------------------

COPY = """@%p1 mbarrier.init.shared.b64 [%r10], {count};
bar.sync 0;
add.u64 %rd2, %rd1, %rd0;
cp.async.ca.shared.global [%r12], [%rd2], 4;
cp.async.mbarrier.arrive{noinc}.shared.b64 [%r10];
{also}
W: mbarrier.test_wait.parity.shared.b64 %p2, [%r10], 0;
@!%p2 bra W;
xor.b32 %r14, %r13, 124;
mov.u32 %r15, data;
add.u32 %r15, %r15, %r14;
ld.shared.u32 %r16, [%r15];
st.global.u32 [%rd2+128], %r16;
"""
WAITS = "W: mbarrier.test_wait.parity.shared.b64 %p2, [%r10], 0;\n@!%p2 bra W;\n"
SOURCE = np.concatenate([np.arange(32, dtype=np.uint32) + 5, np.zeros(32, np.uint32)])


@pytest.mark.parametrize(
    ("noinc", "also"), [(".noinc", ""), ("", "mbarrier.arrive.shared.b64 _, [%r10];")], ids=["noinc", "and an arrival"]
)
def test_an_mbarrier_waits_for_copies(run_ptx, noinc, also):
    body = COPY.format(count=32, noinc=noinc, also=also)
    with observe(races=True, uninitialised=True) as report:
        (out,) = run(run_ptx, body, SOURCE)
    assert not report.findings
    assert out[32:].tolist() == [36 - t for t in range(32)]


def test_copies_that_nobody_waits_for_are_found(run_ptx):
    body = COPY.format(count=32, noinc=".noinc", also="")
    with observe(races=True) as report:
        (out,) = run(run_ptx, without(body, WAITS), SOURCE)
    assert {f.kind for f in report.findings} == {"race", "missing wait"}
    assert out[32] == 0xFFF5FFF5  # the poison
    # The barrier does not know of copies that were issued after.
    late = body.replace("cp.async.ca.shared.global [%r12], [%rd2], 4;\n", "").replace(
        "[%r10];\n\nW:", "[%r10];\ncp.async.ca.shared.global [%r12], [%rd2], 4;\nW:"
    )
    with observe(races=True) as report:
        run(run_ptx, late, SOURCE)
    assert {f.kind for f in report.findings} == {"race", "missing wait"}


def test_a_copy_counts_itself_unless_told_not_to(run_ptx):
    with pytest.raises(HangError, match="misses 32 of 32 arrivals"):
        run(run_ptx, COPY.format(count=32, noinc="", also=""), SOURCE)
    with pytest.raises(HangError, match="misses 1 of 33 arrivals"):
        run(run_ptx, COPY.format(count=33, noinc=".noinc", also=""), SOURCE)
