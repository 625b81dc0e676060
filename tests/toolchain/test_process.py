"""Compilers in processes of their own: how they start, serve, fail and end, and that they give the same code."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gpubp.kernels.cuda import sources
from gpubp.kernels.plans import PIPELINED, TENSORCORE
from gpubp.toolchain import process
from gpubp.toolchain.nvrtc import CompileError, compile_file, compile_source

SOURCE = 'extern "C" __global__ void k(float* x) { x[threadIdx.x] *= 2; }'
SLOW = """extern "C" __global__ void k(float* x) {
    #pragma unroll
    for (int i = 0; i < 4000; i++) x[i] = x[i] * x[i + 1] + sinf(x[i]);
}"""
"""Takes a second or so to compile."""


def compile_program(source=SOURCE):
    return process.call("nvrtc", "compile_program", source=source, name="k.cu", options=["-arch=sm_90"], expressions=[])


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
    return set(children(helper().pid)) - {helper().pid}


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
    with pytest.raises(process.CompilerError, match="nvrtc failed: TypeError"):
        process.call("nvrtc", "compile_program", source=SOURCE)


def test_a_compiler_that_is_missing_is_told(fresh, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "site-packages" not in path])
    with pytest.raises(process.CompilerError, match="nvrtc failed: ModuleNotFoundError"):
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


def test_without_an_executable_the_reason_is_told(fresh, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(process.CompilerError, match=r"sys\.executable"):
        compile_program()


def test_a_folder_that_was_deleted_is_no_obstacle(fresh, tmp_path, monkeypatch):
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    assert compile_program()["cubin"]


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
    "NT": sources.product_kernels("dense_forward", "NT", "float32", "GELU").whole(PIPELINED["float32"][-1]),
    "NN": sources.product_kernels("hidden_delta", "NN", "float32", "Tanh").whole(PIPELINED["float32"][2]),
    # of this one a compilation in a user's process gave three codes
    "TN": sources.product_kernels("weight_gradient", "TN", "float32").whole(PIPELINED["float32"][2]),
    "tensor": sources.product_kernels("hidden_delta", "NN", "bfloat16", "ReLU").whole(TENSORCORE["bfloat16"][-1]),
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
    more = {"GPUBP_CACHE_DIR": str(cache / "kept"), "PYTHONPATH": str(cache), "SIZE": "x" * random.randrange(9000)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | more)
    assert result.returncode == 0, result.stderr
    return dict(line.split(" ", 1) for line in result.stdout.splitlines())


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
    for number in range(40):
        folder = tmp_path / ("k" * random.randint(1, 120))
        shutil.copytree(sources.KERNEL_DIRECTORY, folder)
        monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / f"cache{number}" / ("c" * random.randint(1, 120))))
        process._stop()
        entry = KERNELS["TN"]
        ptx = compile_file(folder / entry.source, name_expressions=[entry.expression]).ptx
        instructions = [
            line for line in ptx.splitlines() if line.startswith(("\t", "$")) and not line.startswith("\t.")
        ]
        found.add(hashlib.sha256("\n".join(instructions).encode()).hexdigest())
        shutil.rmtree(folder)
    assert len(found) == 1


def test_paths_are_shown_as_they_are_given(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "value.cuh").write_text("#define VALUE 42\n__device__ int value() { return VALUE; }\n")
    kernel = tmp_path / "kernel.cu"
    kernel.write_text('#include <value.cuh>\nextern "C" __global__ void k(int* x) { x[0] = value(); }\n')
    ptx = compile_file(kernel).ptx
    assert f'"{kernel}"' in ptx
    assert "//" not in "".join(line for line in ptx.splitlines() if line.startswith("\t.file"))
    kernel.write_text("nonsense\n")
    with pytest.raises(CompileError) as caught:
        compile_file(kernel)
    assert caught.value.log.startswith(f"{kernel}(1): error")


def test_a_kernel_of_another_folder_is_not_taken_for_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUBP_CACHE_DIR", str(tmp_path / "cache"))
    made = [compile_source(SOURCE, name=str(tmp_path / name / "k.cu")).ptx for name in ("a", "b")]
    assert made[0] != made[1]
