"""The page of one step: every step is there with the reference's numbers, in both languages, and nothing is loaded."""

import json

import numpy as np
import pytest
from pages import MOST_BYTES, check_page, pixels

from gpubp import Network
from gpubp.explain import drawing
from gpubp.explain.catalogue import LANGUAGES, catalogue
from gpubp.explain.equations import number
from gpubp.explain.network_equations import kernel_line, notation, steps
from gpubp.explain.network_page import network_page
from gpubp.explain.network_step import default_example, one_step


def made(sizes, **options):
    options = {"hidden_activation": "sigmoid", "output_activation": "sigmoid", "loss": "half_squared_error", **options}
    return one_step(Network(sizes, dtype="float64", backend="numpy", **options), *default_example(sizes))


@pytest.fixture(scope="module")
def step():
    return made((2, 3, 1))


@pytest.fixture(scope="module", params=LANGUAGES)
def page(step, request):
    text = network_page(step, notation("w"), catalogue(request.param), "gpubp explain network")
    assert len(text.encode()) < MOST_BYTES
    found = check_page(text, request.param, scripted=True)
    found.texts = catalogue(request.param)
    return found


def values(element):
    return [float(each.attributes["data-value"]) for each in element.all("mn") if "data-value" in each.attributes]


def signless(numbers):
    return [abs(float(each)) for each in numbers]


def test_every_step_is_there_with_its_equations(page, step):
    expected = steps(step, notation("w"))
    articles = list(page.all("article", class_="step"))
    assert len(articles) == len(expected) == 10
    assert [each.kind for each in expected] == (
        ["forward"] * 2 + ["loss", "output_delta", "hidden_delta"] + ["gradient"] * 2 + ["update"] * 2 + ["after"]
    )
    for place, (article, each) in enumerate(zip(articles, expected, strict=True), 1):
        title = page.texts(f"step.{each.kind}.title", layer=each.layer)
        assert article.one("h3").text == f"{place}. {title}"
        formulas = list(article.all("math"))
        assert [each.attributes["aria-label"] for each in formulas] == [
            text for equation in each.equations for text in (equation.letters.text(), equation.numbers.text())
        ]
        assert "hidden" not in article.attributes
        assert list(article.all("svg"))


def test_the_numbers_are_those_of_the_reference(page, step):
    articles = list(page.all("article", class_="step"))
    first, second = step.layers
    for article, arrays in (
        (articles[0], (first.w, step.x, first.b, first.z, first.z, first.a)),
        (articles[1], (second.w, first.a, second.b, second.z, second.z, second.a)),
        (articles[4], (second.w.T, second.delta, first.slope, first.incoming, first.slope, first.delta)),
        (articles[7], (first.w, [0.5], first.dw, first.w_after, first.b, [0.5], first.db, first.b_after)),
    ):
        expected = [float(value) for array in arrays for value in np.asarray(array).ravel()]
        shown = [value for formula in article.all("math") for value in values(formula)]
        assert shown == pytest.approx(expected, rel=1e-15)
    assert values(articles[-1]) == [step.loss_before, step.loss_after]


def test_the_drawing_shows_what_is_known_by_then(page, step):
    articles = list(page.all("article", class_="step"))

    def shown(article):
        (picture,) = article.all("svg", class_="network")
        return [each.text for each in picture.all("text") if each.attributes["class"].startswith("value")]

    first, second = step.layers
    assert shown(articles[0]) == [number(each, 3) for each in (*step.x, *first.a)]
    assert shown(articles[1]) == [number(each, 3) for each in (*step.x, *first.a, *second.a)]
    assert shown(articles[3]) == [number(each, 3) for each in second.delta]
    assert shown(articles[4]) == [number(each, 3) for each in (*first.delta, *second.delta)]
    assert shown(articles[-1]) == [number(each, 3) for each in (*step.x, *step.a_after[0], *step.a_after[1])]
    thickest = max(articles[0].all("line"), key=lambda each: float(each.attributes["stroke-width"]))
    assert thickest.one("title").text == number(max((*first.w.ravel(), *second.w.ravel()), key=abs))


def test_each_step_leads_to_the_line_of_its_kernel(page, step):
    for article, each in zip(page.all("article", class_="step"), steps(step, notation("w")), strict=True):
        links = [link for link in article.all("a") if link.attributes["href"].startswith("#kernel-")]
        assert len(links) == len(each.kernels)
        for link, place in zip(links, each.kernels, strict=True):
            path, line = kernel_line(place)
            assert link.text == f"{path.name}:{line}"
            assert link.attributes["href"] == f"#kernel-{place.replace(' ', '-')}"
    for row in page.all("tr", class_="here"):
        assert row.one("td").raw.strip()
    assert len(list(page.all("tr", class_="here"))) == 6


def test_each_neuron_and_weight_has_its_answer(page, step):
    moved = (*step.nodes, *step.weights)
    answers = list(page.all("article", class_="answer"))
    assert len(answers) == len(moved) == 4 + 9
    for answer, each in zip(answers, moved, strict=True):
        backprop, difference = (float(data.attributes["value"]) for data in answer.all("data"))
        assert backprop == each.derivative
        assert difference == each.difference
        assert "hidden" not in answer.attributes
        assert len(list(answer.all("polyline"))) == 2
    targets = {link.attributes["href"][1:] for picture in page.all("svg") for link in picture.all("a")}
    assert targets == {answer.attributes["id"] for answer in answers}


def test_the_page_holds_all_numbers_for_programs(page, step):
    data = json.loads(page.one("script", id="data").raw)
    for layer, found in zip(step.layers, data["layers"], strict=True):
        for name in ("w", "b", "z", "a", "delta", "dw", "w_after"):
            np.testing.assert_array_equal(found[name], getattr(layer, name))
    assert (data["loss_before"], data["loss_after"]) == (step.loss_before, step.loss_after)


def test_what_needs_the_script_is_hidden_without_it(page):
    for name in ("controls", "chooser"):
        assert "hidden" in page.one(id=name).attributes
    assert page.one("noscript").text == page.texts("page.noscript")


def test_a_large_network_is_shown_by_heat_maps():
    step = made((20, 30, 4))
    text = network_page(step, notation("theta"), catalogue("en"), "gpubp explain network")
    assert len(text.encode()) < MOST_BYTES
    page = check_page(text, scripted=True)
    assert not list(page.all("svg", class_="network"))
    assert all(list(article.all("img")) for article in page.all("article", class_="step"))
    first = next(page.all("article", class_="step"))
    a, w, _, _ = first.all("img")
    assert "o⁰, 20" in a.attributes["alt"]
    assert "θ¹, 30×20" in w.attributes["alt"]
    found, values = pixels(w.attributes["src"]), step.layers[0].w
    assert found.shape == (30, 20, 3)
    blue, orange = found[..., 2] > found[..., 0], found[..., 0] > found[..., 2]
    np.testing.assert_array_equal(blue, values > 0)
    np.testing.assert_array_equal(orange, values < 0)


def test_a_heat_map_of_a_huge_array_is_averaged():
    array = np.zeros((300, 200))
    array[:150] = 1
    found = pixels(drawing.heat_map(array))
    assert found.shape == (128, 128, 3)
    assert (found[:63] == found[0, 0]).all()
    assert (found[65:] == 255).all()


def test_colours_say_sign_and_size():
    assert drawing.shade(0.0, 1.0) == "#ffffff"
    assert drawing.shade(1.0, 1.0) == "#1f64ad"
    assert drawing.shade(-1.0, 1.0) == "#c86816"
    assert drawing.shade(np.nan, 1.0) == "#ffffff"


def test_foreign_words_are_escaped(step):
    text = network_page(step, notation("w"), catalogue("en"), "gpubp explain network --out '<script>.html'")
    assert check_page(text, scripted=True).one("footer").one("code").text.endswith("'<script>.html'")
