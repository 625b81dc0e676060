"""Findings that somebody has looked at and takes for intended: by a comment in the kernel, or by a file.

A comment on the finding's line, or on a line of its own above it, names the kind and may give a reason:

    found = true;  // gpubp: same-value race intended: whoever finds it says so

A file (TOML) has one table a suppression, with the reason and any of kind, kernel (with * and ?), file and line:

    [[suppress]]
    kernel = "breadth_first*"
    file = "search.cu"
    line = 41
    kind = "race"
    reason = "the level is reached either way"
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpubp.emulator.observe.findings import KINDS, Finding
from gpubp.errors import ArgumentError, shown, unknown_name

_COMMENT = re.compile(rf"(?://|#).*\bgpubp:\s*({'|'.join(map(re.escape, KINDS))})\s+intended(?:\s*:\s*(.*))?\s*$")
_TYPES = {"kind": str, "kernel": str, "file": str, "line": int, "reason": str}


@dataclass(frozen=True)
class Suppression:
    """One table of a file; what is None is any."""

    reason: str
    kind: str | None = None
    kernel: str | None = None
    file: str | None = None
    line: int | None = None

    def covers(self, finding: Finding) -> bool:
        """Return True if the finding is of this kind and place."""
        own = None if finding.location is None else finding.location.own
        return (
            self.kind in (None, finding.kind)
            and (self.kernel is None or fnmatch.fnmatchcase(finding.kernel, self.kernel))
            and (self.file is None or (own is not None and f"/{own.file}".endswith(f"/{self.file}")))
            and (self.line is None or (own is not None and own.line == self.line))
        )


def load(path: str | Path) -> list[Suppression]:
    """Return the suppressions of a TOML file.

    Raises:
        OSError: the file cannot be read.
        ArgumentError: it is no such file; names the table and the key.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ArgumentError("suppressions", str(path), "a regular file")
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ArgumentError("suppressions", str(path), "a TOML file", shown(error)) from None
    except RecursionError:
        raise ArgumentError("suppressions", str(path), "a TOML file that is not nested so deeply") from None
    found = tables.get("suppress", [])
    if set(tables) - {"suppress"} or not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ArgumentError("suppressions", str(path), "a file of tables [[suppress]]")
    return [_suppression(table, number) for number, table in enumerate(found, 1)]


def _suppression(table: Mapping[str, object], number: int) -> Suppression:
    for key, value in table.items():
        if key not in _TYPES:
            raise unknown_name(f"key of suppression {number}", key, _TYPES)
        if not isinstance(value, _TYPES[key]) or isinstance(value, bool):
            expected = "a number" if _TYPES[key] is int else "text"
            raise ArgumentError(f"{key} of suppression {number}", value, expected)
    if not str(table.get("reason", "")).strip():
        raise ArgumentError(f"reason of suppression {number}", table.get("reason"), "said")
    if "kind" in table and table["kind"] not in KINDS:
        raise unknown_name(f"kind of suppression {number}", str(table["kind"]), KINDS)
    return Suppression(**table)  # type: ignore[arg-type]


def line_of(source: str, finding: Finding) -> str:
    """Return the source's line that a finding is at, "" if there is none."""
    lines = source.splitlines()
    return lines[finding.line - 1].strip() if finding.line is not None and 1 <= finding.line <= len(lines) else ""


def reason_in(source: str, finding: Finding) -> str | None:
    """Return the reason that the source's comments give for a finding, "intended" if they give none, or None."""
    lines = source.splitlines()
    line = finding.line
    if line is None or not 1 <= line <= len(lines):
        return None
    above = lines[line - 2].strip() if line > 1 else ""
    for text in (lines[line - 1], above if above.startswith(("//", "#")) else ""):
        match = _COMMENT.search(text)
        if match is not None and match[1] == finding.kind:
            return match[2] or "intended"
    return None
