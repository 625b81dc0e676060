"""The report of a program as an HTML page that is complete in itself: it loads nothing, and needs no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from gpubp.emulator.observe.findings import Finding
from gpubp.emulator.run.reports import Outcome

_STYLE = """
body { margin: 0 auto; max-width: 70rem; padding: 1rem; color: #1d2125; font: 16px/1.5 system-ui, Arial, sans-serif; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1.5rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid #d5dae0; }
code, pre { font: .875em/1.45 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { margin: .25rem 0; padding: .25rem .5rem; background: #f4f6f8; white-space: pre-wrap; }
.number { text-align: right; white-space: nowrap; }
.error { color: #b3261e; font-weight: 600; }
.soft { color: #5a6570; }
"""


def page(outcome: Outcome) -> str:
    """Return the report of a program as HTML."""
    report, escape = outcome.report, html.escape
    parts = [f"<h1>{escape(outcome.summary())}</h1>", f"<p><code>{escape(' '.join(outcome.command))}</code></p>"]
    if report.findings:
        rows = "\n".join(map(_finding_row, report.findings))
        parts.append(
            "<table>\n<caption>Findings</caption>\n<thead><tr><th scope=col>grade<th scope=col>kind"
            f"<th scope=col class=number>times<th scope=col>what</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
        )
    # The tables that the terminal shows, but for the findings, which here have their lines of code.
    parts += [_table(each) for each in list(report.tables())[1:]]
    processes = [
        (str(each.pid), each.arch, f"{sum(each.launches.values()):,}", " ".join(each.command))
        for each in outcome.processes
    ]
    parts.append(_plain_table("Processes", ("number", "chip", "launches", "command"), processes))
    body = "\n".join(f'<div class="scroll">\n{part}\n</div>' if part.startswith("<table") else part for part in parts)
    data = outcome.json().replace("</", "<\\/")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(outcome.summary())}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n"
        '<p class="soft">All of it stands in this file as JSON too, in its element <code>script#data</code>. It is '
        "what the emulator finds in the PTX: it does not see the machine code, and measures no time.</p>\n"
        f'<script type="application/json" id="data">\n{data}</script>\n</body>\n</html>\n'
    )


def _finding_row(finding: Finding) -> str:
    escape = html.escape
    code = f"<pre>{escape(finding.code)}</pre>" if finding.code else ""
    return (
        f'<tr><td class="{finding.grade}">{finding.grade}<td>{escape(finding.kind)}<td class=number>{finding.count:,}'
        f"<td>{escape(finding.message)}{code}</tr>"
    )


def _table(table: Any) -> str:
    """Return a table of Rich as HTML."""
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    return _plain_table(
        str(table.title),
        [str(column.header) for column in table.columns],
        list(zip(*cells, strict=True)),
        [column.justify == "right" for column in table.columns],
    )


def _plain_table(
    caption: str, headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool] = ()
) -> str:
    kinds = [" class=number" if each else "" for each in numeric] or [""] * len(headers)
    head = "".join(f"<th scope=col{kind}>{html.escape(text)}" for kind, text in zip(kinds, headers, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{html.escape(cell)}" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f"<table>\n<caption>{html.escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )
