"""One process of a program: it gets the virtual device, and leaves what was found where the runner collects it.

What was found is written with the launch that found it, so that a process that is killed has said it; at most once a
second how often, and at the end all of it.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

from gpubp.emulator import driver, launch
from gpubp.emulator.chip import current_arch, use
from gpubp.emulator.errors import (
    BarrierError,
    CallError,
    DeadlockError,
    DivergenceError,
    HangError,
    MemoryAccessError,
    RegisterError,
)
from gpubp.emulator.observe import observers
from gpubp.emulator.observe.findings import Finding, Report
from gpubp.emulator.run import reports
from gpubp.emulator.run.options import Options

INTERVAL = 1.0
"""Seconds between two writings of mere counts."""
FAULTS: dict[type[BaseException], str] = {
    MemoryAccessError: "invalid access",
    CallError: "invalid call",
    DeadlockError: "deadlock",
    BarrierError: "misused barrier",
    HangError: "hang",
    DivergenceError: "divergence",
    RegisterError: "misused registers",
}
"""The kinds of findings that a launch ends with. An assert of the kernel is the program's own, and not among them."""


def begin() -> None:
    """Give this process the virtual device, as its environment says."""
    options = Options.of(os.environ)
    driver.install()
    use(options.arch or current_arch())
    _Recorder(options).begin()


class _Recorder:
    """Collects what this process finds, from its first launch to its end."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._observer: observers.Observer | None = None
        self._context = contextlib.ExitStack()
        self._clear()

    def _clear(self) -> None:
        self._file = Path(self._options.folder) / f"{os.getpid()}-{secrets.token_hex(8)}.json"
        self._launches: Counter[str] = Counter()
        self._faults: list[Finding] = []
        self._written = (0, 0.0)

    def begin(self) -> None:
        """Watch from here on."""
        chosen = self._options
        if chosen.observes:
            self._context.enter_context(
                observers.observe(
                    chosen.races,
                    chosen.uninitialised,
                    chosen.traffic,
                    chosen.suppressions,
                    chosen.order,
                    chosen.async_order,
                )
            )
            self._observer = observers.current()
        launch.listeners.append(self._launched)
        os.register_at_fork(after_in_child=self._forked)
        atexit.register(self._write)
        self._write_before_exit()

    def _write_before_exit(self) -> None:
        """Let os._exit, by which forked processes end, write as well."""
        end = os._exit

        def _exit(status: int) -> None:
            self._write()
            end(status)

        os._exit = _exit  # type: ignore[assignment]

    def _forked(self) -> None:
        """A new process: what was found so far is its parent's."""
        if self._observer is not None:
            self._observer.take_report()
        self._clear()

    def _launched(self, kernel: str, error: BaseException | None) -> None:
        self._launches[kernel] += 1
        kind = next((name for each, name in FAULTS.items() if isinstance(error, each)), None)
        if kind is not None:
            reports.add_findings(self._faults, [Finding(kind, kernel, None, str(error))])
        found, when = self._written
        if self._number() != found or time.monotonic() - when > INTERVAL:
            self._write()

    def _number(self) -> int:
        """Return how many findings there are."""
        report = self._report()
        return len(self._faults) + len(report.findings) + len(report.suppressed)

    def _report(self) -> Report:
        return Report() if self._observer is None else self._observer.report

    def _write(self) -> None:
        """Write the file of this process, if it has launched anything."""
        if not self._launches:
            return
        report = reports.to_json(self._report())
        content = {
            **report,
            "findings": [*map(reports.finding_to_json, self._faults), *report["findings"]],
            "process": {
                "pid": os.getpid(),
                "command": sys.orig_argv,
                "arch": current_arch(),
                "launches": dict(self._launches),
            },
        }
        temporary = self._file.with_suffix(".part")
        try:
            temporary.write_text(json.dumps(content), encoding="utf-8")
            os.replace(temporary, self._file)
        except FileNotFoundError:
            pass  # the program has ended before this process: nobody collects any more
        except OSError as error:
            print(f"gpubp: what process {os.getpid()} has found cannot be written: {error}", file=sys.stderr)
        self._written = self._number(), time.monotonic()
