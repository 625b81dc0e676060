"""The console: strings are text, whoever wrote them."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from gpubp.terminal import PlainConsole, progress


def console(terminal=False):
    return PlainConsole(file=io.StringIO(), width=60, force_terminal=terminal, color_system=None)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("[/]", "[/]"),
        ("[bold]x[/bold]", "[bold]x[/bold]"),
        ("[link=file:///etc]", "[link=file:///etc]"),
        ("[red", "[red"),
        (":bug:.csv", ":bug:.csv"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("\x9b2J\r", "\\x9b2J\\r"),
        ("\ud800", "\\ud800"),
        ("数 σ", "数 σ"),
    ],
)
def test_strings_are_shown_as_they_are_wherever_they_stand(text, printed):
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    for shown, count in ((text, 1), (table, 4)):
        out = console()
        out.print(shown)
        lines = [line.strip(" │┃┏┓┡┩└┘━─") for line in out.file.getvalue().splitlines()]
        assert [line for line in lines if line] == count * printed.split("\n")


def test_a_style_is_that_of_a_text():
    out = PlainConsole(file=io.StringIO(), force_terminal=True, color_system="standard")
    out.print(Text("works", "green"))
    assert out.file.getvalue() == "\x1b[32mworks\x1b[0m\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_in_a_terminal_and_nowhere_else(terminal):
    out = console(terminal)
    with progress(out, "starting") as show:
        show("step [/] of a\x07: 3 of 7 cases")
    assert out.file.getvalue().count("step [/] of a\\x07: 3 of 7 cases") == terminal
