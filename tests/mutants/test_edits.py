"""The edits: each rule makes the mistakes that it says, and none where no run could show it."""

import ast

import pytest
from edits import edits_of, thinned, tokens_of
from suite import KERNELS

FILES = sorted(
    f"{path.parent.name}/{path.name}"
    for pattern in ("cuda/*.cu*", "numba/*.py")
    for path in KERNELS.glob(pattern)
    if path.name != "__init__.py"
)


def edited(text, language="cuda", kind=None):
    """What the edits of one rule, or of all, make of a text of one line."""
    found = edits_of(f"{language}/some", text)
    return {each.apply(text) for each in found if kind in (None, each.kind)}


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("relation", "if (i >= n) f();", {"if (i > n) f();", "if (i < n) f();"}),
        ("relation", "if (i == n) f();", {"if (i != n) f();"}),
        ("arithmetic", "x = a * b;", {"x = a + b;"}),
        ("arithmetic", "x += a;", {"x -= a;", "x = a;"}),
        ("arithmetic", "x = -a;", {"x = a;"}),
        ("arithmetic", "if (!a) f();", {"if (a) f();"}),
        ("logic", "x = a && b;", {"x = a || b;", "x = a;", "x = b;"}),
        ("logic", "if (f(a) || b && c) g();", {"if (f(a) && b && c) g();", "if (f(a)) g();", "if (b && c) g();"}
         | {"if (f(a) || b || c) g();", "if (f(a) || b) g();", "if (f(a) || c) g();"}),
        ("constant", "x = 0;", {"x = 1;"}),
        ("constant", "x = 8u;", {"x = 9u;", "x = 7u;"}),
        ("constant", "x = 0.5;", {"x = 0.5005;"}),
        ("constant", "x = true;", {"x = false;"}),
        ("condition", "if (i < n) f();", {"if (true) f();", "if (false) f();"}),
        ("condition", "x = i < n ? a : b;", {"x = true ? a : b;", "x = false ? a : b;"}),
        ("name", "{ f(row); g(column); }", {"{ f(column); g(column); }", "{ f(row); g(row); }"}),
        ("name", "{ f(tid.x, bid.y); }", {"{ f(tid.y, bid.y); }", "{ f(tid.x, bid.x); }"}),
        ("name", "{ int a_tile = b_tile; }", {"{ int a_tile = a_tile; }"}),
        ("arguments", "f(p, q, 2);", {"f(q, p, 2);"}),
        ("statement", "__syncthreads();", {";"}),
        ("statement", "if (i < n) x[i] = y;", {"if (i < n) ;"}),
        ("statement", "{ T sum = 0; sum += x; return sum; }", {"{ T sum = 0; ; return sum; }"}),
        ("step", "for (int k = 0; k < n; ++k) f();", {"for (int k = 0; k < n; k += 2) f();"}),
        ("assembly", 'asm("add %0, %1;");', {'asm("add %1, %1;");', 'asm("add %0, %0;");'}),
        ("assembly", 'asm("cvt.rn.bf16.f32 %0;");', {'asm("cvt.rz.bf16.f32 %0;");'}),
    ],
)  # fmt: skip
def test_a_rule_edits_cuda(kind, text, expected):
    assert edited(text, kind=kind) == expected


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("relation", "x = i < n", {"x = i <= n", "x = i > n"}),
        ("arithmetic", "x = i // n", {"x = i % n"}),
        ("arithmetic", "x = not n", {"x =  n"}),
        ("logic", "x = a and b", {"x = a or b", "x = a", "x = b"}),
        ("constant", "x = 1", {"x = 2", "x = 0"}),
        ("condition", "x = a if i < n else b", {"x = a if True else b", "x = a if False else b"}),
        ("name", "def f(i, j): return i, j", {"def f(i, j): return j, j", "def f(i, j): return i, i"}),
        ("arguments", "f(p, q)", {"f(q, p)"}),
        ("statement", "def f(x): g(x)", {"def f(x): pass"}),
        ("statement", "def f(x): x = g(x)", {"def f(x): pass"}),
        ("statement", "def f(x): y = g(x)", set()),
    ],
)
def test_a_rule_edits_python(kind, text, expected):
    assert edited(text, "numba", kind) == expected


def test_a_range_in_python_ends_one_further_or_earlier():
    text = "def f(n):\n    for k in range(1, n):\n        g(k)\n"
    assert {each.after for each in edits_of("numba/some", text) if each.kind == "relation"} == {
        "for k in range(1, n + 1):",
        "for k in range(1, n - 1):",
    }


@pytest.mark.parametrize(
    "text",
    [
        "// a + b",
        "/* a + b */",
        "#pragma unroll 4",
        '#include "a1.cuh"',
        "#if __CUDA_ARCH__ >= 800",
        "template <typename T, class Form>",
        "__global__ void __launch_bounds__(256 + 1, 2) f(const T* a, T* b);",
        'static_assert(SIDE % 16 == 0, "fits");',
        "static constexpr int BLOCKS = 1;",
        "const T* a;",
    ],
)
def test_what_no_run_can_show_in_cuda_is_left_alone(text):
    assert edited(text) == set()


@pytest.mark.parametrize(
    "text",
    [
        "# a + b",
        '"""a + b"""',
        "from x import y1",
        '@jit(device=True, inline="always")\ndef f(a, c): return a',
        "a: dict[int, int] = c",
    ],
)
def test_what_no_run_can_show_in_python_is_left_alone(text):
    assert edited(text, "numba") == set()


def test_an_edit_knows_its_line_and_which_of_equal_lines_it_is():
    text = "f();\n  g();\ng();\n"
    found = {(each.line, each.nth, each.before, each.after) for each in edits_of("cuda/some", text)}
    assert found == {(1, 1, "f();", ";"), (2, 1, "g();", ";"), (3, 2, "g();", ";")}


def test_a_statement_of_several_lines_leaves_the_others_their_numbers():
    text = "f(p,\n  2);\ng();\n"
    (edit,) = [each for each in edits_of("cuda/some", text) if each.kind == "statement" and each.line == 1]
    assert edit.apply(text) == ";\n\ng();\n"


@pytest.mark.parametrize("file", FILES)
def test_the_edits_of_a_file(file):
    text = (KERNELS / file).read_text(encoding="utf-8")
    edits = edits_of(file, text)
    assert edits == edits_of(file, text)
    mutants = [edit.apply(text) for edit in edits]
    assert text not in mutants
    assert len(set(mutants)) == len(mutants)
    for edit, mutant in zip(edits, mutants, strict=True):
        assert mutant.count("\n") == text.count("\n")
        assert edit.before == text.splitlines()[edit.line - 1].strip()
        assert edit.after == mutant.splitlines()[edit.line - 1].strip()
        if file.startswith("numba/"):
            ast.parse(mutant)


@pytest.mark.parametrize("file", FILES)
def test_a_line_with_an_edit_keeps_one_of_each_kind(file):
    edits = edits_of(file, (KERNELS / file).read_text(encoding="utf-8"))
    kept = thinned(edits)
    assert {(each.line, each.kind) for each in kept} == {(each.line, each.kind) for each in edits}
    assert len(kept) == len({(each.line, each.kind) for each in edits})
    assert kept == thinned(edits[::-1])


@pytest.mark.parametrize("file", FILES)
def test_every_line_that_computes_has_an_edit(file):
    """A line with an operator of arithmetic, of comparison or of assignment to an element."""
    text = (KERNELS / file).read_text(encoding="utf-8")
    language = file.split("/")[0]
    lines = text.splitlines()
    edited_lines = {each.line for each in edits_of(file, text)}
    for token in tokens_of(text, language):
        line = text.count("\n", 0, token.start)
        operates = token.text in ("+=", "-=", "*=", "<=", ">=", "==", "%", "^", "<<") and token.kind == "operator"
        if operates and "static_assert" not in lines[line]:
            assert line + 1 in edited_lines, lines[line]
