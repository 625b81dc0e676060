"""Calls of NVIDIA's compilers in processes of their own (see `compilers.py`): one process for each compiler.

A process is started at the first call, by exec, so that it has nothing of the user's; it ends with the process that
started it. Several threads may call at a time, and are served at a time.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpubp.errors import BackendError

SCRIPT = Path(__file__).with_name("compilers.py")


class CompilerError(BackendError, RuntimeError):
    """A compiler refused its input (`reason`, and `log`: its whole output), cannot be loaded, or died."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(f"{reason}\n{log}".rstrip())
        self.reason = reason
        self.log = log


class Refused(CompilerError):
    """A compiler refused its input."""


class CompileError(Exception):
    """A compiler refused the source or the PTX. `log` is its whole output, which quotes the source lines at fault."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(f"{message}\n{log}".rstrip())
        self.log = log


@dataclass(frozen=True)
class _Compiler:
    """The process of a compiler, and the socket for requests to it. The process ends when the socket is closed."""

    process: subprocess.Popen[bytes]
    requests: socket.socket

    def stop(self) -> None:
        with contextlib.suppress(OSError), self.requests:
            self.requests.shutdown(socket.SHUT_RDWR)  # also where a fork of this process holds a copy
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:  # somebody has stopped it
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


GRACE = 2.0
"""Seconds that a compiler's process may take to end by itself."""

_running: dict[str, _Compiler] = {}
# Held while a connection is made and handed over: a fork in that moment would hold its other end open.
_connecting = threading.RLock()


def call(compiler: str, function: str, folder: str = "/", **arguments: Any) -> Any:
    """Return what a function of `compilers.py` returns.

    Args:
        compiler: "nvrtc", "nvvm" or "nvjitlink".
        function: its name.
        folder: where it runs. NVRTC asks for it: the length of another one than "/" moves data in memory.
        arguments: its keyword arguments.

    Raises:
        Refused: the compiler refused the input.
        CompilerError: the compiler is missing, or it died.
    """
    request = pickle.dumps((folder, function, arguments))
    answer = b""
    # A process that died leaves a closed connection, in the middle of the request or of the answer.
    with _connect(compiler) as connection, contextlib.suppress(OSError), connection.makefile("rwb") as stream:
        stream.write(request)
        stream.flush()
        answer = stream.read()
    try:
        kind, result = pickle.loads(answer)
    except (EOFError, pickle.UnpicklingError):
        raise CompilerError(f"{compiler} died: its process ended without an answer") from None
    if kind == "done":
        return result
    if kind == "refused":
        raise Refused(*result)
    if kind == "missing":
        raise CompilerError(f"{compiler} does not load ({result}): pip install 'gpubp[emulator]'")
    raise CompilerError(f"{compiler} failed ({result})")


def reproducible() -> bool:
    """Return whether the same source always gives the same code: not where a container hides personality(2)."""
    return call("nvrtc", "addresses_are_fixed")


def _connect(compiler: str) -> socket.socket:
    """Return a connection to a compiler's process for one call. Start the process if there is none, or if it died."""
    with _connecting, contextlib.ExitStack() as unused:
        ours, theirs = map(unused.enter_context, socket.socketpair())
        ours.settimeout(None)  # whatever socket.setdefaulttimeout says
        for _ in range(2):
            if compiler not in _running:
                _running[compiler] = _start(compiler)
            try:
                socket.send_fds(_running[compiler].requests, [b"!"], [theirs.fileno()])
            except OSError:
                _running.pop(compiler).stop()
            else:
                unused.pop_all()
                theirs.close()
                return ours
    raise CompilerError(f"{compiler} cannot be started: its process ends at once ({sys.executable} {SCRIPT})")


def _start(compiler: str) -> _Compiler:
    if not sys.executable:
        raise CompilerError(f"{compiler} cannot be started: Python does not know its own executable (sys.executable)")
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    ours.settimeout(None)
    folders = json.dumps([folder for folder in _absolute(sys.path) if _has_compilers(folder)])
    # -P: the script's own folder is not for imports, as its files have names that others have too. -W: a warning that
    # the user's environment makes an error would end it.
    flags = ["-P", "-W", "ignore", *(["-s"] if sys.flags.no_user_site else [])]
    command = [sys.executable, *flags, str(SCRIPT), str(theirs.fileno()), compiler, folders]
    with theirs:
        process = subprocess.Popen(
            command,
            env=_environment(),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the process that asks
        )
    return _Compiler(process, ours)


def _environment() -> dict[str, str]:
    """Return the variables of a compiler's process: the few that it needs, as all of them move its data in memory."""
    kept = {name: value for name, value in os.environ.items() if name in NEEDED or name.startswith(NEEDED_PREFIXES)}
    # Without this a thread takes over pieces of memory that another has given back, wherever they lie.
    return kept | {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}


NEEDED = {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONHOME", "PYTHONUSERBASE", "CONDA_PREFIX"}
NEEDED_PREFIXES = ("LC_", "LD_", "CUDA_")
"""Variables by which Python, the dynamic linker and NVIDIA's libraries find their files."""


def _absolute(folders: Sequence[str]) -> list[str]:
    return [os.path.join(current_folder(), folder) for folder in folders]


def _has_compilers(folder: str) -> bool:
    """Return whether packages of NVIDIA lie in a folder for imports. Others would move data in memory for nothing."""
    return any(os.path.isdir(os.path.join(folder, package)) for package in ("cuda", "nvidia"))


def current_folder() -> str:
    """Return the working directory, or "/" if there is none."""
    try:
        return os.getcwd()
    except OSError:  # it was deleted, or lies in a folder that this user may not enter
        return "/"


def _forget() -> None:
    """In a fork, which must not keep the processes of its parent alive: start new ones when needed."""
    for each in _running.values():
        each.requests.close()
        each.process.returncode = 0  # it is no child of this process: nothing to wait for
    _running.clear()
    _connecting.release()


@atexit.register
def _stop() -> None:
    while _running:
        _running.popitem()[1].stop()


os.register_at_fork(before=_connecting.acquire, after_in_parent=_connecting.release, after_in_child=_forget)
