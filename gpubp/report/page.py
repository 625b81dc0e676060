"""What all pages share: the templates, tables and pictures. Everything that is shown is escaped.

A page loads nothing: style and pictures are inside it, and it needs no script.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from rich.table import Table as RichTable

_PLACE = re.compile(r"[\w.]+:\d+")
TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        headers: of the columns; empty if the first cell of each row is the row's header.
        rows: cells, row by row.
        numeric: True for each column of numbers.
        caption: the title, or "".
        marked: numbers of the rows that stand out, such as failures.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    caption: str = ""
    marked: frozenset[int] = frozenset()

    @classmethod
    def of(cls, table: RichTable, caption: str | None = None) -> Table:
        """Return the table that a verb prints, so that page and terminal say the same.

        Args:
            table: what the verb prints.
            caption: replaces the table's title; None keeps it.
        """
        columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
        return cls(
            headers=tuple(_plain(column.header) for column in table.columns) if table.show_header else (),
            rows=tuple(zip(*columns, strict=True)),
            numeric=tuple(column.justify == "right" for column in table.columns),
            caption=_plain(table.title or "") if caption is None else caption,
            marked=frozenset(number for number, row in enumerate(table.rows) if row.style == "red"),
        )


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page, with a text (`alt`) for those who cannot see it."""

    png: bytes
    alt: str

    @property
    def uri(self) -> str:
        """Return the picture as a data URI."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def picture(draw: Callable[[IO[bytes]], None], alt: str) -> Picture:
    """Return what `draw` writes to a file as a picture."""
    file = io.BytesIO()
    draw(file)
    return Picture(file.getvalue(), alt)


def linked(text: str, links: Mapping[str, str]) -> Markup:
    """Return the text with a link at each place in a source, such as "runs.cuh:104", that has an anchor in `links`."""
    from markupsafe import Markup, escape

    def link(match: re.Match[str]) -> str:
        place = match[0]
        return Markup('<a href="#{}">{}</a>').format(links[place], place) if place in links else place

    return Markup(_PLACE.sub(link, str(escape(text))))


def render(template: str, folder: Path = TEMPLATES, **values: Any) -> str:
    """Return the page that a template makes of these values.

    folder: of the template, which finds those of the reports as well.
    """
    return _environment(folder).get_template(template).render(**values)


def finite(values: Any) -> Any:
    """Return nested lists and dictionaries as JSON can hold them: a number that is not finite becomes None."""
    if isinstance(values, dict):
        return {str(key): finite(value) for key, value in values.items()}
    if isinstance(values, Sequence) and not isinstance(values, str):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


@functools.cache
def _environment(folder: Path = TEMPLATES) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["linked"] = linked
    made.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    made.policies["json.dumps_kwargs"] = {"allow_nan": False}
    return made


def _plain(cell: Any) -> str:
    """Return the text of a cell without its style."""
    from rich.text import Text

    return cell.plain if isinstance(cell, Text) else str(cell)
