"""The words of the pages and of the terminal, in each language: a file of texts by key, texts/LANGUAGE.toml."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpubp.errors import unknown_name
from gpubp.files import read_toml

TEXTS = Path(__file__).with_name("texts")
LANGUAGES = ("en", "es")


class Catalogue:
    """The texts of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.texts = dict(_flat(read_toml(TEXTS / f"{language}.toml")))

    def __call__(self, key: str, **values: Any) -> str:
        """Return the text of a key, such as "network.title", with these values put in."""
        return self.texts[key].format(**values)


@functools.cache
def catalogue(language: str) -> Catalogue:
    """Return the texts of a language. Raises ArgumentError if there are none."""
    if language not in LANGUAGES:
        raise unknown_name("language", language, LANGUAGES)
    return Catalogue(language)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
