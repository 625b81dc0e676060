"""Reading a page as a browser would: its elements, nested as they must be."""

import base64
import struct
import zlib
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np
import pytest

MOST_BYTES = 2_000_000
"""Of a page that explains something."""

VOID = {"meta", "img", "br", "hr", "link", "input"}


@dataclass
class Element:
    """An element, its attributes, and what is in it: elements and text, in order."""

    tag: str
    attributes: dict[str, str]
    children: list = field(default_factory=list)

    def all(self, tag=None, **attributes):
        """The elements below with this tag and these attributes, in the page's order; `class_` stands for class."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        for child in self.children:
            if isinstance(child, Element):
                if (tag is None or child.tag == tag) and wanted.items() <= child.attributes.items():
                    yield child
                yield from child.all(tag, **attributes)

    def one(self, tag=None, **attributes):
        """The only one."""
        (found,) = self.all(tag, **attributes)
        return found

    @property
    def text(self):
        """All text in it, spaces and line ends folded."""
        return " ".join(self.raw.split())

    @property
    def raw(self):
        """All text in it, as it stands there."""
        return "".join(child if isinstance(child, str) else child.raw for child in self.children)

    @property
    def cells(self):
        """Of a table, the text of its cells by row."""
        return [[cell.text for cell in row.all() if cell.tag in ("th", "td")] for row in self.all("tr")]


class _Builder(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Element("#root", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice: {names}"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}> in line {self.getpos()[0]}"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parse(text):
    """The page as elements. Fails where one is not closed, closed in another's place, or has an id of another."""
    builder = _Builder()
    builder.feed(text)
    builder.close()
    assert [element.tag for element in builder.open] == ["#root"], "an element is not closed"
    ids = [element.attributes["id"] for element in builder.root.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids)), f"an id is given twice: {ids}"
    return builder.root


def check_page(text, language="en", scripted=False):
    """The page as elements, once it is shown to be one that stands alone. `scripted`: it may have a script."""
    assert text.startswith("<!DOCTYPE html>")
    page = parse(text)
    assert page.one("html").attributes["lang"] == language
    assert "width=device-width" in page.one("meta", name="viewport").attributes["content"]
    assert page.one("head").one("title").text
    assert page.one("h1").text
    for element in page.all():
        for name, value in element.attributes.items():
            assert not name.startswith("on"), f"<{element.tag} {name}> is a script"
            if name in ("src", "href", "srcset", "data", "poster", "action"):
                assert value.startswith(("data:image/", "#")), f"<{element.tag} {name}> loads {value[:60]}"
    assert {element.tag for element in page.all()}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    for style in page.all("style"):
        assert "url(" not in style.raw
        assert "@import" not in style.raw
    for script in page.all("script"):
        assert script.attributes.get("type") == "application/json" or scripted, "a script that runs"
    targets = {element.attributes["href"][1:] for element in page.all("a")}
    assert targets <= {element.attributes.get("id") for element in page.all()}, "a link leads nowhere"
    for image in page.all("img"):
        assert image.attributes["alt"].strip()
    for table in page.all("table"):
        widths = {len(row) for row in table.cells}
        assert len(widths) == 1, f"rows of {sorted(widths)} cells"
        assert list(table.all("th")), "a table without headers"
    return page


def pixels(uri):
    """Width, height and pixels of a PNG in a data URI."""
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    at = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    raw = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + size]), np.uint8).reshape(height, 1 + 3 * width)
    return raw[:, 1:].reshape(height, width, 3).astype(int)


@pytest.fixture(name="check_page")
def _check_page():
    return check_page
