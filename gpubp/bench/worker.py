"""A contender's process: `python -m gpubp.bench.worker KEY THREADS`.

It answers each line on its input with one line of JSON: {"ok": ...}, or {"error": why not}.

    {"do": "make", "work": {...}}       makes the runner of a work, in place of the one before
    {"do": "time", "seconds": 0.1}      the seconds of a call (see `timing.seconds_of_a_call`)
    {"do": "fault"}                     what is wrong with the results of a primitive; "" for nothing
    {"do": "losses", "steps": 5}        of a training step
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from gpubp.bench import works
from gpubp.bench.contenders import EVERYONE, REHEARSED, Contender
from gpubp.bench.timing import Runner, seconds_of_a_call, settle


class Worker:
    """One contender, asked for one thing after the other."""

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender = contender
        self.threads = threads
        self.runner: Runner | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked. Whatever a library raises is the answer, not the end."""
        try:
            return {"ok": self._do(request)}
        except Exception as error:
            text = str(error).strip().splitlines()
            return {"error": f"{type(error).__name__}: {text[0]}" if text else type(error).__name__}

    def _do(self, request: Mapping[str, Any]) -> Any:
        if request["do"] == "make":
            self.runner = None
            gc.collect()  # two works' arrays may not fit into memory at once
            self.runner = self.contender.make(works.from_dict(request["work"]), self.threads)
            settle()
            return None
        assert self.runner is not None
        if request["do"] == "time":
            seconds = seconds_of_a_call(self.runner, request["seconds"])
            settle()
            return seconds
        if request["do"] == "losses":
            assert self.runner.losses is not None
            return self.runner.losses(request["steps"])
        assert self.runner.fault is not None
        return self.runner.fault()


def main() -> None:
    """Serve until the input ends. What libraries print goes to the errors, so that answers stay whole."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    key, threads = sys.argv[1], int(sys.argv[2])
    _limit_cores(threads)
    worker = Worker((EVERYONE | REHEARSED)[key], threads)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


def _limit_cores(threads: int) -> None:
    """Some libraries, such as XLA, take a thread for each core that the process may use, and can be told by nothing
    else."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
