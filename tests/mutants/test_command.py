"""The command: what it kills, what it takes for no mistake, and that it cannot pass where it should fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import EQUIVALENTS, Tally, chosen_of, entry_of, key_of, listed, sources
from edits import thinned
from judge import INVALID, KILLED, SAME, SURVIVED, Verdict, lines_of, strip

FOLDER = Path(__file__).parent
SAMPLE = 16
"""Mutants that `make test` judges, of kernels that compile in a moment."""
SMALL = [
    f"{language}/{name}.{suffix}"
    for language, suffix in (("cuda", "cu"), ("numba", "py"))
    for name in ("bias_gradient", "gather_rows", "row_argmax", "scale")
]


def run(*arguments):
    """The exit status of the command, and what it printed."""
    ended = subprocess.run([sys.executable, str(FOLDER), *map(str, arguments)], capture_output=True, text=True)
    assert ended.stderr == ""
    return ended.returncode, ended.stdout


def line_with(file, end):
    """The line of a kernel's file that ends so, as the command takes it."""
    (source,) = sources([file])
    (number,) = [number for number, line in enumerate(source.text.splitlines(), 1) if line.endswith(end)]
    return f"{file}:{number}"


# --- the score --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def edits():
    """Some edits of a file."""
    (source,) = sources(["cuda/scale.cu"])
    return source.edits()


def test_all_killed_is_a_pass(edits):
    tally = Tally({})
    for edit in edits:
        tally.add(edit, Verdict(KILLED, "scale", "case"))
    tally.add(edits[0], Verdict(SAME))
    tally.add(edits[0], Verdict(INVALID))
    assert tally.passed
    assert f"{len(edits)} mutants killed, 0 survived: 100.0%" in str(tally)
    assert tally.killers == {"scale": {"case"}}


def test_a_survivor_fails_the_run_unless_it_is_listed(edits):
    for reasons, passes in (({}, False), ({key_of(edits[0]): "no mistake"}, True)):
        tally = Tally(reasons)
        tally.add(edits[0], Verdict(SURVIVED))
        tally.add(edits[1], Verdict(KILLED, "scale", "case"))
        assert tally.passed is passes
        assert ("100.0%" in str(tally)) is passes


def test_a_listed_mutant_that_is_killed_fails_the_run(edits):
    tally = Tally({key_of(edits[0]): "no mistake"})
    tally.add(edits[0], Verdict(KILLED, "scale", "some case", "it was wrong"))
    assert not tally.passed
    assert "some case" in tally.complaints[0]
    assert "it was wrong" in tally.complaints[0]


def test_a_listed_mutant_that_is_gone_fails_the_run(edits):
    tally = Tally({("cuda/scale.cu", "x = 1;", "x = 2;", 1): "no mistake"})
    tally.compare(edits)
    assert not tally.passed


def test_an_entry_lists_its_mutant(edits, tmp_path):
    path = tmp_path / "list.toml"
    path.write_text("".join(map(entry_of, edits)), encoding="utf-8")
    assert list(listed(path)) == list(map(key_of, edits))


def test_every_listed_mutant_is_one_and_has_a_reason():
    reasons = listed(EQUIVALENTS)
    tally = Tally(reasons)
    tally.compare(edit for source in sources() for edit in source.edits())
    assert tally.complaints == []
    assert all(len(reason.split()) > 3 for reason in reasons.values())


def test_what_is_judged_can_be_chosen():
    (source,) = sources(["cuda/scale.cu"])
    assert [edit for _, edit in chosen_of(["cuda/scale.cu"], True, None)] == source.edits()
    assert [edit for _, edit in chosen_of(["cuda/scale.cu"], False, None)] == thinned(source.edits())
    line = source.edits()[0].line
    assert {edit.line for _, edit in chosen_of([f"cuda/scale.cu:{line}"], True, None)} == {line}
    assert len(chosen_of([], False, 7)) == 7
    with pytest.raises(SystemExit, match=r"nothing\.cu"):
        chosen_of(["cuda/nothing.cu"], False, None)


# --- PTX --------------------------------------------------------------------------------------------------------------
PTX = """//
.version 9.0
	.file	1 "/some/where/kernels/cuda/scale.cu"
	.loc	1 10 5
	add.s32 %r1, %r2, 1; // a comment
	.loc	1 12 5, function_name $L, inlined_at 1 14 3
	ret;
.section	.debug_str
{
.b8 95
}
"""


def test_code_is_compared_without_where_it_comes_from():
    assert strip(PTX) == ".version 9.0\n\tadd.s32 %r1, %r2, 1; \n\tret;"
    assert strip(PTX) == strip(PTX.replace("10 5", "11 5").replace("/some/where", "/else"))
    assert strip(PTX) != strip(PTX.replace("add", "sub"))


def test_the_lines_of_code():
    assert lines_of(PTX) == {("cuda/scale.cu", 10), ("cuda/scale.cu", 12), ("cuda/scale.cu", 14)}


# --- the whole --------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_mutants_are_judged_as_they_must_be(tmp_path):
    """A race, a wrong value and a loop without an end are killed; what is no mistake survives, or is the same code.

    In files that few kernels include: every kernel whose source includes the file of a mutant is compiled.
    """
    log, wrong = tmp_path / "log", tmp_path / "list.toml"
    call = "prepare(control, sum, growth_interval, max_norm);"
    rest = line_with("cuda/prepare_update.cu", call)
    (races,) = [edit for _, edit in chosen_of([rest], True, None) if edit.after == f"if (true) {call}"]
    gone = entry_of(races).replace("prepare(", "prepared(")
    wrong.write_text(entry_of(races) + gone, encoding="utf-8")
    lines = [
        rest,
        line_with("cuda/prepare_update.cu", "i < size; i += step)"),
        line_with("numba/prepare_update.py", "if arrives_last(arrivals, 0, cuda.gridDim.x):"),
        line_with("numba/gather_rows.py", "if has_y:"),
    ]
    status, output = run("--whole", "--list", wrong, "--log", log, *lines)
    told = log.read_text(encoding="utf-8")

    def verdict_on(end):
        found, *_ = [line for line in told.splitlines() if line.endswith(f" {end}")]
        return found.split(",")[0], told.split(found)[1].splitlines()[1]

    assert verdict_on(races.after)[0] == KILLED
    assert "race" in verdict_on(races.after)[1]
    assert verdict_on("if arrives_last(arrivals, 1, cuda.gridDim.x):")[0] == KILLED
    endless = "for (int64 i = int64(blockIdx.x) * SUM_THREADS + threadIdx.x; i < size; i = step)"
    assert "the kernel never ends" in verdict_on(endless)[1]
    any_thread = f"if (threadIdx.x == 1) {call}"  # every thread has the sum
    assert verdict_on(any_thread)[0] == SURVIVED
    swapped = "if (threadIdx.x == 0) prepare(sum, control, growth_interval, max_norm);"
    assert verdict_on(swapped)[0] == INVALID
    assert verdict_on("if has_y:  =>  if True:")[0] == SAME  # without y nothing reads what it adds to
    assert f"=>  {any_thread}" in output.partition("survived: ")[2]
    assert "listed as equivalent, but " in output
    assert "listed, but no mutant of the kernels any more" in output
    assert status == 1


@pytest.mark.slow
def test_a_fixed_sample_is_killed_or_listed():
    status, output = run("--sample", SAMPLE, *SMALL)
    assert status == 0, output


def test_the_sample_is_always_the_same():
    names = [[json.dumps(key_of(edit)) for _, edit in chosen_of(SMALL, False, SAMPLE)] for _ in range(2)]
    assert names[0] == names[1]
