"""What becomes of a mutant: it is compiled, and run on cases of the cross-check until one fails.

Each mutant has a fork of this process for itself, in which everything is loaded already. So it starts from the same
state, whatever came before; a loop without an end, memory without a bound and a crash end the fork and nothing else.
What it compiles goes to a folder that is emptied after it, and not to the user's cache.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import CodeType
from typing import Any

from edits import Edit
from suite import KERNELS, Instance, by_chip, instances_of, remember_problems

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.numba_backend import NumbaBackend
from gpubp.crosscheck import runner
from gpubp.crosscheck.cases import OLDER, Case
from gpubp.emulator import limits
from gpubp.toolchain import cache, process

BACKENDS = {"cuda": "cupy", "numba": "numba"}
"""The backend whose kernels lie in a folder of `KERNELS`."""

MOST_BLOCKS = 100_000
"""Blocks of straight-line code that a launch may execute. The kernels as they are execute up to 3,780 on these cases;
more than this is a loop without an end, on any machine."""
WHOLE_SECONDS = 900.0
"""On the clock for one mutant. A compiler, too, can be given a loop without an end."""
MEMORY = 48 << 30
"""Bytes of addresses that a mutant may have beyond what this process has. Observers have tables of all addresses of the
device's memory, ten times its size, of which next to nothing is ever touched."""

OBSERVED = 3
"""Changed instances that are also run under the emulated device's observers; all of them if a barrier has changed."""

KILLED, SURVIVED, SAME, INVALID = "killed", "survived", "same code", "does not compile"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        outcome: KILLED: a case failed. SURVIVED: none did. SAME: the compiler made the same code of it. INVALID: it
            does not compile.
        instance, case: the instance of a kernel and the case that killed it.
        reason: what was wrong.
        tried: instances whose code it changed.
    """

    outcome: str
    instance: str = ""
    case: str = ""
    reason: str = ""
    tried: int = 0
    seconds: float = 0.0


def file_of(path: str) -> str:
    """Return the path of a kernel's source below the folder of kernels, wherever that is: "cuda/forms.cuh"."""
    return "/".join(Path(path).parts[-2:])


def strip(ptx: str) -> str:
    """Return PTX without comments, and without what says from which line and file it was made."""
    for unseen in (r"(?s)\.section\s+\.debug_\w+\s*\{.*?\n\s*\}", r"(?m)^\s*\.(?:loc|file)\b.*$", r"//.*"):
        ptx = re.sub(unseen, "", ptx)
    return "\n".join(line for line in ptx.splitlines() if line.strip())


def lines_of(ptx: str) -> frozenset[tuple[str, int]]:
    """Return the file and line of each instruction, also of what was inlined."""
    files = {int(number): file_of(path) for number, path in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', ptx, re.M)}
    places = re.findall(r"\.loc\s+(\d+)\s+(\d+)", ptx) + re.findall(r"inlined_at\s+(\d+)\s+(\d+)", ptx)
    return frozenset((files[int(file)], int(line)) for file, line in places if int(file) in files)


Work = tuple[Edit, Sequence[Instance], int | None]


class Judge:
    """Judges mutants, several at a time.

    Args:
        folder: a folder for what is written on the way.
        languages: of the kernels: "cuda", "numba".
    """

    def __init__(self, folder: Path, languages: Iterable[str] = tuple(BACKENDS)) -> None:
        self.folder = folder
        remember_problems()
        self.instances: dict[str, list[Instance]] = {}
        self._backends: dict[str, Callable[[str], Any]] = {}
        for language in languages:
            kind = CupyBackend if language == "cuda" else NumbaBackend
            self._backends[language] = by_chip(functools.partial(kind, "emulator"))
            self.instances[language] = instances_of(self._backends[language])
        self._slots: list[_Slot] = []

    # --- the kernels as they are --------------------------------------------------------------------------------------
    def including(self, edit: Edit) -> list[Instance]:
        """Return the instances whose source includes the edited file."""
        found = [each for each in self.instances[edit.file.split("/")[0]] if edit.file in each.files]
        for each in found:
            if not each.ptx:
                self._prepare(each)
        return found

    def concerned(self, edit: Edit, block: tuple[int, int], most: int | None = None) -> list[Instance]:
        """Return the instances that an edit most likely changes: those with an instruction of the function or structure
        that it is in, lines `block`; else those with one of its file; else those whose source includes it. No more than
        `most`. Others may change too: the compiler gives an instruction that two lines ask for the line of one of them.
        """
        candidates = [each for each in self.instances[edit.file.split("/")[0]] if edit.file in each.files]
        # those of the rung that the file is named after come first
        candidates.sort(key=lambda each: Path(edit.file).stem.removeprefix("product_") not in each.name)
        for first, last in (block, (1, sys.maxsize)):
            found = (each for each in candidates if self._has_line(each, edit.file, first, last))
            if chosen := list(islice(found, most)):
                return chosen
        return candidates[:most]

    def _has_line(self, instance: Instance, file: str, first: int, last: int) -> bool:
        if not instance.ptx:
            self._prepare(instance)
        return any(name == file and first <= line <= last for name, line in instance.lines)

    def _prepare(self, instance: Instance) -> None:
        """Compile the kernel as it is, and run its smallest case: forks then have what that loads."""
        language = "cuda" if instance.backend == "cupy" else "numba"
        backend = self._backends[language](instance.arch)
        ptx = _ptx_of(backend, instance)
        instance.lines = lines_of(ptx)
        # observers take long, and load the same for each instance of a kernel
        alike = (each for each in self.instances[language] if each.launch.kernel == instance.launch.kernel)
        with runner.on_chip(instance.arch):
            runner.run_case(backend, instance.cases[0], runner.Watch(not any(each.ptx for each in alike)))
        instance.ptx = strip(ptx)

    # --- mutants ------------------------------------------------------------------------------------------------------
    def judge(self, work: Iterator[Work], jobs: int = 1) -> Iterator[tuple[Edit, Verdict]]:
        """Give the verdict on each mutant as it comes.

        Args:
            work: edits, each with the instances to try, in this order, until it has changed so many and survived
                (None: all of them). An edit is asked for when its turn comes, so that what killed others can decide on
                its order.
            jobs: how many at a time.
        """
        gc.collect()
        gc.freeze()
        while len(self._slots) < jobs:
            self._slots.append(_Slot(self.folder / f"slot{len(self._slots)}"))
        idle = self._slots[:jobs]
        busy: dict[int, _Slot] = {}
        try:
            while True:
                while idle and (each := next(work, None)) is not None:
                    slot = idle.pop()
                    busy[slot.start(*each)] = slot
                if not busy:
                    return
                ready, _, _ = select.select(list(busy), [], [], 1.0)
                for descriptor, slot in list(busy.items()):
                    verdict = slot.collect(descriptor in ready)
                    if verdict is not None:
                        del busy[descriptor]
                        idle.append(slot)
                        yield slot.edit, verdict
        finally:
            for slot in busy.values():
                slot.stop()

    def failures_unchanged(self, killers: Mapping[str, Set[str]], jobs: int = 1) -> list[str]:
        """Run what killed mutants on the kernels as they are, where all must pass, and return what fails.

        Args:
            killers: names of instances with the names of their cases.
        """
        everything = [each for instances in self.instances.values() for each in instances]
        # of no PTX, so that each seems changed
        again = [
            replace(each, ptx="", cases=[case for case in each.cases if case.name in killers[each.name]])
            for each in everything
            if each.name in killers
        ]
        work = ((_no_edit(each), [each], None) for each in again if each.cases)
        return [
            f"fails on the kernels as they are: {verdict.case or verdict.instance}: {verdict.reason}"
            for _, verdict in self.judge(work, jobs)
            if verdict.outcome != SURVIVED
        ]

    def close(self) -> None:
        """End the compilers' processes."""
        for slot in self._slots:
            slot.close()


def _no_edit(instance: Instance) -> Edit:
    """Return an edit of the kernel's file that changes nothing."""
    file = "cuda/control.cuh" if instance.backend == "cupy" else "numba/signatures.py"
    return Edit(file, "none", 0, 0, "", 1, "", "", 1)


class _Slot:
    """A place for one mutant at a time: a folder, the compilers' processes, and the fork that judges."""

    def __init__(self, folder: Path) -> None:
        self.kernels = folder / "cuda"
        self.cache = folder / "cache"
        shutil.copytree(KERNELS / "cuda", self.kernels, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        # CUDA's headers, and the emulator's own machine code, are the user's: no mutant changes them
        self.cache.mkdir()
        for name in ("cuda-headers", "loops"):
            (cache.directory() / name).mkdir(parents=True, exist_ok=True)
            (self.cache / name).symlink_to(cache.directory() / name)
        self._compilers: dict[str, Any] = {}
        self.edit: Edit

    def start(self, edit: Edit, instances: Sequence[Instance], tries: int | None) -> int:
        """Fork, and return the descriptor on which the fork tells what it does."""
        self.edit, self._since, self._told = edit, time.monotonic(), b""
        for compiler in ("nvrtc", "nvvm"):
            if compiler not in self._compilers:
                self._compilers[compiler] = process._start(compiler)
        self._reading, writing = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._reading)
            self._judge_and_end(edit, instances, tries, writing)
        os.close(writing)
        return self._reading

    def collect(self, ready: bool) -> Verdict | None:
        """Return the verdict, if there is one by now."""
        if not ready:
            if time.monotonic() - self._since < WHOLE_SECONDS:
                return None
            os.kill(self._child, signal.SIGKILL)
            for compiler in self._compilers.values():  # with all that they compile
                compiler.stop()
            self._compilers.clear()
        else:
            piece = os.read(self._reading, 1 << 16)
            self._told += piece
            if piece:
                return None
        os.close(self._reading)
        _, status = os.waitpid(self._child, 0)
        for name in ("cuda", "numba"):
            shutil.rmtree(self.cache / name, ignore_errors=True)
        if self.edit.file.startswith("cuda/"):
            shutil.copy(KERNELS / self.edit.file, self.kernels)
        return self._verdict(status)

    def _verdict(self, status: int) -> Verdict:
        told = [json.loads(line) for line in self._told.decode().splitlines()]
        seconds = time.monotonic() - self._since
        last = told[-1] if told else {}
        if "outcome" in last:
            return Verdict(**last, seconds=seconds)
        if not last:
            return Verdict(INVALID, reason=f"the compiler did not end (status {status})", seconds=seconds)
        ended = os.WIFSIGNALED(status) and os.WTERMSIG(status)
        reason = "it did not end" if ended == signal.SIGKILL else f"it crashed (status {status})"
        return Verdict(KILLED, last["instance"], last["case"], reason, last["tried"], seconds)

    def stop(self) -> None:
        """End the fork that is at work."""
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        os.close(self._reading)

    def close(self) -> None:
        """End the compilers' processes."""
        for compiler in self._compilers.values():
            compiler.stop()
        self._compilers.clear()

    # --- in the fork --------------------------------------------------------------------------------------------------
    def _judge_and_end(self, edit: Edit, instances: Sequence[Instance], tries: int | None, writing: int) -> None:
        """Tell what becomes of a mutant, and end this process."""
        status = 1
        gc.disable()
        try:
            limit = _address_space() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            process._running.update(self._compilers)  # a fork forgets those of its parent
            process.call = functools.partial(_without_machine_code, process.call)  # type: ignore[assignment]
            os.environ["GPUBP_CACHE_DIR"] = str(self.cache)
            with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), limits(total=MOST_BLOCKS):
                verdict = self._try(edit, instances, tries, functools.partial(_tell, writing))
            _tell(writing, **verdict)
            status = 0
        except MemoryError:
            _tell(writing, outcome=KILLED, reason="it takes too much memory")
        finally:
            os._exit(status)

    def _try(self, edit: Edit, instances: Sequence[Instance], tries: int | None, tell: Any) -> dict[str, Any]:
        backend = self._mutated(edit)
        waits = re.search("sync|wait|commit", edit.before) is not None  # what is missing may only show as a race
        tried = 0
        for instance in instances:
            try:
                ptx = strip(_ptx_of(backend(instance.arch), instance))
            except Exception as error:  # whatever the compilers, or the functions that make kernels, say against it
                return {"outcome": INVALID, "reason": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
            if ptx == instance.ptx:
                continue
            if tried == tries:
                break
            tried += 1
            for case, observe in _runs(instance.cases, observed=tried <= OBSERVED or waits):
                told = {"instance": instance.name, "case": case.name, "tried": tried}
                tell(**told)
                with runner.on_chip(case.arch):
                    outcome = runner.run_case(backend(case.arch), case, runner.Watch(observe))
                if not outcome.passed:
                    return {"outcome": KILLED, "reason": outcome.complaint()[:300], **told}
        return {"outcome": SURVIVED if tried else SAME, "tried": tried}

    def _mutated(self, edit: Edit) -> Callable[[str], Any]:
        """Return what gives the backend with this mutant's kernels for an architecture."""
        text = edit.apply((KERNELS / edit.file).read_text(encoding="utf-8"))
        if edit.file.startswith("cuda/"):
            (self.kernels / Path(edit.file).name).write_text(text, encoding="utf-8")
            return by_chip(functools.partial(CupyBackend, "emulator", kernels=self.kernels))
        return by_chip(functools.partial(_numba_backend, f"gpubp.kernels.numba.{Path(edit.file).stem}", text))


def _runs(cases: Sequence[Case], observed: bool) -> Iterator[tuple[Case, bool]]:
    """Yield each case, and whether observers are on; if `observed`, the middle one and the largest come once more."""
    yield from ((case, False) for case in cases)
    if observed:
        yield from ((case, True) for case in dict.fromkeys((cases[len(cases) // 2], cases[-1])))


def _without_machine_code(call: Callable[..., Any], compiler: str, function: str, **arguments: Any) -> Any:
    """Do what `process.call` does, but let NVRTC stop at the PTX, which is all that the emulated device reads: it then
    takes about half the time. Not so for an older chip, where the machine code may lack what the PTX asks for."""
    if function == "compile_program" and f"-arch={OLDER}" not in arguments["options"]:
        arguments["options"] = [re.sub("^-arch=sm_", "-arch=compute_", option) for option in arguments["options"]]
    return call(compiler, function, **arguments)


def _tell(descriptor: int, **what: Any) -> None:
    os.write(descriptor, json.dumps(what).encode() + b"\n")


def _address_space() -> int:
    """Return the bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _ptx_of(backend: Any, instance: Instance) -> str:
    """Return the PTX that a backend makes of an instance."""
    with runner.on_chip(instance.arch):
        if instance.backend == "cupy":
            return backend.compiled(instance.launch)[0].ptx
        (overload,) = backend.kernel_of(instance.launch).overloads.values()
        return overload.ptx


class _Mutated(importlib.machinery.SourceFileLoader, importlib.abc.MetaPathFinder):
    """Finds one module, and gives it another text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, str(KERNELS / "numba" / f"{name.rpartition('.')[2]}.py"))
        self._text = text

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        return importlib.util.spec_from_loader(fullname, self) if fullname == self.name else None

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


def _numba_backend(name: str, text: str) -> NumbaBackend:
    """Return a backend whose kernels have another text in one module. For a process that ends soon."""
    package = "gpubp.kernels.numba"
    for loaded in [each for each in sys.modules if each.startswith(f"{package}.")]:
        delattr(sys.modules[package], loaded.rpartition(".")[2])
        del sys.modules[loaded]
    del sys.modules["gpubp.backends.numba_backend"]
    sys.meta_path.insert(0, _Mutated(name, text))
    return importlib.import_module("gpubp.backends.numba_backend").NumbaBackend("emulator")
