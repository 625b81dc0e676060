"""The first commands after an installation, as different people meet them: `make first-steps` runs this.

Each person has an installation, a user, a folder to work in and an environment; everything is piped, so nobody has a
terminal. What they try must end well, or in one sentence that says what to do. Installations come from the package
index, as they do for people. Only root can become the users that are not root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1]
NOBODY = (65534, 65534)
"""User and group without a home that exists."""
STRANGER = (64999, 65534)
"""A user that the system does not know at all, as in a container; of the same group."""

SMALL = ("--device", "emulator", "--primitive", "hidden_delta", "--shape", "33x17x65", "--mode", "-")
STEPS = (
    ("--help",),
    ("info",),
    ("train", "--epochs", "1", "--out", "runs/first"),
    *2 * (("check", "--backend", "cupy", "--variant", "tensorcore", "--dtype", "float16", *SMALL),),
    *2 * (("check", "--backend", "numba", "--variant", "tiled", "--dtype", "float32", *SMALL),),
)
"""What everybody tries."""
LATER = (
    ("train", "--backend", "cupy", "--device", "emulator", "--layers", "16", "--epochs", "1", "--out", "runs/cupy"),
    ("train", "--backend", "numba", "--device", "emulator", "--layers", "16", "--epochs", "1", "--out", "runs/numba"),
    ("profile", "hidden_delta", "--shape", "256x256x256"),
    ("report", "--backend", "cupy", "--primitive", "scale", "--skip", "bench", "--out", "report.html"),
)
"""What two of them try besides."""
SHOWN = ("pandas",)
"""What the README's examples use besides."""
UNKEPT = r"warning: compiled kernels are not kept: .* cannot be written \(.*\); set GPUBP_CACHE_DIR to a folder .*\n"


@dataclass(frozen=True)
class Person:
    """Somebody with an installation.

    python: of the installation. folder: where they work. environment: variables that differ from the tests'; None: not
    set. user: user and group to become; None: to stay.
    """

    python: Path
    folder: Path
    environment: dict[str, str | None] = field(default_factory=dict)
    user: tuple[int, int] | None = None

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command as this person, without a terminal and without standard input."""
        environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "HOME")}
        environment = {name: value for name, value in (environment | self.environment).items() if value is not None}
        become = [] if self.user is None else _become(self.user)
        return subprocess.run(
            [*become, *map(str, command)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )

    def gpubp(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the installed program."""
        return self.run(self.python.with_name("gpubp"), *arguments)


def _become(user: tuple[int, int]) -> list[str]:
    # Through env, as setpriv itself still has root's rights when it starts a program.
    return ["setpriv", f"--reuid={user[0]}", f"--regid={user[1]}", "--clear-groups", "--no-new-privs", "env"]


def examples() -> list[str]:
    """The Python examples of the README, but for the files among them, which begin with their name: they need CuPy."""
    found = re.findall(r"^```python\n(.*?)^```", (SOURCE / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return [example for example in found if not re.match(r"# \w+\.py\n", example)]


def take(person: Person, steps: Iterable[tuple[str, ...]], warning: str = "") -> None:
    """Take some steps; `warning` is what each command may say on stderr, as a pattern."""
    for step in steps:
        ended = person.gpubp(*step)
        assert ended.returncode == 0, f"{step}\n{ended.stdout}\n{ended.stderr}"
        assert re.fullmatch(f"({warning})?", ended.stderr), f"{step}\n{ended.stderr}"


def try_everything(person: Person) -> None:
    """Take all steps, and run the README's examples."""
    take(person, (*STEPS, *LATER))
    for example in examples():
        ended = person.run(person.python, "-c", example)
        assert (ended.returncode, ended.stderr) == (0, ""), f"{example}\n{ended.stderr}"


# --- installations ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def place() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="gpubp-first-steps-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def source(place: Path) -> Path:
    """A clean copy of the sources, in a folder with blanks and umlauts."""
    folder = place / "Bücher über Kernel" / "gpubp"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=SOURCE, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (SOURCE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(SOURCE / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def interpreter() -> str:
    """A Python that every user may run, if there is one, else the tests' own."""
    for candidate in (sys._base_executable, "/usr/bin/python3"):
        asks = [
            *(_become(NOBODY) if os.getuid() == 0 else []),
            candidate,
            "-c",
            "import sys; print(sys.version_info >= (3, 11))",
        ]
        if subprocess.run(asks, capture_output=True, text=True, cwd="/").stdout == "True\n":
            return candidate
    return sys._base_executable


def install(interpreter: str, folder: Path, *what: str | Path) -> Path:
    """Make a virtual environment, install into it, and return its Python."""
    subprocess.run([interpreter, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    pip_install(python, Path("/"), *what)
    return python


def pip_install(python: Path, folder: Path, *what: str | Path) -> None:
    """Install into an environment, as from this folder."""
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--disable-pip-version-check", *what]
    subprocess.run(command, check=True, cwd=folder)


@pytest.fixture(scope="session")
def wheel(source: Path, place: Path) -> Path:
    """The wheel of the sources."""
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place / "wheels", source]
    subprocess.run(command, check=True)
    (path,) = (place / "wheels").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def from_wheel(interpreter: str, wheel: Path, place: Path) -> Path:
    """The Python of an installation of the wheel, which its users cannot write to."""
    return install(interpreter, place / "from wheel", f"gpubp[emulator,sklearn] @ {wheel.as_uri()}", *SHOWN)


@pytest.fixture(scope="session")
def editable(interpreter: str, source: Path, place: Path) -> Path:
    """The Python of an editable installation, in a folder with blanks and umlauts like its sources."""
    return install(interpreter, place / "schöne Umgebung", "-e", f"{source}[emulator,sklearn]", *SHOWN)


@pytest.fixture
def folder(place: Path, request: pytest.FixtureRequest) -> Path:
    """A folder to work in, which everybody may write to, and which is not that of the sources."""
    made = place / request.node.name
    made.mkdir()
    made.chmod(0o777)
    return made


@pytest.fixture
def root(interpreter: str) -> None:
    """Skip what needs another user where nobody can become one, or no Python is theirs to run."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root becomes another user, by util-linux' setpriv")
    if subprocess.run([*_become(STRANGER), interpreter, "-c", ""], cwd="/").returncode:
        pytest.skip(f"other users cannot run {interpreter}")


# --- people -----------------------------------------------------------------------------------------------------------
def test_an_editable_installation_in_a_folder_with_blanks_and_umlauts(editable, folder):
    try_everything(Person(editable, folder, {"GPUBP_CACHE_DIR": str(folder / "kernels für alle")}))


def test_a_c_locale(editable, folder):
    take(Person(editable, folder, {"LANG": None, "LC_ALL": "C", "GPUBP_CACHE_DIR": str(folder / "cache")}), STEPS)


def test_an_encoding_without_umlauts(from_wheel, folder):
    """Python turns a C locale into UTF-8, unless it is told not to."""
    ascii_only = {"LANG": None, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    try_everything(Person(from_wheel, folder, ascii_only | {"GPUBP_CACHE_DIR": str(folder / "cache")}))


def test_an_ordinary_user_without_a_home(root, from_wheel, folder):
    """Neither the installation nor a cache folder can be written, HOME is not set, and /etc/passwd's is not there."""
    take(Person(from_wheel, folder, {"HOME": None}, NOBODY), STEPS, UNKEPT)


@pytest.mark.parametrize("locked", [False, True])
def test_a_user_that_the_system_does_not_know(locked, root, from_wheel, folder):
    """Also in a folder of root's that nobody else may enter, which is HOME as well, as after `su`."""
    folder.chmod(0o700 if locked else 0o777)
    person = Person(from_wheel, folder, {"HOME": str(folder) if locked else None}, STRANGER)
    for step in (STEPS[1], *STEPS[3:6]):
        ended = person.gpubp(*step)
        assert ended.returncode == 0, f"{step}\n{ended.stdout}\n{ended.stderr}"
        assert re.fullmatch(UNKEPT, ended.stderr), ended.stderr


def test_two_users_of_one_cache(root, from_wheel, folder):
    """The second finds what the first made, and can add to it."""
    shared = folder / "shared"
    shared.mkdir()
    os.chown(shared, 0, NOBODY[1])
    shared.chmod(0o2775)
    first, second = (
        Person(from_wheel, folder, {"HOME": None, "GPUBP_CACHE_DIR": str(shared)}, user) for user in (NOBODY, STRANGER)
    )
    for person in (first, second, first):
        take(person, STEPS[3:])
    made = [path for path in shared.rglob("*") if path.is_file()]
    assert made
    before = {path: path.stat().st_mtime_ns for path in made}
    ended = second.gpubp("check", "--backend", "cupy", "--variant", "naive", *SMALL)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in made} == before
    assert {path.stat().st_uid for path in shared.rglob("*.cubin") if path not in made} == {STRANGER[0]}


def test_a_disk_that_is_full(root, from_wheel, folder):
    """The cache lies on a file system of 64 KiB, which this process alone sees."""
    mount = f"mount -t tmpfs -o size=64k,mode=1777 none '{folder}/full'"
    (folder / "full").mkdir()
    person = Person(from_wheel, folder, {"GPUBP_CACHE_DIR": str(folder / "full" / "cache")})
    if person.run("unshare", "--mount", "sh", "-c", mount).returncode:
        pytest.skip("this system lets nobody mount a file system")
    for step in STEPS[1:6]:
        command = " ".join(f"'{each}'" for each in (person.python.with_name("gpubp"), *step))
        ended = person.run("unshare", "--mount", "sh", "-c", f"{mount} && exec {command}")
        assert ended.returncode == 0, f"{step}\n{ended.stdout}\n{ended.stderr}"
        assert re.fullmatch(f"({UNKEPT})?", ended.stderr), ended.stderr


def test_the_advice_that_is_given_helps(interpreter, wheel, place, folder):
    """Without the extra, the emulated device says in one sentence which command brings it; that works from anywhere."""
    python = install(interpreter, place / "core", wheel)
    person = Person(python, folder, {"GPUBP_CACHE_DIR": str(folder / "cache")})
    take(person, STEPS[:3])
    for step in (*STEPS[3:], *LATER[:-1]):
        ended = person.gpubp(*step)
        assert ended.returncode == 2, f"{step}\n{ended.stdout}\n{ended.stderr}"
        assert ended.stderr.count("\n") == 1, ended.stderr
        assert "pip install 'gpubp[emulator]'" in ended.stderr, f"{step}\n{ended.stderr}"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "gpubp[emulator]"], check=True, cwd=folder
    )
    take(person, STEPS[3:4])
