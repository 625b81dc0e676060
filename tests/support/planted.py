"""Kernels with a mistake, made of the text of right ones, and which line that is on."""

from __future__ import annotations

import gpubp.emulator as cp


def line_of(text: str, source: str) -> int:
    """Return the number of the one line of a source that holds a text."""
    found = [number for number, line in enumerate(source.splitlines(), 1) if text in line]
    assert len(found) == 1, found
    return found[0]


def changed(source: str, old: str, new: str) -> tuple[cp.RawModule, str]:
    """Return the kernels of a source with a mistake, and their source."""
    assert source.count(old) == 1
    source = source.replace(old, new)
    return cp.RawModule(code=source), source
