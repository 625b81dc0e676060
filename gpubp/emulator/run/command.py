"""The command `python -m gpubp.emulator`: it runs a program on the virtual device, waits for it, and reports.

The program has a process of its own, which is as without the emulator, but for a `sitecustomize` (bootstrap.py) that
its children inherit by PYTHONPATH. So whatever becomes of the program, what it found is told.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from gpubp.emulator.observe.findings import ASYNC_ORDERS, GRADES, Report
from gpubp.emulator.run.options import Options
from gpubp.emulator.run.reports import Outcome
from gpubp.errors import ArgumentError, CheckpointError, StateError, unknown_name
from gpubp.files import check_path, write_bytes

USAGE_ERROR = 2
PROGRAMS = "program.py [argument ...] | -m module [argument ...] | -c code [argument ...]"
_PR_SET_PDEATHSIG = 1
_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command, and end this process as the program ended; with 1 if it found something."""
    ours, program = _split(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    given = parser.parse_args(ours)
    try:
        options = _checked(given, program)
    except (ArgumentError, OSError) as error:
        parser.exit(USAGE_ERROR, f"error: {error}\n")
    with tempfile.TemporaryDirectory(prefix="gpubp-emulator-") as folder:
        code = _run(program, options, Path(folder))
        outcome = _collect(Outcome(program, code, Report(order=options.order)), Path(folder))
    failed = _tell(outcome, given, options)
    if code < 0:
        _end_by(-code)
    sys.exit(code or failed)


# --- options ----------------------------------------------------------------------------------------------------------
def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gpubp.emulator",
        usage=f"python -m gpubp.emulator [options] {PROGRAMS}",
        description="Run a program that uses CuPy or Numba CUDA, or calls the CUDA driver, with no GPU: kernels run on "
        "an emulated device, and their mistakes are named by line.",
        epilog="The exit code is the program's; 1 if it succeeded and something was found; 2 for a wrong option.",
        allow_abbrev=False,  # where the options end is decided by their names
    )
    add = parser.add_argument
    add("--arch", help="The chip, such as sm_80. Default: sm_90.")
    add("--races", action="store_true", help="Look for data races in shared and global memory.")
    add("--uninitialised", action="store_true", help="Look for uses of memory that nothing has written.")
    add("--traffic", action="store_true", help="Count instructions, bytes, sectors and bank conflicts.")
    add("--order", metavar="SEED", help="A seed for another order of threads, warps and blocks.")
    add("--async-order", metavar="WHEN", help="When asynchronous engines work: late (default) or early.")
    add("--suppressions", metavar="FILE", help="A .toml file of findings that are intended.")
    add("--fail-at", metavar="GRADE", help="The least grade that fails: note, warning or error. Default: error.")
    add("--report", metavar="FILE", help="A .txt, .json or .html file for the report.")
    return parser


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options, and the program with all that is the program's."""
    with_value = {f"--{name}" for name in ("arch", "order", "async-order", "suppressions", "fail-at", "report")}
    index = 0
    while index < len(arguments) and (arguments[index].startswith("--") or arguments[index] == "-h"):
        index += 2 if arguments[index] in with_value else 1
    return list(arguments[:index]), list(arguments[index:])


def _checked(given: Any, program: Sequence[str]) -> Options:
    """Return the options.

    Raises:
        ArgumentError: one of them, or the program, is missing or wrong.
        OSError: the file of suppressions cannot be read.
    """
    if not program or (program[0] in ("-m", "-c") and len(program) == 1):
        raise StateError("the program", "is missing", f"be {PROGRAMS}")
    if program[0].startswith("-") and program[0] not in ("-", "-m", "-c"):
        raise ArgumentError("the program", program[0], PROGRAMS, "Python's own options go before its -m")
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise StateError(
            "Python", "was started with -E, -I or -S", "be without: the program gets the device by its site"
        )
    if given.arch is not None:
        from gpubp.chips import architectures

        if re.sub(r"(?<=\d)[af]$", "", given.arch) not in architectures():
            raise unknown_name("--arch", given.arch, architectures())
    if given.order is not None and not (given.order.isdecimal() and len(given.order) < 20):
        raise ArgumentError("--order", given.order, "a whole number ≥ 0")
    if given.async_order not in (None, *ASYNC_ORDERS):
        raise unknown_name("--async-order", given.async_order, ASYNC_ORDERS)
    if given.fail_at not in (None, *GRADES):
        raise unknown_name("--fail-at", given.fail_at, GRADES)
    if given.suppressions is not None:
        if not (given.races or given.uninitialised):
            raise StateError("--suppressions", "was given", "be left out, or given with --races or --uninitialised")
        from gpubp.emulator.observe.suppressions import load

        load(given.suppressions)
    if given.report is not None:
        check_path("--report", Path(given.report), ".txt", ".json", ".html", replace=True)
    return Options(
        arch=given.arch or "",
        races=given.races,
        uninitialised=given.uninitialised,
        traffic=given.traffic,
        order=None if given.order is None else int(given.order),
        async_order=given.async_order or ASYNC_ORDERS[0],
        suppressions=None if given.suppressions is None else os.path.abspath(given.suppressions),
    )


# --- the program ------------------------------------------------------------------------------------------------------
def _run(program: Sequence[str], options: Options, folder: Path) -> int:
    """Run the program to its end, and return its exit code, or the negative number of the signal that ended it.

    Signals to this process are passed on; those of the terminal reach the program by themselves.
    """
    home, found = folder / "site", folder / "found"
    home.mkdir()
    found.mkdir()
    shutil.copyfile(Path(__file__).with_name("bootstrap.py"), home / "sitecustomize.py")
    environment = os.environ | Options(**{**vars(options), "folder": str(found)}).environment(str(home))
    libc = ctypes.CDLL(None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})

    def become_program() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it goes with this process, also if that is killed
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    flags = sys.orig_argv[1 : sys.orig_argv.index("-m")] if "-m" in sys.orig_argv else []
    process = subprocess.Popen([sys.executable, *flags, *program], env=environment, preexec_fn=become_program)
    while process.poll() is None:
        told = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if told.si_signo != signal.SIGCHLD and told.si_code <= 0:  # from a process, not from the terminal
            process.send_signal(told.si_signo)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return process.returncode


def _end_by(number: int) -> None:
    """End this process by a signal, without a file of its memory."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # SIGKILL, which is as it is
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# --- the report -------------------------------------------------------------------------------------------------------
def _collect(outcome: Outcome, folder: Path) -> Outcome:
    """Return the outcome with what the program's processes have left."""
    for file in sorted((folder / "found").glob("*.json"), key=lambda each: each.stat().st_mtime_ns):
        outcome.add(json.loads(file.read_text(encoding="utf-8")))
    return outcome


def _tell(outcome: Outcome, given: Any, options: Options) -> bool:
    """Print what was found, and write it to the file that was asked for.

    Returns:
        True if something is as bad as --fail-at, or if the file cannot be written.
    """
    failed = bool(outcome.report.at_least(given.fail_at or "error"))
    if outcome.report.findings or options.observes:
        with contextlib.suppress(BrokenPipeError):
            print(outcome.text().rstrip(), file=sys.stderr)
    if given.report is None:
        return failed
    try:
        write_bytes(given.report, _content(outcome, Path(given.report).suffix.lower()).encode())
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return True
    return failed


def _content(outcome: Outcome, suffix: str) -> str:
    if suffix == ".json":
        return outcome.json()
    if suffix == ".html":
        from gpubp.emulator.run.page import page

        return page(outcome)
    return outcome.text()
