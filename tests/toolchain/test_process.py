"""Compilers in processes of their own: how they start, serve, fail and end, and that they give the same code."""

import hashlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpubp.backends import instances as sources
from gpubp.backends.plans import PIPELINED, TENSORCORE
from gpubp.dtypes import BFLOAT16, FLOAT32
from gpubp.toolchain import process
from gpubp.toolchain.nvrtc import compile_file, compile_source
from gpubp.toolchain.process import CompileError

SOURCE = 'extern "C" __global__ void k(float* x) { x[threadIdx.x] *= 2; }'
SLOW = """extern "C" __global__ void k(float* x) {
    #pragma unroll
    for (int i = 0; i < 4000; i++) x[i] = x[i] * x[i + 1] + sinf(x[i]);
}"""
"""Takes a second or so to compile."""


def compile_program(source=SOURCE, folder="/"):
    arguments = {"source": source, "name": "k.cu", "options": ["-arch=sm_90"], "expressions": []}
    return process.call("nvrtc", "compile_program", folder, **arguments)


@pytest.fixture
def fresh():
    """No compiler runs at the beginning and at the end."""
    process._stop()
    yield
    process._stop()


def helper():
    """The process of NVRTC."""
    return process._running["nvrtc"].process


def children(pid):
    """The processes of a session: a compiler's process and its forks."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
        except (OSError, IndexError):
            continue
        if session == pid:
            found.append(int(folder.name))
    return found


def is_alive(pid):
    """Whether a process runs: one that nobody waits for may still be listed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def forks():
    """The compilations that are going on."""
    return {pid for pid in children(helper().pid) if pid != helper().pid and is_alive(pid)}


def wait_until(condition):
    """Return what the condition gives once that is true, or after a minute."""
    deadline = time.monotonic() + 60
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.001)
    return found


def test_one_process_serves_all_calls(fresh):
    first = compile_program()
    pid = helper().pid
    assert compile_program() == first
    assert helper().pid == pid


def test_errors_of_the_compiler_keep_its_words():
    with pytest.raises(process.Refused, match="NVRTC_ERROR_COMPILATION") as caught:
        compile_program("nonsense")
    assert "k.cu(1)" in caught.value.log
    assert compile_program()["log"] == ""


def test_a_fault_in_a_call_is_told():
    with pytest.raises(process.CompilerError, match=r"nvrtc failed \(TypeError"):
        process.call("nvrtc", "compile_program", source=SOURCE)


def test_a_compiler_that_is_missing_is_told(fresh, tmp_path, monkeypatch):
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "__init__.py").touch()  # a package that hides the parts of NVIDIA's
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(process.CompilerError, match=r"nvrtc does not load \(ModuleNotFoundError.*pip install"):
        compile_program()


@pytest.fixture
def compiling(fresh):
    """A compilation that goes on in a thread: its fork of NVRTC's process, the thread, and a list for its outcome."""
    outcome = []

    def compile_slowly():
        try:
            outcome.append(len(compile_program(SLOW)["cubin"]))
        except process.CompilerError as error:
            outcome.append(str(error))

    compile_program()
    assert wait_until(lambda: not forks())
    thread = threading.Thread(target=compile_slowly)
    thread.start()
    (fork,) = wait_until(forks)
    return fork, thread, outcome


def test_calls_are_served_at_a_time(compiling):
    """A compilation that takes long keeps no other waiting."""
    fork, thread, outcome = compiling
    os.kill(fork, signal.SIGSTOP)
    try:
        assert compile_program()["cubin"]
        assert outcome == []
    finally:
        os.kill(fork, signal.SIGCONT)
    thread.join()
    assert outcome[0] > 1000


def test_a_compilation_that_dies_is_one_error_and_the_next_one_works(compiling):
    fork, thread, outcome = compiling
    os.kill(fork, signal.SIGKILL)
    thread.join()
    assert outcome == ["nvrtc died: its process ended without an answer"]
    assert compile_program()["cubin"]


def test_a_process_that_was_killed_is_started_again(fresh):
    compile_program()
    first = helper().pid
    os.kill(first, signal.SIGKILL)
    helper().wait()
    assert compile_program()["cubin"]
    assert helper().pid != first


@pytest.mark.parametrize("flags", [(), ("-s",)])
def test_packages_of_a_user_are_found_as_python_finds_them(tmp_path, flags):
    """Where PYTHONUSERBASE says; not at all with -s."""
    site = tmp_path / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages" / "cuda"
    site.mkdir(parents=True)
    (site / "__init__.py").touch()  # a package that hides the parts of NVIDIA's
    code = f"""
from gpubp.toolchain import process
try:
    process.call("nvrtc", "compile_program", source={SOURCE!r}, name="k.cu", options=[], expressions=[])
except process.CompilerError as error:
    print(error)
"""
    # outside a virtual environment, which knows no user's packages
    folders = [folder for folder in sys.path if os.path.isabs(folder)]
    environment = os.environ | {"PYTHONUSERBASE": str(tmp_path), "PYTHONPATH": os.pathsep.join(folders)}
    command = [os.path.realpath(sys.executable), *flags, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    # the libraries themselves are not found by way of PYTHONPATH
    assert ("ModuleNotFoundError" in result.stdout) == (not flags), result.stdout + result.stderr


def test_without_an_executable_the_reason_is_told(fresh, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(process.CompilerError, match=r"sys\.executable"):
        compile_program()


def test_a_folder_that_was_deleted_is_no_obstacle(fresh, tmp_path, monkeypatch):
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    assert compile_program()["cubin"]


def test_a_folder_that_may_not_be_entered_is_no_obstacle(fresh):
    assert compile_program(folder="/nonexistent")["cubin"]


def test_a_default_timeout_of_sockets_is_not_for_compilers(fresh):
    socket.setdefaulttimeout(0.001)
    try:
        assert compile_program()["cubin"]
    finally:
        socket.setdefaulttimeout(None)


def test_forks_of_other_threads_hold_no_answer_back(fresh):
    """Children that are forked while a call is made live on, and the call does not wait for their end."""
    code = f"""
import os, threading, time
from gpubp.toolchain import process
running = True
children = []
def fork():
    while running:
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        children.append(child)
forker = threading.Thread(target=fork)
forker.start()
process.call("nvrtc", "compile_program", source={SOURCE!r}, name="k.cu", options=[], expressions=[])
running = False
forker.join()
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
print(len(children))
"""
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0
    assert time.monotonic() - started < 50


def test_a_process_that_was_stopped_does_not_keep_its_parent(fresh, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.1)
    compile_program()
    pid = helper().pid
    os.kill(pid, signal.SIGSTOP)
    process._stop()
    assert not is_alive(pid)


WITHOUT_PERSONALITY = """
import ctypes, platform, struct
number = {"x86_64": 135, "aarch64": 92}[platform.machine()]
# A program for the kernel's filter: load the number of the call; if it is that one, EPERM; else let it be.
rules = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000))
rules = b"".join(struct.pack("HBBI", *rule) for rule in rules)
memory = ctypes.create_string_buffer(rules)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(memory))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""


def test_a_container_that_hides_personality_compiles_and_says_so():
    code = f"""{WITHOUT_PERSONALITY}
from gpubp.toolchain import process
made = process.call("nvrtc", "compile_program", source={SOURCE!r}, name="k.cu", options=[], expressions=[])
print(process.reproducible(), ".entry k" in made["ptx"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("False True\n", "")


def test_it_dies_with_its_parent():
    code = f"""
import os, signal
from gpubp.toolchain import process
process.call("nvrtc", "compile_program", source={SOURCE!r}, name="k.cu", options=[], expressions=[])
print(process._running["nvrtc"].process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert wait_until(lambda: not is_alive(int(result.stdout)))


def test_a_fork_of_the_user_starts_its_own(fresh):
    """A fork must neither share the connection nor keep its parent's process alive."""
    code = f"""
import os, warnings
from gpubp.toolchain import process
warnings.simplefilter("error")
def compile_it():
    made = process.call("nvrtc", "compile_program", source={SOURCE!r}, name="k.cu", options=[], expressions=[])
    return process._running["nvrtc"].process.pid, len(made["cubin"])
first = compile_it()
reader, writer = os.pipe()
if os.fork() == 0:
    second = compile_it()
    os.write(writer, repr(second).encode())
    process._stop()
    os._exit(0)
second = eval(os.read(reader, 100))
os.wait()
assert second[0] != first[0] and second[1] == first[1], (first, second)
assert compile_it() == first
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_an_unguarded_script_is_not_run_again(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"print('once')\nfrom gpubp.toolchain.nvrtc import compile_source\ncompile_source({SOURCE!r})\n")
    environment = os.environ | {"GPUBP_CACHE_DIR": str(tmp_path / "cache")}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=environment)
    assert result.stdout == "once\n"


# --- the same source, the same code -----------------------------------------------------------------------------------
KERNELS = {
    "NT": sources.cuda_entry("dense_forward", (FLOAT32, "GELU", PIPELINED["float32"][-1])),
    "NN": sources.cuda_entry("hidden_delta", (FLOAT32, "Tanh", PIPELINED["float32"][2])),
    # of this one a compilation in a user's process gave three codes
    "TN": sources.cuda_entry("weight_gradient", (FLOAT32, PIPELINED["float32"][2])),
    "tensor": sources.cuda_entry("hidden_delta", (BFLOAT16, "ReLU", TENSORCORE["bfloat16"][-1])),
}


def codes(order, folder, cache):
    """PTX and machine code of the kernels, compiled in this order in a process of its own."""
    code = f"""
import hashlib, os
from gpubp.toolchain.nvrtc import compile_file
from tests_of_kernels import KERNELS
for name in {order!r}:
    made = compile_file({str(folder)!r} + "/" + KERNELS[name].source, name_expressions=[KERNELS[name].expression])
    print(name, hashlib.sha256(made.ptx.encode()).hexdigest(), hashlib.sha256(made.cubin).hexdigest())
"""
    (cache / "tests_of_kernels.py").parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, cache / "tests_of_kernels.py")
    # The environment's size moves the data of a process as well.
    more = {"GPUBP_CACHE_DIR": str(cache / "kept"), "PYTHONPATH": str(cache), "SIZE": "x" * (997 * len(cache.name))}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | more)
    assert result.returncode == 0, result.stderr
    return dict(line.split(" ", 1) for line in result.stdout.splitlines())


ADDRESSES = """
def addresses(compiler):
    allocate = ctypes.CDLL(None).malloc
    allocate.restype = ctypes.c_size_t
    heap = next(line.split()[0] for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
    return heap, [allocate(16 * size) for size in (*range(1, 80), 1000, 100_000, 10_000_000)]
_WORK["addresses"] = addresses
"""


def test_nothing_of_the_user_moves_the_memory_of_a_compiler(reproducible, tmp_path, monkeypatch):
    """What it allocates lies where it always lies: the code depends on that."""
    text = process.SCRIPT.read_text()
    marker = 'if __name__ == "__main__":'
    assert text.count(marker) == 1
    monkeypatch.setattr(process, "SCRIPT", tmp_path / "compilers.py")
    process.SCRIPT.write_text(text.replace(marker, ADDRESSES + marker))
    folders = list(sys.path)
    found = set()
    for size in (1, 10, 100, 1_000, 10_000, 100_000):
        monkeypatch.setenv("SIZE", "x" * size)
        monkeypatch.setattr(sys, "path", ["/" + "x" * min(size, 1_000), *folders])
        monkeypatch.chdir(tmp_path)
        process._stop()
        found.add(repr(process.call("nvrtc", "addresses")))
    process._stop()
    assert len(found) == 1


@pytest.mark.slow
def test_the_order_of_compilation_changes_nothing(reproducible, tmp_path):
    orders = (["NT", "NN", "TN", "tensor"], ["tensor", "TN", "NN", "NT"], ["TN"])
    first, *others = (
        codes(order, sources.KERNEL_DIRECTORY, tmp_path / ("x" * (1 + number))) for number, order in enumerate(orders)
    )
    for other in others:
        assert other == {name: first[name] for name in other}


@pytest.mark.exhaustive
def test_no_process_and_no_path_changes_the_code(reproducible, tmp_path, monkeypatch):
    """The machine code holds the path; the PTX without its table of files does not."""
    found = set()
    lengths = random.Random(0)
    for number in range(40):
        folder = tmp_path / ("k" * lengths.randint(1, 120))
        shutil.copytree(sources.KERNEL_DIRECTORY, folder)
        monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / f"cache{number}" / ("c" * lengths.randint(1, 120))))
        monkeypatch.chdir(folder)
        process._stop()
        entry = KERNELS["TN"]
        ptx = compile_file(folder / entry.source, name_expressions=[entry.expression]).ptx
        instructions = [
            line for line in ptx.splitlines() if line.startswith(("\t", "$")) and not line.startswith("\t.")
        ]
        found.add(hashlib.sha256("\n".join(instructions).encode()).hexdigest())
        shutil.rmtree(folder)
    assert len(found) == 1


@pytest.mark.parametrize("include", ["<value.cuh>", '"value.cuh"'])
def test_paths_are_shown_as_they_are_given(tmp_path, monkeypatch, include):
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "value.cuh").write_text("__device__ void store(int* x) { x[threadIdx.x] = 42; }\n")
    kernel = tmp_path / "kernel.cu"
    kernel.write_text(f'#include {include}\nextern "C" __global__ void k(int* x) {{ store(x); }}\n')
    ptx = compile_file(kernel).ptx
    assert f'"{kernel}"' in ptx
    assert f'"{tmp_path}/value.cuh"' in ptx
    assert "//" not in "".join(line for line in ptx.splitlines() if line.startswith("\t.file"))
    kernel.write_text("nonsense\n")
    with pytest.raises(CompileError) as caught:
        compile_file(kernel)
    assert caught.value.log.startswith(f"{kernel}(1): error")


def test_a_kernel_of_another_folder_is_not_taken_for_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / "cache"))
    made = [compile_source(SOURCE, name=str(tmp_path / name / "k.cu")).ptx for name in ("a", "b")]
    assert made[0] != made[1]
