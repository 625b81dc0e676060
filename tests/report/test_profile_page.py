"""The page of a profile: its source line by line, with what each line executes."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gpubp.kernels
from gpubp.cli import app
from gpubp.profiler.annotated_source import Row
from gpubp.report.profile_page import tint

KERNELS = Path(gpubp.kernels.__file__).parent


def test_the_tint_grows_with_what_a_line_executes():
    rows = [Row(number, "", "", {"FMA": number}) for number in (0, 1, 50, 100)]
    tints = [tint(100)(row) for row in rows]
    assert tints[0] == ""
    assert 0 < float(tints[1]) < float(tints[2]) < float(tints[3]) < 1


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What `gpubp profile --html` writes of a small kernel."""
    out = tmp_path_factory.mktemp("page") / "profile.html"
    arguments = ["profile", "transpose_product", "--shape", "40x48x32", "--variant", "tiled", "--html", str(out)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_of_a_kernel(page, check_page):
    found = check_page(page)
    data = json.loads(found.one("script", id="data").raw)
    assert data["workload"]["shape"] == [40, 48, 32]
    assert found.one("h1").text.startswith("transpose_product 40×48×32, float32")
    assert data["limiter"] in found.one("section", id="limiter").text
    assert "A model, not a measurement" in found.one("section", id="limiter").text
    figures = found.one("section", id="figures")
    assert "registers a thread" in figures.text
    assert "Roofline of H100 SXM" in figures.one("img").attributes["alt"]


@pytest.mark.slow
def test_every_line_of_every_file_is_there_with_its_counts(page, check_page):
    found = check_page(page)
    (kernel,) = json.loads(found.one("script", id="data").raw)["kernels"]
    section = found.one("section", id="source")
    names = [heading.text for heading in section.all("h3")]
    tables = list(section.all("table"))
    assert {Path(line["file"]).name for line in kernel["counts"]["lines"]} == {Path(name).name for name in names}
    for name, table in zip(names, tables, strict=True):
        text = (KERNELS.parent / name).read_text(encoding="utf-8")
        assert [cell.raw for cell in table.all("td") if "code" in cell.attributes.get("class", "")] == text.splitlines()
    executed = sum(sum(line["instructions"].values()) for line in kernel["counts"]["lines"])
    titles = [cell.attributes["title"] for table in tables for cell in table.all("tr") if "title" in cell.attributes]
    shown = [int(number.replace(",", "")) for title in titles for number in re.findall(r" ([\d,]*\d)(?=, |$)", title)]
    assert sum(shown) == executed


@pytest.mark.slow
def test_the_lines_that_cause_most_are_links(page, check_page):
    found = check_page(page)
    links = list(found.one("section", id="figures").all("a"))
    assert links
    for link in links:
        row = found.one("tr", id=link.attributes["href"][1:])
        assert row.one("th").text == link.text.rsplit(":", 1)[1]
        assert "background" in row.attributes["style"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--html", "x.png"], "--html was 'x.png'; it must be a file name that ends in .html"),
        (["--html", "no/x.html"], "it must be in a folder that exists"),
        (["--html", "x.html", "--compare"], "--html and --compare exclude each other"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_runs(arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gpubp.profiler.profile_command._profiled", lambda *given: pytest.fail("it ran"))
    done = CliRunner().invoke(app, ["profile", "transpose_product", *arguments])
    assert done.exit_code == 2
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []
