"""The console that every verb prints to, and the line that says what goes on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.text import Text

from gpubp.errors import printable


class PlainConsole(Console):
    """A console that shows strings as they are: "[/]" and ":bug:" are text, and what a terminal would obey is escaped.

    Names of files, classes and columns are somebody else's. What is to have a style is a `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text for the terminal: all strings come through here, cells and titles of tables too."""
        return super().render_str(printable(text), **options)


@contextmanager
def progress(console: Console, beginning: str) -> Iterator[Callable[[str], None]]:
    """Show the last line that the yielded function was given, in a terminal; elsewhere nothing."""
    if not console.is_terminal:
        yield lambda line: None
        return
    with console.status(Text(beginning)) as status:
        yield lambda line: status.update(Text(printable(line)))
