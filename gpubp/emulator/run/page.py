"""The report of a program as an HTML page that is complete in itself: it loads nothing, and needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
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
    report = outcome.report
    tables = [] if not report.findings else [_findings(report.findings)]
    # Those that the terminal shows, but for the findings, which here have their lines of code.
    tables += [_table_of(each) for each in list(report.tables())[1:]]
    processes = [
        (str(each.pid), each.arch, f"{sum(each.launches.values()):,}", " ".join(each.command))
        for each in outcome.processes
    ]
    tables.append(_table("Processes", ("number", "chip", "launches", "command"), processes, (True, False, True, False)))
    body = "\n".join(f'<div class="scroll" tabindex="0">\n{each}\n</div>' for each in tables)
    data = outcome.json().replace("</", "<\\/")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(outcome.summary())}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(outcome.summary())}</h1>
<p><code>{escape(" ".join(outcome.command))}</code></p>
{body}
<p class="soft">This is what the emulator finds in the PTX: it does not see the machine code, and measures no time. All
of it stands in this file as JSON too, in its element <code>script#data</code>.</p>
<script type="application/json" id="data">
{data}</script>
</body>
</html>
"""


def _findings(findings: Sequence[Finding]) -> str:
    """Return the table of the findings, each with its line of code."""
    rows = [
        [
            f'<span class="{each.grade}">{each.grade}</span>',
            escape(each.kind),
            f"{each.count:,}",
            escape(each.message) + (f"<pre>{escape(each.code)}</pre>" if each.code else ""),
        ]
        for each in findings
    ]
    return _table("Findings", ("grade", "kind", "times", "what"), rows, (False, False, True, False), escaped=True)


def _table_of(table: Any) -> str:
    """Return a table of Rich as HTML."""
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    headers = [str(column.header) for column in table.columns]
    numeric = [column.justify == "right" for column in table.columns]
    return _table(str(table.title), headers, list(zip(*cells, strict=True)), numeric)


def _table(
    caption: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    escaped: bool = False,
) -> str:
    """Return a table; `numeric` is True for each column of numbers, and `escaped` if the cells are HTML."""
    classes = [' class="number"' if each else "" for each in numeric]
    head = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for kind, text in zip(classes, headers, strict=True))
    lines = (
        "".join(f"<td{kind}>{cell if escaped else escape(cell)}</td>" for kind, cell in zip(classes, row, strict=True))
        for row in rows
    )
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f"<table>\n<caption>{escape(caption)}</caption>\n<thead>\n<tr>{head}</tr>\n</thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>"
    )
