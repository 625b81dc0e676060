"""Running one part of a report in its process, under its limit."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from gpubp.errors import printable
from gpubp.report.parts import SOFT_SHARE, Task
from gpubp.report.results import PartResult

COMMAND = [sys.executable, "-P", "-m", "gpubp.report.worker"]
"""-P: what lies in the folder that the user is in is none of its modules."""

LAST_MOMENTS = 5.0
"""Seconds that a process may take to end once it has closed its output."""

SHOWN_LINES = 40
"""Lines of the output of a process that broke, which are kept: the last ones."""
SHOWN_CHARACTERS = 8_000

Progress = Callable[[str], None]


def run(task: Task, seconds: float, progress: Progress) -> PartResult:
    """Run a part, and return what became of it. The process and all that it has started are gone then.

    Args:
        seconds: its limit.
        progress: is given each line that says what goes on.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as errors:
        file = Path(folder) / "result.json"
        request = {"file": str(file), "task": asdict(task) | {"seconds": SOFT_SHARE * seconds}}
        process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
        try:
            _send(process, request)
            in_time = _follow(process, started + seconds, progress)
            code = _end(process) if in_time else None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with suppress(OSError):
                    pipe.close()
        found = json.loads(file.read_text()) if file.exists() else {}
        status, message = _outcome(found, code, seconds)
        return PartResult(
            status=status,
            device=task.device,
            made=datetime.now().astimezone().isoformat(timespec="seconds"),
            seconds=time.monotonic() - started,
            limit_seconds=seconds,
            message=message,
            last_output=_last_lines(errors) if status in ("failed", "timeout", "crashed") else "",
            result=found.get("result"),
        )


def _send(process: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
    """Send the task; the pipe stays open, for the process ends when it is closed."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has died already: `_outcome` says so
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()


def _follow(process: subprocess.Popen[bytes], end: float, progress: Progress) -> bool:
    """Hand on what the process says until it has closed its output; False if its time was over before."""
    assert process.stdout is not None
    rest = b""
    while (left := end - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            continue
        chunk = os.read(process.stdout.fileno(), 65536)
        if not chunk:
            return True
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            progress(lines[-1].decode(errors="replace"))
    return False


def _end(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code; None of a process that lives on without an output."""
    try:
        return process.wait(LAST_MOMENTS)
    except subprocess.TimeoutExpired:
        return None


def _outcome(found: dict[str, Any], code: int | None, seconds: float) -> tuple[str, str]:
    """Return the status and the message of a part."""
    if found.get("finished"):
        if found["error"]:
            return "failed", found["error"]
        return ("done", "") if found["complete"] else ("partial", f"not all of it fitted into {seconds:g} s")
    if code is None:
        return "timeout", f"it did not end within {seconds:g} s"
    how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
    return "crashed", f"its process ended {how}"


def _last_lines(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - SHOWN_CHARACTERS))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return printable("\n".join(lines[-SHOWN_LINES:]))
