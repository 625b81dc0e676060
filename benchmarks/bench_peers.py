"""One training step: this project against PyTorch eager and compiled, JAX and scikit-learn; on a GPU against PyTorch
as a CUDA graph.

    python benchmarks/bench_peers.py                         every network, everyone who is installed
    python benchmarks/bench_peers.py --cases tiny,small@16 --contenders cpu,torch --repeats 15
    python -m pytest benchmarks/bench_peers.py -s            the same with the defaults

The same measurement as `gpubp bench --step --full`, one network after the other, and a row for each contender: the
median and the quartiles of a step, its time over that of the `cpu` backend, and the share of the BLAS's own rate
(2048 × 2048, measured in the same turns) that the step's products reach. Plain SGD, ReLU; everyone starts from the same
weights, sees the same batch, and must have the losses of the first steps. PyTorch comes with `pip install .[peers]`;
JAX and scikit-learn are taken where they are installed.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from gpubp.bench import bench_command as command
from gpubp.bench import tables
from gpubp.bench.bench_command import Choice
from gpubp.bench.contenders import CONTENDERS, EVERYONE
from gpubp.bench.results import BenchResult, Record
from gpubp.bench.works import STEPS, Limit, step_of
from gpubp.errors import ArgumentError

REPEATS = 9
USUAL = tuple(key for key, each in CONTENDERS.items() if each.steps and not each.settings.get("variant"))


def table_of(result: BenchResult) -> Table:
    """A row for each contender at the one work of the result, and one for each measured product."""
    records = [record for record in result.records if record.seconds]
    work = next(work for work in result.works if not isinstance(work, Limit))
    ours = result.record(work, "cpu")
    table = Table(title=f"{work.label}: {list(work.sizes)}, batch {work.rows}, {result.threads} threads")
    table.title_justify = "left"
    table.add_column("contender")
    for heading in ("median", "quartiles", "time / cpu's", "GFLOP/s", "of the BLAS"):
        table.add_column(heading, justify="right")
    for record in records:
        if isinstance(record.work, Limit) and record.work.name == "copy":
            continue
        limits = result.limits.get(EVERYONE[record.contender].device, {}).get(record.work.dtype)
        is_limit = isinstance(record.work, Limit)
        table.add_row(
            _title(record),
            tables.duration(record.median),
            tables.quartiles(record),
            f"{record.median / ours.median:.2f}" if ours and not is_limit else "",
            f"{record.flops_per_second / 1e9:.1f}",
            f"{record.flops_per_second / limits.peak:.1%}" if limits and not is_limit else "",
        )
    return table


def _title(record: Record) -> str:
    title = EVERYONE[record.contender].title
    return f"{title} {record.work.side}³" if isinstance(record.work, Limit) else title


def measure(cases: list[str], names: list[str], repeats: int, threads: int | None, console: Console) -> None:
    """Print a table for each case. Raises AssertionError where somebody's losses differ from the reference's."""
    choice = Choice(contenders=tuple(dict.fromkeys(["cpu", *names])), repeats=repeats, threads=threads)
    for name in cases:
        result = command.run(replace(choice, steps=(name,)), command.FULL)
        console.print(table_of(result))
        for line in tables.notes(result)[1:]:
            console.print(line, markup=False)
        wrong = [record.fault for record in result.faults if record.fault.startswith("wrong")]
        assert not wrong, f"{name}: {'; '.join(wrong)}"


def test_peers() -> None:
    measure(list(STEPS), list(USUAL), REPEATS, None, Console(width=140))


def main() -> None:
    parser = argparse.ArgumentParser(description="One training step: gpubp against other libraries.")
    parser.add_argument("--cases", default=",".join(STEPS), help="separated by commas; small@16: with a batch of 16")
    parser.add_argument("--contenders", default=",".join(USUAL), help="separated by commas (default: all)")
    parser.add_argument("--repeats", type=int, default=REPEATS, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each contender (default: all cores)")
    chosen = parser.parse_args()
    cases, names = chosen.cases.split(","), chosen.contenders.split(",")
    for name in names:
        if name not in CONTENDERS:
            parser.error(f"unknown contender {name!r}: known are {', '.join(CONTENDERS)}")
    try:
        for name in cases:
            step_of(name)
    except ArgumentError as error:
        parser.error(str(error))
    measure(cases, names, chosen.repeats, chosen.threads, Console(width=140))


if __name__ == "__main__":
    main()
