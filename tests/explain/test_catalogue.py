"""The texts of the pages: every language says everything, and nothing that no page asks for."""

import re
from string import Formatter

import pytest

from gpubp.errors import ArgumentError
from gpubp.explain import catalogue as module
from gpubp.explain.catalogue import LANGUAGES, catalogue


def fields(text):
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_complete(language):
    english, other = catalogue("en").texts, catalogue(language).texts
    assert list(english) == list(other)
    for key, text in english.items():
        assert other[key].strip()
        assert fields(text) == fields(other[key]), key
        if language != "en" and len(text) > 20 and "{" not in text:
            assert other[key] != text, f"{key} is not translated"


def test_every_text_is_used():
    """Keys are written out, but for their last part where it is a name of the code's."""
    package = module.TEXTS.parent
    sources = "".join(
        path.read_text(encoding="utf-8") for path in package.rglob("*") if path.suffix in (".py", ".html")
    )
    asked = set(re.findall(r'"([a-z_]+\.[a-z_.]+)"', sources))
    asked |= {
        f"kernel.{kind}"
        for kind in ("code", "arrive", "open", "load", "store", "atomic", "async", "arrived", "leaves", "product")
    }
    asked |= {f"kernel.{space}_units" for space in ("global", "shared")}
    prefixes = [each for each in re.findall(r'"([a-z_]+\.)(?:"| ?\{)', sources) if each != "kernel."]
    unused = [
        key for key in catalogue("en").texts if key not in asked and not any(key.startswith(each) for each in prefixes)
    ]
    assert unused == []


def test_an_unknown_language_is_refused():
    with pytest.raises(ArgumentError, match="language was 'fr'; it must be one of en, es"):
        catalogue("fr")
