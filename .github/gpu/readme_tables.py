"""The README's figures of GPUs, from the results that `make gpu-report` writes on machines that have one.

    python .github/gpu/readme_tables.py [FILE ...]

Each file is a report.json; without any, all .json files of this folder are taken. The text between the markers in
README.md is replaced. A file of a device that is emulated is refused: its times say nothing of a GPU.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gpubp.bench.contenders import CONTENDERS
from gpubp.bench.results import BenchResult, Record
from gpubp.bench.tables import duration
from gpubp.bench.works import Primitive, TrainingStep, Work
from gpubp.errors import DataError, GpubpError
from gpubp.files import write_bytes
from gpubp.report.machine_page import outcome, trained
from gpubp.report.parts import PARTS
from gpubp.report.results import Report

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- gpu-figures -->", "<!-- /gpu-figures -->"

NONE_YET = """\
There are no figures of a GPU yet: no part of gpubp has run on one. If you have a GPU, `make gpu-report` makes them, in
ten minutes at most; or open [this notebook](.github/notebooks/gpu_report.ipynb) in a hosted session that has one. Then
put `report.json` into `.github/gpu` and run `make readme-tables`, which writes the tables to this place; or send it to
whoever you have gpubp from. Results of an emulated device are refused here: they have no times.
"""


def block(reports: Sequence[Report]) -> str:
    """Return what stands between the markers."""
    return "\n".join(_of(report) for report in reports) if reports else NONE_YET


def checked(report: Report, name: str) -> Report:
    """Return the report.

    Raises:
        DataError: its figures are of no GPU.
    """
    machine = report.machine
    if report.identity.get("device") != "gpu" or machine is None or not machine.gpus:
        device = report.identity.get("device", "unknown")
        raise DataError(f"{name} has no figures of a GPU: its kernels ran on device {device!r}")
    seen = [gpus for bench in report.measured.values() for gpus in bench.machine.get("gpus", ())]
    if any("emulated" in gpu for gpu in (*machine.gpus, *seen)):
        raise DataError(f"{name} has no figures of a GPU: its GPU is an emulated one")
    return report


def _of(report: Report) -> str:
    """Return the figures of one report: a heading, what was checked and trained, and tables."""
    machine = report.machine
    assert machine is not None
    commit = report.identity.get("commit", "")
    made_with = f"gpubp {machine.packages.get('gpubp', '')}{f', commit {commit[:12]}' if commit else ''}"
    lines = [
        f"### {_text(', '.join(machine.gpus))}",
        "",
        f"Driver for CUDA {machine.driver}; {_text(machine.processor)}, {machine.cores} cores; {made_with}; "
        f"{report.made[:10]}. Times are medians.",
        "",
    ]
    for name, part in report.parts.items():
        if part.broke:
            lines.append(f"- {PARTS[name].title}: broken: {_text(part.message)}")
        elif name.startswith(("check", "train")) and part.result is not None and part.device == "gpu":
            tell = outcome if name.startswith("check") else trained
            lines.append(f"- {PARTS[name].title}: {_text(tell(part.result))}")
    lines.append("")
    for bench, table in (("bench-steps", _steps), ("bench-primitives", _primitives), ("bench-rungs", _rungs)):
        if (found := report.measured.get(bench)) is not None:
            lines += table(found)
    return "\n".join(lines)


def _steps(bench: BenchResult) -> list[str]:
    return _table("step", _rows(bench, TrainingStep, lambda record: duration(record.median), everyone=True))


def _primitives(bench: BenchResult) -> list[str]:
    def rate(record: Record) -> str:
        if record.work.costs[0].intensity > 1:
            return f"{record.flops_per_second / 1e12:.3g} TFLOP/s"
        return f"{record.bytes_per_second / 1e9:.0f} GB/s"

    return _table("primitive", _rows(bench, Primitive, rate, everyone=False))


def _rungs(bench: BenchResult) -> list[str]:
    """Return a row for each rung: its rate on each backend and its share of cuBLAS'."""
    (work,) = [work for work in bench.works if isinstance(work, Primitive)] or [None]
    peer = bench.record(work, "cublas") if work is not None else None
    rows: dict[str, dict[str, str]] = {}
    for key, each in CONTENDERS.items():
        rung = each.settings.get("variant")
        record = bench.record(work, key) if rung and work is not None else None
        if record is not None:
            share = f", {peer.median / record.median:.0%} of cuBLAS" if peer is not None else ""
            cell = f"{record.flops_per_second / 1e12:.3g} TFLOP/s{share}"
            rows.setdefault(f"`{rung}`", {})[each.backend] = cell
    return _table(f"rung of {work.title}", rows) if work is not None else []


def _rows(bench: BenchResult, kind: type[Work], cell: object, *, everyone: bool) -> dict[str, dict[str, str]]:
    """Return cells by work and contender. everyone: contenders on the CPU too."""
    assert callable(cell)
    rows: dict[str, dict[str, str]] = {}
    for record in bench.records:
        each = CONTENDERS.get(record.contender)
        if each is None or not isinstance(record.work, kind) or not (everyone or each.device == "gpu"):
            continue
        title = f"{each.title} on {each.device}" if everyone else each.title
        rows.setdefault(record.work.title.removeprefix("step "), {})[title] = (
            cell(record) if record.seconds else "failed"
        )
    return rows


def _table(corner: str, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a table in Markdown; nothing without rows."""
    if not rows:
        return []
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = [_line((corner, *columns)), _line(("---", *("---:" for _ in columns)))]
    lines += [_line((name, *(cells.get(column, "") for column in columns))) for name, cells in rows.items()]
    return [*lines, ""]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _text(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return re.sub(r"([|<>*\[\]])", r"\\\1", " ".join(text.split())) if "`" not in text else text


def written(readme: str, text: str) -> str:
    """Return the README with this text between the markers.

    Raises:
        DataError: it does not have both markers, once each.
    """
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise DataError(f"the README must have {BEGIN} and, after it, {END}, once each")
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{text}{END}{rest.split(END)[1]}"


def main(names: Sequence[str]) -> int:
    """Write the README's block; return the exit code."""
    paths = [Path(name) for name in names] or sorted(HERE.glob("*.json"))
    try:
        reports = [checked(Report.read(path), str(path)) for path in paths]
        write_bytes(README, written(README.read_text(encoding="utf-8"), block(reports)).encode())
    except GpubpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{README.name}: figures of {len(reports)} GPUs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
