"""Starting this program in several processes by the launcher of the MPI that is installed: `gpubp train --ranks`,
`gpubp bench --ranks`."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpubp.distributed.ranks import INSTALL
from gpubp.errors import BackendError

LAUNCHERS = ("mpiexec", "mpirun")

FORWARDED = signal.SIGUSR1
"""The signal that asks all ranks to save and stop: the launchers of MPICH and of Open MPI pass it on. Of a SIGINT or a
SIGTERM Open MPI's kills the ranks."""

PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: sends the process a signal when the one that started it has ended, even by SIGKILL."""

ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)
"""The signals that are passed on as `FORWARDED`; a SIGINT after that as it is, which ends all at once."""

ENDED_AS_ASKED = (128 + FORWARDED, FORWARDED)
"""The exit codes of a job that stopped when it was asked to: a rank ended itself, or the signal ended the launcher; it
ended a rank that was still being started, which MPICH's launcher tells by the signal's number."""


def launch(count: int, words: Sequence[str]) -> int:
    """Run the program `gpubp` with these words in `count` processes on this machine, and return the exit code.

    Each process has its share of the cores for BLAS, unless OMP_NUM_THREADS says otherwise.

    Raises BackendError if mpi4py or a launcher is missing.
    """
    code, first = run_job(count, "gpubp", words)
    if first is not None and code in ENDED_AS_ASKED:
        return 128 + first
    return code


def run_job(
    count: int,
    module: str,
    words: Sequence[str],
    *,
    variables: Mapping[str, str] | None = None,
    output: int | None = None,
) -> tuple[int, int | None]:
    """Run a program in `count` processes, and return the exit code, and the first signal that came for them, or None.

    Args:
        module: the program, as `python -m` runs it, with these words.
        variables: of the processes' environment, in place of this process's own.
        output: a file's descriptor for what the processes and the launcher print; None: where this process prints.

    Raises BackendError if mpi4py or a launcher is missing.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise BackendError(f"several ranks need mpi4py, which is not installed; {INSTALL}")
    command = [_launcher(), "-n", str(count), sys.executable, "-P", "-m", module, *words]
    cores = len(os.sched_getaffinity(0))
    environment = {
        "OMP_NUM_THREADS": str(max(1, cores // count)),
        # what was asked for is as many, not as many as there are cores: Open MPI needs to be told
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        **os.environ,
        **(variables or {}),
    }
    # in a session of its own, so that a Ctrl-C of the terminal reaches the ranks by this process alone; there it must
    # not read what is typed for others, which launchers do. MPICH's fails at one that ends before rank 0 has begun:
    # this does not end, since the launcher holds its other end too
    silence, kept = os.pipe()
    options: dict[str, Any] = {"stdin": silence, "pass_fds": (kept,), "start_new_session": True}
    options |= {"stdout": output, "stderr": output}
    options["preexec_fn"] = partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, FORWARDED)
    with _Signals() as signals, subprocess.Popen(command, env=environment, **options) as process:
        signals.pass_to(process)
        for end in (silence, kept):
            os.close(end)
        code = process.wait()
    return code if code >= 0 else 128 - code, signals.first


class _Signals:
    """Passes the signals of `ASKING` on to a process, from the moment on that there is one.

    Attributes:
        first: the number of the first; None if none came.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Signals:
        heard = [number for number in ASKING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        self._usual = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def pass_to(self, process: subprocess.Popen[bytes]) -> None:
        """Pass on to this process what comes, and what has come already."""
        self._process = process
        if self.first is not None:
            process.send_signal(FORWARDED)

    def _note(self, number: int, frame: object) -> None:
        again, self.first = self.first is not None, self.first or number
        if self._process is not None and not again:
            self._process.send_signal(FORWARDED)
        elif self._process is not None and number == signal.SIGINT:
            self._process.send_signal(signal.SIGINT)


def _launcher() -> str:
    """Return the launcher in this Python's own environment, or the first on the path."""
    beside = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    for folders in beside:
        for name in LAUNCHERS:
            found = shutil.which(name, path=folders)
            if found:
                return found
    raise BackendError(f"several ranks need a launcher of MPI, and there is no {' or '.join(LAUNCHERS)}; {INSTALL}")
