"""The page of a kernel: its steps, threads and elements are those of the trace; it opens where something is wrong."""

import json

import numpy as np
import pytest
from pages import MOST_BYTES, check_page, pixels

import gpubp.emulator as cp
from gpubp import explain
from gpubp.crosscheck.cases import measured
from gpubp.crosscheck.problems import problem as problem_module
from gpubp.emulator import cuda
from gpubp.errors import ArgumentError
from gpubp.explain import kernel_steps
from gpubp.explain.catalogue import LANGUAGES, catalogue
from gpubp.explain.kernel_page import kernel_page
from gpubp.explain.kernel_run import explain_case
from gpubp.explain.kernel_steps import shown_steps
from gpubp.explain.ladder import rungs

SHAPE = (8, 6, 10)
"""The default."""


def case(variant, shape=SHAPE, **options):
    from dataclasses import replace

    return replace(measured("hidden_delta", shape, "float32", **options), variant=variant)


@pytest.fixture(scope="module")
def tiled():
    return explain_case(case("tiled"), "cupy")


def owner(pixel):
    """The thread whose colour a pixel has; threads of one lane in every fifth warp share it."""
    palette = kernel_steps.thread_colour(np.arange(160)).astype(int)
    (found,) = np.flatnonzero((palette == pixel).all(axis=1))
    return found


def test_nothing_is_wrong_with_the_kernel(tiled):
    assert tiled.troubles == ()
    assert tiled.compared


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_has_every_step_of_the_trace(tiled, language):
    texts = catalogue(language)
    text = kernel_page(tiled, texts, "gpubp explain kernel")
    assert len(text.encode()) < MOST_BYTES
    page = check_page(text, language, scripted=True)
    shown = shown_steps(tiled, texts)
    assert [number for each in shown for number in range(each.first, each.last + 1)] == [*range(len(tiled.trace.steps))]
    articles = list(page.all("article", class_="step"))
    assert len(articles) == len(shown)
    for article, each in zip(articles, shown, strict=True):
        assert "hidden" not in article.attributes
        assert [link.text for link in article.one("h3").all("a")] == [
            f"{file.rsplit('/', 1)[-1]}:{line}" for file, line in each.lines
        ]
        said = texts(f"kernel.{each.kind}", count=each.count, threads=each.threads, instructions=each.instructions)
        assert f"{said} {each.waits}".strip() in (paragraph.text for paragraph in article.all("p"))
        assert len([*article.all("li")]) == len(each.touched)
        assert len([*article.all("img")]) == len(each.pictures) >= 1
    data = json.loads(page.one("script", id="data").raw)
    assert len(data["steps"]) == len(shown)
    assert "hidden" in page.one(id="controls").attributes


def test_sectors_and_passes_add_up_to_the_observers_counts(tiled):
    shown = shown_steps(tiled, catalogue("en"))
    for space, counted in (("global", tiled.report.global_accesses), ("shared", tiled.report.shared_accesses)):
        mine = [one for each in shown for one in each.touched if one.space == space]
        assert sum(one.units for one in mine) == sum(each.units for each in counted) > 0
        assert sum(one.least_units for one in mine) == sum(each.least_units for each in counted)


def test_each_element_of_the_result_has_the_colour_of_its_thread(tiled):
    """In `tiled` with tiles of 16, thread (x, y) computes element (y, x)."""
    (picture,) = kernel_steps.owners(tiled)
    found = pixels(picture.uri)
    assert found.shape == (8, 6, 3)
    for (i, j), thread in {(i, j): 16 * i + j for i in range(8) for j in range(6)}.items():
        assert owner(found[i, j]) == thread % 160


def test_a_tile_load_shows_its_elements_and_its_sectors():
    found = explain_case(case("naive"), "cupy")
    loads = [one for each in shown_steps(found, catalogue("en")) for one in each.touched if one.kind == "load"]
    loads.sort(key=lambda one: one.name)
    assert [one.name for one in loads] == ["delta_next", "saved", "w_next"]
    assert [one.where for one in loads] == ["[0–7, 0–9]", "[0–7, 0–5]", "[0–9, 0–5]"]
    assert [one.instructions for one in loads] == [10, 1, 10]


def test_bank_conflicts_have_colours():
    kernel = cp.RawKernel(
        r"""
extern "C" __global__ void column(float *x) {
    __shared__ float s[32][32];
    s[threadIdx.x][0] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = s[0][threadIdx.x];
}""",
        "column",
    )
    found = explain.kernel(kernel, 1, 32, (cp.zeros(32, np.float32),))
    store = next(
        each
        for each in shown_steps(found, catalogue("en"))
        if any(o.kind == "store" and o.space == "shared" for o in each.touched)
    )
    picture = pixels(next(each.uri for each in store.pictures if each.name.startswith("s ")))
    assert (picture[:, 0] == kernel_steps.CONFLICTS[3]).all()
    assert (picture[:, 1:] == kernel_steps.BLANK).all()


def test_copies_on_their_way_are_marked_until_they_arrive():
    found = explain_case(case("pipelined"), "cupy")
    begun = used = False
    for each in shown_steps(found, catalogue("en")):
        for picture in each.pictures:
            if not picture.name.startswith("stages"):
                continue
            waiting = (pixels(picture.uri) == kernel_steps.PENDING).all(axis=2)
            if any(one.kind == "async" for one in each.touched):
                begun = True
                assert waiting.any()
            used |= any(one.kind == "load" and one.space == "shared" for one in each.touched)
    assert begun
    assert used


def test_a_barrier_says_whom_it_waits_for():
    source = r"""
extern "C" __global__ void parted(float *x) {
    int i = threadIdx.x;
    if (i < 32) {
        x[i] = 1;
        asm volatile("bar.sync 0;" ::: "memory");
    } else {
        x[i] = 2;
        x[i + 64] = 3;
        asm volatile("bar.sync 0;" ::: "memory");
    }
}"""
    x = cp.zeros(128, np.float32)
    found = explain.kernel(cp.RawKernel(source, "parted"), 1, 64, (x,))
    arrive = [each for each in shown_steps(found, catalogue("en")) if each.kind == "arrive"]
    first, last = ("0–31", "32–63") if arrive[0].threads == "0–31" else ("32–63", "0–31")
    assert [(each.threads, each.waits) for each in arrive] == [
        (first, f"They wait for threads {last}."),
        (last, "Nobody is missing."),
    ]


def test_a_deadlock_opens_at_the_barrier_that_waits_in_vain():
    source = r"""
extern "C" __global__ void vain(float *x) {
    int i = threadIdx.x;
    if (i < 32)
        asm volatile("bar.sync 0, 64;" ::: "memory");
    else
        x[i] = 1;
}"""
    x = cp.zeros(64, np.float32)
    found = explain.kernel(cp.RawKernel(source, "vain"), 1, 64, (x,), arrays={"x": x})
    (trouble,) = found.troubles
    assert "deadlock" in trouble.message
    shown = next(each for each in shown_steps(found, catalogue("en")) if each.first <= trouble.step <= each.last)
    assert (shown.kind, shown.threads) == ("arrive", "0–31")
    assert shown.waits == "They wait for threads 32–63, which never come."


@pytest.mark.parametrize("variant", ["naive", "blocked", "pipelined"])
def test_pages_of_the_default_shape_are_small(variant):
    found = explain_case(case(variant), "cupy")
    assert found.troubles == ()
    text = kernel_page(found, catalogue("en"), "gpubp explain kernel")
    check_page(text, scripted=True)
    assert len(text.encode()) < MOST_BYTES


def test_bytes_of_shared_memory_are_told_from_the_first_to_the_last(tiled):
    loads = [one for each in shown_steps(tiled, catalogue("en")) for one in each.touched if one.space == "shared"]
    # 16 lines of 17 floats, of which nobody needs the last column
    assert {(one.name, one.where) for one in loads if one.kind == "load"} == {
        ("a_tile", f"[0–{4 * (15 * 17 + 16) - 1}]"),
        ("b_tile", f"[0–{4 * (15 * 17 + 16) - 1}]"),
    }


def test_a_race_opens_at_its_step_with_both_parties(tmp_path):
    kernel = cp.RawKernel(
        r"""
extern "C" __global__ void reverse(float *x) {
    __shared__ float s[64];
    int i = threadIdx.x;
    if (blockIdx.x < 2) return;
    s[i] = x[i];
    x[i] = s[63 - i];
}""",
        "reverse",
    )
    x = cp.asarray(np.arange(64, dtype=np.float32))
    found = explain.kernel(kernel, 3, 64, (x,), arrays={"x": x})
    assert found.trace.block == (2, 0, 0)  # not the one that was asked for
    trouble = found.troubles[0]
    assert trouble.thread + trouble.other_thread == 63
    assert found.trace.steps[trouble.step].line[1] == 7
    assert found.trace.steps[trouble.other_step].line[1] == 6
    np.testing.assert_array_equal(x.get(), np.arange(63, -1, -1))  # run twice, from the same beginning
    found.save(tmp_path / "race.html")
    page = check_page((tmp_path / "race.html").read_text(encoding="utf-8"), scripted=True)
    bad, other = page.one("article", class_="step bad"), page.one("article", class_="step other")
    assert bad.one("p", class_="mark").text == other.one("p", class_="mark").text == trouble.message
    assert page.one(id="sides").attributes["data-opens"] == bad.attributes["id"].removeprefix("step-")
    for article, thread in ((bad, trouble.thread), (other, trouble.other_thread)):
        threads = pixels(next(article.all("img")).attributes["src"]).reshape(-1, 3)
        assert np.flatnonzero((threads == kernel_steps.PARTY).all(axis=1)).tolist() == [thread]


@pytest.mark.parametrize(
    ("body", "line", "text"),
    [
        ("if (i <= n) x[i] = 1;", 4, "access out of bounds"),
        (
            "__shared__ float s[64]; if (i != 5) s[i] = 0; __syncthreads(); if (i < n) x[i] = s[i];",
            4,
            "nothing has written",
        ),
        ('if (i < 32) __syncthreads(); else asm volatile("trap;");', 4, "trap"),
    ],
)
def test_other_mistakes_open_at_their_step(body, line, text):
    source = f"""
extern "C" __global__ void wrong(int n, float *x) {{
    int i = threadIdx.x;
    {body}
}}"""
    x = cp.zeros(60, np.float32)
    found = explain.kernel(cp.RawKernel(source, "wrong"), 1, 64, (60, x), arrays={"x": x})
    assert text in found.troubles[0].message
    assert found.trace.steps[found.troubles[0].step].line[1] == line
    page = check_page(found.page(), scripted=True)
    assert text in page.one(id="verdict").text
    assert len(list(page.all("article", class_="step bad"))) == 1


def test_a_wrong_result_opens_at_the_step_that_wrote_it(monkeypatch):
    """A reference that expects another element: as if the kernel were wrong there."""
    expected = problem_module.Problem.expected.func

    def other(self):
        found = dict(expected(self))
        found["delta"].reference[3, 2] += 1
        return found

    monkeypatch.setattr(problem_module.Problem, "expected", property(other))
    found = explain_case(case("naive"), "cupy")
    (trouble,) = found.troubles
    assert trouble.thread == 3 * 32 + 2
    stores = [a.kind for a in found.trace.steps[trouble.step].accesses if a.space == "global"]
    assert "store" in stores


def test_a_numba_kernel_of_ones_own():
    @cuda.jit
    def double(x, y):
        i = cuda.grid(1)
        if i < x.size:
            y[i] = 2 * x[i]

    x, y = cp.ones(50, np.float32), cp.zeros(50, np.float32)
    found = explain.kernel(double, 2, 32, (x, y), arrays={"x": x, "y": y}, trace=(1, 0, 0), warp=0)
    assert found.troubles == ()
    assert y.get().tolist() == [2.0] * 50
    touched = [one for each in shown_steps(found, catalogue("en")) for one in each.touched]
    assert [(one.kind, one.name, one.where) for one in touched] == [("load", "x", "[32–49]"), ("store", "y", "[32–49]")]
    assert "y[i] = 2 * x[i]" in found.page()


def test_a_primitive_of_the_numba_backend():
    found = explain_case(measured("bias_gradient", (8, 6), "float32"), "numba")
    assert found.troubles == ()
    assert any(
        line[0].endswith("bias_gradient.py") for each in shown_steps(found, catalogue("en")) for line in each.lines
    )


def test_a_long_trace_is_shown_around_its_first_mistake(monkeypatch):
    monkeypatch.setattr(kernel_steps, "MOST_SHOWN", 3)
    source = r"""
extern "C" __global__ void late(float *x) {
    int i = threadIdx.x;
    __shared__ float s[32];
    s[i] = x[i];
    __syncthreads();
    x[i] = s[31 - i];
    __syncthreads();
    x[i + 1] = 2;
}"""
    x = cp.zeros(32, np.float32)
    found = explain.kernel(cp.RawKernel(source, "late"), 1, 32, (x,), arrays={"x": x})
    page = check_page(found.page(), scripted=True)
    assert len(list(page.all("article"))) == 3
    assert page.one("article", class_="step bad")
    assert not list(page.all("p", class_="missing"))  # its end is there


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kernel": len}, "kernel was <built-in function len>; it must be a kernel of gpubp.emulator"),
        ({"arrays": {"x": np.zeros(3)}}, r"arrays\['x'\] was .*; it must be an array of gpubp.emulator"),
        ({"arrays": [1]}, r"arrays was \[1\]; it must be arrays by name"),
        ({"shared_mem": -1}, "shared_mem was -1"),
        ({"trace": 1}, "trace was 1; it must be the index of a block"),
        ({"trace": (0, -1, 0)}, r"trace\[1\] was -1; it must be a whole number ≥ 0"),
        ({"trace": (1, 0, 0)}, r"trace is \(1, 0, 0\); it must be in the grid of a launch"),
        ({"warp": 32}, "warp was 32"),
        ({"warp": 1}, "warp is 1; it must be in the block, which has 32 threads"),
    ],
)
def test_wrong_arguments_are_refused(change, text):
    x = cp.zeros(32, np.float32)
    kernel = cp.RawKernel('extern "C" __global__ void none(float *x) {}', "none")
    given = {"kernel": kernel, "grid": 1, "block": 32, "args": (x,), "arrays": {"x": x}, **change}
    with pytest.raises(ArgumentError, match=text):
        explain.kernel(**given)


def test_an_array_that_is_not_contiguous_is_refused():
    x = cp.zeros((4, 8), np.float32)
    kernel = cp.RawKernel('extern "C" __global__ void none(float *x) {}', "none")
    with pytest.raises(ArgumentError, match=r"has strides .*; it must be C-contiguous"):
        explain.kernel(kernel, 1, 32, (x,), arrays={"x": x[:, ::2]})


def test_the_ladder_side_by_side():
    found = rungs(case("naive"), "cupy")
    naive, tiled, blocked, pipelined = found
    assert [each.variant for each in found] == ["naive", "tiled", "blocked", "pipelined"]
    assert {each.shape for each in found} == {(64, 64, 64)}
    # two factors for each multiply-add; one of 64 for σ'; a tile of 16 fetches each element for 16 threads
    assert naive.global_loads == 2 + 1 / 64
    assert tiled.global_loads == 2 / 16 + 1 / 64
    assert (naive.shared_loads, tiled.shared_loads) == (0, 2)
    assert blocked.shared_loads < 1
    assert naive.sectors > tiled.sectors > blocked.sectors
    assert pipelined.passes < tiled.passes
    text = kernel_page(explain_case(case("naive"), "cupy"), catalogue("en"), "gpubp explain kernel", found)
    page = check_page(text, scripted=True)
    assert len(list(page.one(id="ladder").all("svg"))) == 4
    assert page.one(id="ladder").one("table").cells[1] == ["naive", "2.016", "0", str(naive.sectors), "0"]
