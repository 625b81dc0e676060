"""The frame of a page, its tables and its pictures; and that the checks of pages see what is wrong."""

import json

import pytest
from rich.table import Table as RichTable
from rich.text import Text

from gpubp.report.page import Picture, Table, finite, picture, render

HOSTILE = "</script></table><script>alert(1)</script> \"quoted\" & 'so' {{ 7 * 7 }} 100 % \u2028"


def page(**values):
    given = {"title": "A page", "version": "1.2", "made": "today", "command": "gpubp report", "data": {}} | values
    return render("page.html", **given)


def content(text):
    """A page whose content is this."""
    return page().replace("<main>\n", f"<main>\n<h1>A page</h1>{text}")


def test_the_frame_stands_alone(check_page):
    check_page(content("<p>text</p>"))


@pytest.mark.parametrize("name", ["title", "version", "made", "command"])
def test_what_is_shown_is_escaped(check_page, name):
    text = page(**{name: HOSTILE}).replace("<main>", "<main><h1>A page</h1>")
    found = check_page(text)
    assert len(list(found.all("script"))) == 1
    shown = " ".join(
        [found.one("head").text, found.one("footer").text, found.one("meta", name="generator").attributes["content"]]
    )
    assert " ".join(HOSTILE.split()) in shown


def test_the_data_come_back_as_they_were(check_page):
    data = {"hostile": HOSTILE, "numbers": [1, 2.5, None, True], "nested": {"é": "∂"}}
    found = check_page(page(data=data).replace("<main>", "<main><h1>A page</h1>"))
    assert json.loads(found.one("script", id="data").raw) == data


def test_json_has_no_number_that_is_none():
    with pytest.raises(ValueError, match="not JSON compliant"):
        page(data={"share": float("inf")})
    assert finite({"a": [1.5, float("nan")], "b": (float("-inf"), "x")}) == {"a": [1.5, None], "b": [None, "x"]}


def test_a_value_that_a_template_lacks_is_an_error():
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="command"):
        render("page.html", title="A page", version="1", made="today", data={})


def shown(table, check_page):
    """A page with the table alone."""
    from gpubp.report.page import _environment

    text = _environment().from_string('{% from "parts.html" import table %}{{ table(it) }}').render(it=table)
    return check_page(content(text)).one("table")


def test_a_table_says_what_the_terminal_says(check_page):
    rich = RichTable(title="times")
    rich.add_column(Text("shape", "bold"))
    rich.add_column("median", justify="right")
    rich.add_row(Text("64x64", "green"), "1.5 µs")
    rich.add_row("<b>", "[sic]", style="red")
    rich.add_row("[/]", "")
    table = Table.of(rich)
    assert table.headers == ("shape", "median")
    assert table.rows == (("64x64", "1.5 µs"), ("<b>", "[sic]"), ("[/]", ""))
    found = shown(table, check_page)
    assert found.cells == [["shape", "median"], ["64x64", "1.5 µs"], ["<b>", "[sic]"], ["[/]", ""]]
    assert found.one("caption").text == "times"
    assert [cell.attributes.get("class") for cell in found.all("td")] == ["number"] * 3
    assert [row.attributes.get("class") for row in found.all("tr")] == [None, None, "marked", None]
    assert {cell.attributes["scope"] for cell in found.one("thead").all("th")} == {"col"}


def test_a_table_without_a_head_has_its_headers_in_front(check_page):
    rich = RichTable(show_header=False)
    rich.add_column()
    rich.add_column()
    rich.add_row("CPU", "one")
    found = shown(Table.of(rich), check_page)
    assert list(found.all("thead")) == []
    assert found.one("th").attributes["scope"] == "row"


def test_a_wide_table_scrolls_in_a_box_that_keys_reach():
    from gpubp.report.page import _environment

    text = (
        _environment()
        .from_string('{% from "parts.html" import table %}{{ table(it) }}')
        .render(it=Table(("a",), (("1",),), (False,)))
    )
    assert '<div class="scroll" tabindex="0"' in text


def test_a_picture_is_inside():
    drawn = picture(lambda file: file.write(b"\x89PNG..."), "a line")
    assert drawn == Picture(b"\x89PNG...", "a line")
    assert drawn.uri == "data:image/png;base64,iVBORy4uLg=="


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<p>open", "closes <p>"),
        ("<b><i></b></i>", "closes <i>"),
        ('<img src="http://example.org/x.png" alt="x">', "loads"),
        ('<img src="x.png" alt="x">', "loads"),
        ('<p onclick="go()">x</p>', "is a script"),
        ("<script>go()</script>", "type"),
        ('<p id="a"></p><p id="a"></p>', "an id is given twice"),
        ('<a href="#nowhere">x</a>', "a link leads nowhere"),
        ('<img src="data:image/png;base64,AA==" alt=" ">', "assert"),
        ("<table><tr><td>1</td></tr></table>", "without headers"),
        ("<table><tr><th>1</th></tr><tr><td>1</td><td>2</td></tr></table>", "cells"),
        ('<link href="#x" rel="stylesheet">', "assert"),
        ("<style>p { background: url(x.png) }</style>", "assert"),
    ],
)
def test_the_check_of_a_page_sees_what_is_wrong(check_page, text, message):
    with pytest.raises((AssertionError, KeyError), match=message):
        check_page(content(text))
