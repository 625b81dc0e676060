"""The annotated source: each line's counts beside it, whatever the kernels' files are called and hold."""

from pathlib import Path

import pytest

import gpubp.kernels
from gpubp.profiler import annotated_source as source
from gpubp.profiler.counts import Access, Line

KERNELS = Path(gpubp.kernels.__file__).parent
TEXT = '#include <x.h>\n// "quoted" & <b>bold</b>\nfloat s = x[i];\n'


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "<i>&.cu"
    path.write_text(TEXT)
    return str(path)


def counted(file):
    load = Access("global", "load", 2, 64, 256, 10, 8)
    shared = Access("shared", "store", 2, 64, 256, 6, 2)
    return [
        Line(file, 3, {"FMA": 64, "move": 32}, (load, shared)),
        Line(file, 3, {"FMA": 4}, (load,)),
        Line(file, 2, {"integer": 20}, ()),
    ]


def test_a_file_has_all_its_lines_and_kernels_that_share_one_are_summed(file):
    (found,) = source.files_of(counted(file))
    assert (found.name, found.found, found.executed) == ("<i>&.cu", True, 120)
    assert [row.text for row in found.rows] == TEXT.splitlines()
    last = found.rows[2]
    assert (last.executed, last.sectors, last.excess, last.passes, last.conflicts) == (100, 20, 4, 6, 4)
    assert last.classes == "FMA 68, move 32"
    assert (found.rows[0].executed, found.rows[0].classes) == (0, "")


def test_no_count_is_lost_where_the_line_or_its_file_is_not_there(file):
    lines = [Line(file, 99, {"FMA": 1}, ()), Line("/nowhere/x.cuh", 7, {"FMA": 2}, ()), Line("", 0, {"FMA": 4}, ())]
    found = source.files_of(lines)
    assert sum(each.executed for each in found) == 7
    assert [(each.name, each.found) for each in found] == [
        ("a file that the compiler does not name", False),
        ("x.cuh", False),
        ("<i>&.cu", True),
    ]
    assert [row.number for row in found[2].rows] == [1, 2, 3, 99]


def test_files_of_the_package_are_called_as_in_its_repository():
    (found,) = source.files_of([Line(str(KERNELS / "cuda" / "runs.cuh"), 1, {"FMA": 1}, ())])
    assert found.name == "kernels/cuda/runs.cuh"


def test_links_lead_to_lines_with_counts(file):
    links = source.links_of(source.files_of(counted(file)))
    assert set(links) == {"<i>&.cu:2", "<i>&.cu:3"}
