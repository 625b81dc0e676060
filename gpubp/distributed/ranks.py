"""The processes that train one network together, by MPI (mpi4py): what they tell each other, and how they fail.

MPI calls each process a rank, numbered from 0. What a rank is told by the others it gets when all of them have called
the same method: `add_up` to `require_same`, and the end of `agreed`. mpi4py is imported only in a process that a
launcher of MPI started.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import sys
import termios
import time
import traceback
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import numpy as np

from gpubp.errors import BackendError, GpubpError, OtherRankFailed, StateError, shown

SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""The environment variables in which launchers say how many ranks there are: Open MPI's; MPICH's, and that of what
descends from it."""
PMIX, SLURM_SIZE = "PMIX_RANK", "SLURM_STEP_NUM_TASKS"
"""What PMIx sets, and Slurm by it, which says how many there are in a variable of its own."""
LAUNCHED = (*SIZES, PMIX)
"""Those by which a process knows that a launcher started it."""
NUMBERS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", PMIX)
"""Those in which launchers say which rank a process is."""

INSTALL = "pip install 'gpubp[mpi]'"
VISIBLE = "CUDA_VISIBLE_DEVICES"

FAILED, MISUSED = 1, 2
"""The exit codes of a job that a rank ended: by a defect, or by what its user got wrong."""

LISTENING = 10.0
"""Seconds in which a launcher has read what a rank printed, on the busiest machine: one that has not will not."""


class Ranks:
    """The processes that work together, and which of them this one is.

    Args:
        communicator: mpi4py's; None for a process that works alone, whose methods do nothing.

    Attributes:
        number, count: of this process, from 0, and of all.
        host: the name of this process's machine.
    """

    def __init__(self, communicator: Any = None) -> None:
        self._communicator = communicator
        self.number: int = 0 if communicator is None else communicator.rank
        self.count: int = 1 if communicator is None else communicator.size
        self.host = socket.gethostname()
        self._together: BaseException | None = None

    def __repr__(self) -> str:
        return f"rank {self.number} of {self.count} on {self.host}"

    @property
    def alone(self) -> bool:
        """True for one process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """True for rank 0, which alone writes, shows and decides."""
        return self.number == 0

    def share(self, rows: int) -> slice:
        """Return this rank's slice of this many rows. The slices' lengths differ by 1 at most; of fewer rows than ranks
        some are empty."""
        return slice(rows * self.number // self.count, rows * (self.number + 1) // self.count)

    # --- what they tell each other ------------------------------------------------------------------------------------
    def add_up(self, x: np.ndarray) -> None:
        """x ← Σ over all ranks of x, in place; of the same shape and dtype on each. All get the same bits."""
        if not self.alone:
            from mpi4py import MPI

            self._communicator.Allreduce(MPI.IN_PLACE, x)

    def total(self, x: float) -> float:
        """Return the sum of all ranks' x, the same bits on each."""
        sums = np.array([x])
        self.add_up(sums)
        return float(sums[0])

    def largest(self, number: int) -> int:
        """Return the largest of all ranks' whole numbers."""
        if self.alone:
            return number
        from mpi4py import MPI

        numbers = np.array([number], np.int64)
        self._communicator.Allreduce(MPI.IN_PLACE, numbers, MPI.MAX)
        return int(numbers[0])

    def gather(self, x: Any) -> list[Any]:
        """Return all ranks' x, anything that can be pickled, by rank."""
        return [x] if self.alone else self._communicator.allgather(x)

    def from_first(self, x: Any) -> Any:
        """Return rank 0's x, anything that can be pickled; the others' is not looked at."""
        return x if self.alone else self._communicator.bcast(x, 0)

    def require_same(self, facts: Mapping[str, object]) -> None:
        """Raise BackendError on all ranks if a fact is not the same on all; it names the first, and both values."""
        found = self.gather(dict(facts))
        for number, others in enumerate(found):
            for what in {**found[0], **others}:
                first, other = found[0].get(what), others.get(what)
                if other != first:
                    told = BackendError(f"{what} is {shown(other)} on rank {number}, and {shown(first)} on rank 0")
                    self.raise_together(told if self.first else OtherRankFailed("the ranks differ"))

    def require_own_gpus(self, identity: str) -> None:
        """Raise BackendError on all ranks if two have the same GPU. identity: of this rank's, the same nowhere else; of
        its number in `VISIBLE` that is not so, where each process is shown its own GPU alone."""
        found = self.gather((self.host, identity))
        for number, seen in enumerate(found):
            if seen in found[:number]:
                told = f"ranks {found.index(seen)} and {number} on {seen[0]} have one GPU, {shown(seen[1])}"
                told += f"; {VISIBLE} is {shown(os.environ.get(VISIBLE, 'not set'))} for rank 0"
                told += "; give each rank its own, or let the launcher show all GPUs to all"
                self.raise_together(BackendError(told) if self.first else OtherRankFailed("the ranks share a GPU"))

    def raise_together(self, error: BaseException) -> NoReturn:
        """Raise an exception where every rank raises one: none has to end the others."""
        if not self.alone:  # ALONE is for good, and would keep it as long
            self._together = error
        raise error

    # --- how they fail ------------------------------------------------------------------------------------------------
    @contextmanager
    def agreed(self) -> Iterator[None]:
        """Run what each rank does by itself; if it failed on any, raise on all.

        The first rank that failed raises its own exception, in a BackendError with the rank's name if it is not rank 0,
        which alone may have had something to do; the others raise OtherRankFailed.
        """
        if self.alone:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        failed = [number for number, each in enumerate(self.gather(failure is not None)) if each]
        if not failed:
            return
        if failure is None or self.number != failed[0]:
            failure = OtherRankFailed(f"rank {failed[0]} failed")
        elif not self.first and isinstance(failure, GpubpError):
            failure = BackendError(f"{self!r}: {failure}")
        self.raise_together(failure)

    def abort(self, error: BaseException) -> NoReturn:
        """End all ranks, whatever they do, and say on stderr which rank failed and why. Does not return."""
        told, code = f"{type(error).__name__}: {error}", FAILED
        if isinstance(error, GpubpError):
            told, code = str(error), MISUSED
        elif isinstance(error, KeyboardInterrupt):
            code = 128 + signal.SIGINT
        elif not isinstance(error, SystemExit):
            traceback.print_exception(error)
        sys.stdout.flush()
        print(f"error: {self!r} ended all: {shown(told, 400)}", file=sys.stderr, flush=True)
        _wait_for_readers()
        self._communicator.Abort(code)
        os._exit(code)  # MPICH's Abort returns, and is obeyed a moment later


ALONE = Ranks()
"""One process, which works by itself."""


def is_launched() -> bool:
    """True if a launcher of MPI started this process."""
    return any(name in os.environ for name in LAUNCHED)


def launched_together() -> int | None:
    """Return how many processes a launcher of MPI started together, this one among them: 1 if none did; None if only
    MPI knows."""
    names = (*SIZES, SLURM_SIZE) if PMIX in os.environ else SIZES
    told = [int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()]
    return max(told) if told else None if is_launched() else 1


def require_one_process(what: str) -> None:
    """Raise StateError on rank 0, and OtherRankFailed on the others, if a launcher of MPI started several processes.

    what: cannot be shared among them; the error names it.
    """
    if (launched_together() or 1) == 1:
        return
    if any(os.environ.get(name, "0") != "0" for name in NUMBERS):
        raise OtherRankFailed(f"{what} is for one process")
    raise StateError(what, "was given to a launcher of MPI", "run in one process, without a launcher")


def join() -> Ranks:
    """Return the ranks that a launcher of MPI started with this process, or `ALONE` if it is the only one.

    Each process of a machine takes one GPU, by its number there, unless the launcher gave it one: `VISIBLE` is set for
    this process and those that it starts, so no CUDA library may have been used before.

    Raises:
        BackendError: mpi4py is missing or finds no MPI.
    """
    count = launched_together()
    if count == 1:
        return ALONE
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise BackendError(f"a launcher of MPI started gpubp, and mpi4py cannot be used: {error}; {INSTALL}") from error
    ranks = Ranks(MPI.COMM_WORLD)
    if ranks.alone:
        if count is not None:
            library = MPI.Get_library_version().split(",")[0]
            raise BackendError(f"the launcher is of another MPI than the one that mpi4py found, {shown(library)}")
        return ALONE
    _take_own_gpu(ranks)
    return ranks


@contextmanager
def joined() -> Iterator[Ranks]:
    """Yield what `join` returns; what this rank raises inside, and not all together, ends all ranks."""
    ranks = join()
    try:
        yield ranks
    except BaseException as error:
        if not ranks.alone and error is not ranks._together:
            ranks.abort(error)
        raise


def _wait_for_readers() -> None:
    """Wait until what this process has printed is read, for `LISTENING` seconds at most: a launcher that hears of an
    abort before it reads the ranks' outputs ends without them."""
    until = time.monotonic() + LISTENING
    for output in (1, 2):
        while _is_unread(output) and time.monotonic() < until:
            time.sleep(0.002)


def _is_unread(descriptor: int) -> bool:
    """Return whether this is a pipe with bytes in it that nobody has read."""
    unread = array("i", [0])
    with suppress(OSError):  # closed
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            fcntl.ioctl(descriptor, termios.FIONREAD, unread)
    return unread[0] > 0


def _take_own_gpu(ranks: Ranks) -> None:
    """Let this process see one GPU of its machine's: the one whose place is that of this rank on the machine."""
    on_machine = [number for number, host in enumerate(ranks.gather(ranks.host)) if host == ranks.host]
    place, given = on_machine.index(ranks.number), os.environ.get(VISIBLE)
    visible = None if given is None else [each for each in given.split(",") if each]
    if visible is None:
        os.environ[VISIBLE] = str(place)
    elif len(visible) > 1:
        # none for a rank too many: the backend then says that there is no GPU
        os.environ[VISIBLE] = visible[place] if place < len(visible) else ""
