"""The package as its users get it: the wheel, the editable install, the top level, and the Makefile's set-up.

Each install goes into an environment of its own that holds the core dependencies and nothing else, made of links to
the ones that the tests run with: no network, and nothing that hides a missing dependency.
"""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

TOP_LEVEL = {"gpubp", "kernels", "benchmarks", "tests", "pyproject.toml", "README.md", "Makefile", "LICENSE"}
OPTIONAL = {
    "cupy",
    "numba",
    "numba_cuda_mlir",
    "cuda",
    "nvmath",
    "autograd",
    "jax",
    "sklearn",
    "onnx",
    "pandas",
    "polars",
    "torch",
    "pytest",
    "hypothesis",
}


def run(*command, **options):
    """Run a command and return its output; a failure shows what it printed."""
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def tracked(repository, *paths):
    """The files under version control that exist."""
    names = run("git", "ls-files", "-z", "--", *paths, cwd=repository).split("\0")
    return [name for name in names if name and (repository / name).is_file()]


def closure(names):
    """The names of these distributions and of all that they require, without extras."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        found.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def make_environment(folder, distributions):
    """Make a virtual environment that has these distributions, as links, and no others."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for name in distributions:
        distribution = metadata.distribution(name)
        for top in {Path(file).parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    return python


@pytest.fixture(scope="session")
def core():
    """The names of the core dependencies' distributions, with theirs."""
    with open(Path(__file__).resolve().parents[1] / "pyproject.toml", "rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    return closure(Requirement(line).name for line in dependencies)


@pytest.fixture(scope="session")
def source(repository, tmp_path_factory):
    """A clean copy of the sources: neither build leftovers nor files that are not under version control."""
    folder = tmp_path_factory.mktemp("source")
    for name in tracked(repository, "gpubp", "kernels", "pyproject.toml", "README.md", "LICENSE"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(repository / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, core, tmp_path_factory):
    """The Python of an environment with the wheel and the core dependencies."""
    python = make_environment(tmp_path_factory.mktemp("installed"), core)
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel)
    return python


@pytest.fixture(scope="session")
def editable(source, core, tmp_path_factory):
    """The Python of an environment with an editable install and the core dependencies."""
    python = make_environment(tmp_path_factory.mktemp("editable"), core | closure(["setuptools", "wheel"]))
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"),
        *("--no-build-isolation", "-e", source),
    )
    return python


def test_the_visible_top_level_is_what_the_map_says(repository):
    names = {name.split("/")[0] for name in tracked(repository)}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def test_every_folder_with_modules_is_in_the_list_of_packages(repository):
    with open(repository / "pyproject.toml", "rb") as file:
        setup = tomllib.load(file)["tool"]["setuptools"]
    folders = {str(Path(name).parent) for name in tracked(repository, "gpubp", "kernels") if name.endswith(".py")}
    packages = {re.sub(r"^kernels", "gpubp/kernels", folder).replace("/", ".") for folder in folders}
    assert packages == set(setup["packages"])


@pytest.mark.slow
def test_every_tracked_file_is_in_the_wheel(source, wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        info = {name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name}
    files = {str(path.relative_to(source)) for top in ("gpubp", "kernels") for path in (source / top).rglob("*.*")}
    files = {re.sub(r"^kernels/", "gpubp/kernels/", name) for name in files if "__pycache__" not in name}
    assert packed == files
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= info
    for name in ("gpubp/data/digits/digits.npz", "gpubp/data/digits/ATTRIBUTION.md", "gpubp/kernels/__init__.py"):
        assert name in packed


@pytest.mark.slow
def test_a_source_distribution_holds_all_that_its_wheel_needs(source, tmp_path):
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, source)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    files = {str(path.relative_to(source)) for top in ("gpubp", "kernels") for path in (source / top).rglob("*.*")}
    assert {name for name in files if "__pycache__" not in name} | {"pyproject.toml", "LICENSE", "README.md"} <= packed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["installed", "editable"])
def test_every_package_imports_from_anywhere(kind, request, source, tmp_path):
    python = request.getfixturevalue(kind)
    code = "import gpubp, gpubp.kernels, gpubp.kernels.cuda, gpubp.kernels.numba; print(gpubp.kernels.__file__)"
    # From the source folder, `gpubp` is found there and only the editable install knows where gpubp.kernels is.
    for folder in (tmp_path, source) if kind == "editable" else (tmp_path,):
        path = Path(run(python, "-c", code, cwd=folder).strip())
        assert path.is_relative_to(source if kind == "editable" else python.parents[1])
    assert (
        run(python, "-c", "import gpubp.data; print(len(gpubp.data.load('digits').x_train))", cwd=tmp_path) == "1438\n"
    )


@pytest.mark.slow
def test_no_package_called_kernels_is_installed(installed, tmp_path):
    code = "import importlib.util; print(importlib.util.find_spec('kernels'))"
    assert run(installed, "-c", code, cwd=tmp_path) == "None\n"


@pytest.mark.slow
def test_the_core_dependencies_are_enough(installed, tmp_path):
    code = f"""
import importlib.util, sys
import gpubp
assert not [name for name in {sorted(OPTIONAL)} if importlib.util.find_spec(name)], "the environment is not bare"
network = gpubp.Network([4, 3, 2], backend="numpy", seed=0)
print(network.predict([[1.0, 2.0, 3.0, 4.0]]).shape)
"""
    assert run(installed, "-c", code, cwd=tmp_path) == "(1,)\n"


@pytest.mark.slow
def test_the_command_is_installed_and_trains_with_the_core_dependencies(installed, tmp_path):
    command = installed.with_name("gpubp")
    assert "train" in run(command, "--help", cwd=tmp_path)
    run(command, "train", "--epochs", "1", "--out", tmp_path / "run", cwd=tmp_path)
    assert (tmp_path / "run").is_dir()


@pytest.mark.parametrize("package", ["gpubp", "gpubp.data", "gpubp.sklearn", "gpubp.training"])
def test_names_that_load_late_are_listed(package):
    """And each is there: completion and help() show what a package offers."""
    module = importlib.import_module(package)
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in dir(module))


def test_importing_gpubp_loads_nothing_that_is_optional():
    code = f"import sys, gpubp; print(*({sorted(OPTIONAL | {'matplotlib', 'rich', 'jinja2'})} & sys.modules.keys()))"
    code = code.replace("[", "{").replace("]", "}")
    assert run(sys.executable, "-c", code).split() == []


def test_the_estimators_say_what_they_need(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("gpubp.sklearn.", "sklearn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    with pytest.raises(ImportError, match=r"pip install 'gpubp\[sklearn\]'"):
        importlib.import_module("gpubp.sklearn").MLPClassifier  # noqa: B018


def test_no_module_of_the_core_imports_a_gpu_library_at_its_top(repository):
    allowed = ("gpubp/backends/", "gpubp/emulator/", "kernels/numba/", "kernels/cuda/")
    # each of these is loaded by the process of the contender whose library it uses, and by nothing else
    allowed += ("gpubp/bench/peers/",)
    # which load when an estimator is asked for
    allowed += ("gpubp/sklearn/",)
    # which pytest loads, and nothing else
    allowed += ("gpubp/pytest_plugin.py",)
    for name in tracked(repository, "gpubp", "kernels"):
        if not name.endswith(".py") or name.startswith(allowed):
            continue
        for node in ast.parse((repository / name).read_text(encoding="utf-8")).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {module.split(".")[0] for module in names} & OPTIONAL, name


# --- the dependencies ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def requirements(repository):
    """The requirements of the core, under "", and of each extra, by its name."""
    with open(repository / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    tables = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in tables.items()}


def test_each_dependency_has_a_lower_bound(requirements):
    """An extra may leave it to the core, which comes with each."""
    core = {requirement.name for requirement in requirements[""]}
    for extra, lines in requirements.items():
        bounded = {line.name for line in lines if {part.operator for part in line.specifier} & {">=", "=="}}
        assert {line.name for line in lines} - bounded <= (core | {"gpubp"} if extra else set()), extra


def test_extras_with_numba_cuda_bound_numpy(requirements):
    """numba-cuda 0.30 calls np.row_stack, which NumPy 2.5 no longer has."""
    for extra, lines in requirements.items():
        if any(line.name == "numba-cuda" and "==" not in str(line.specifier) for line in lines):
            (numpy,) = (line.specifier for line in lines if line.name == "numpy")
            assert "2.4.9" in numpy, extra
            assert "2.5.0" not in numpy, extra
    (numpy,) = (line.specifier for line in requirements[""] if line.name == "numpy")
    assert "2.5.0" in numpy, "the core has no need of the bound"


def test_numba_is_bounded_where_the_emulator_reads_its_insides(requirements):
    (numba,) = (line.specifier for line in requirements["emulator"] if line.name == "numba")
    assert "0.68.9" in numba
    assert "0.69" not in numba, "has it been tested, in the environments `make oldest` and `make test`?"


def test_the_pins_lie_within_the_bounds(requirements):
    pins = {line.name: str(line.specifier).removeprefix("==") for line in requirements["test"] if line.name != "gpubp"}
    bounds = [line for extra in ("emulator", "tools") for line in requirements[extra] if line.name in pins]
    assert {line.name for line in bounds} >= {"numba", "numba-cuda", "cuda-bindings", "cupy-cuda13x"}
    for line in bounds:
        assert pins[line.name] in line.specifier, line


# --- the Makefile ---------------------------------------------------------------------------------------------------

FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$1 $2" in
"-m venv") mkdir -p "$4/bin" && cp "$0" "$4/bin/python" ;;
"-c from gpubp"*) echo {extras} ;;
"tests/environments.py pythons") echo 3.11 3.12 3.13 ;;
"tests/environments.py python") [ "$3" != "{missing}" ] && echo ./python ;;
"tests/environments.py constraints") echo numpy==2.1.2 ;;
"-m pytest") echo "TESTED $0 $@" >> "{log}"; case "$0" in *"{failing}"*) exit 1 ;; esac ;;
"-m pip") [ "$3" = "--version" ] && [ ! -e "{broken}" ] || [ "$3" = install ] && {install} ;;
esac
"""


@pytest.fixture
def make(repository, tmp_path):
    """Run make on a copy of the Makefile with a Python that only notes what it is asked to do."""
    (tmp_path / "pyproject.toml").write_text("")
    shutil.copy(repository / "Makefile", tmp_path)
    log = tmp_path / "log"

    def run_make(
        *arguments, install="true", python="./python", extras="emulator", failing="nothing", missing="none", expect=0
    ):
        settings = {"install": install, "extras": extras, "failing": failing, "missing": missing}
        fake = tmp_path / "python"
        fake.write_text(FAKE_PYTHON.format(log=log, broken=tmp_path / "broken", **settings))
        fake.chmod(0o755)
        for environment_python in [*tmp_path.glob(".venv/bin/python"), *tmp_path.glob(".cache/*/bin/python")]:
            shutil.copy(fake, environment_python)
        log.write_text("")
        environment = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "VENV")}
        result = subprocess.run(
            ["make", f"PYTHON={python}", *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment
        )
        assert result.returncode == expect, result.stdout + result.stderr
        installs = [line for line in log.read_text().splitlines() if line.startswith("-m pip install")]
        return installs, result.stdout + result.stderr

    return run_make


@pytest.mark.parametrize(("stamp", "what"), [("core", "."), ("test", ".[test]"), ("bench", ".[bench]")])
def test_a_second_run_installs_nothing(make, stamp, what):
    installs, _ = make(f".venv/.installed-{stamp}")
    assert [line.split()[-1] for line in installs] == [what]
    installs, _ = make(f".venv/.installed-{stamp}")
    assert installs == []


def test_the_test_set_up_serves_train_too(make):
    make(".venv/.installed-test")
    assert make(".venv/.installed-core")[0] == []


def test_the_set_up_for_a_gpu_asks_the_driver_what_it_takes(make):
    installs, _ = make(".venv/.installed-gpu", extras="cuda13,emulator")
    assert [line.split()[-1] for line in installs] == [".", ".[cuda13,emulator]"]
    assert make(".venv/.installed-gpu")[0] == []


@pytest.mark.parametrize(("arguments", "virtual"), [("--quick", False), ("--device virtual", True)])
def test_a_report_on_the_virtual_device_has_a_set_up_of_its_own(make, tmp_path, arguments, virtual):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "gpubp").symlink_to("/bin/true")
    make("gpu-report", f"ARGS={arguments}")
    assert (tmp_path / ".venv" / ".installed-virtual").exists() is virtual
    asked = [line for line in (tmp_path / "log").read_text().splitlines() if "import extras" in line]
    assert len(asked) == 1
    assert ("virtual=True" in asked[0]) is virtual


def test_a_change_of_pyproject_installs_again(make, tmp_path):
    make(".venv/.installed-core")
    later = (tmp_path / ".venv" / ".installed-core").stat().st_mtime + 10
    os.utime(tmp_path / "pyproject.toml", (later, later))
    assert len(make(".venv/.installed-core")[0]) == 1


@pytest.mark.parametrize("death", ["exit 1", "kill -9 $$"])
def test_an_install_that_died_is_not_taken_as_done(make, death):
    installs, _ = make(".venv/.installed-core", install=death, expect=2)
    assert len(installs) == 1
    assert len(make(".venv/.installed-core")[0]) == 1


def test_an_environment_that_does_not_run_is_made_again(make, tmp_path):
    make(".venv/.installed-core")
    (tmp_path / ".venv" / ".installed-core").unlink()
    (tmp_path / "broken").touch()
    _, output = make(".venv/.installed-core")
    assert "Making .venv" in output


def test_no_suitable_python_is_a_clear_error(make):
    _, output = make(".venv/.installed-core", python="./nonesuch", expect=2)
    assert "gpubp needs Python 3.11 or later" in output
    assert "./nonesuch" in output
    assert "make PYTHON=" in output


def ran(tmp_path):
    """The environments whose tests ran, in order, by the names of their folders."""
    return re.findall(r"^TESTED \.cache/([\w.-]+)/", (tmp_path / "log").read_text(), re.MULTILINE)


def test_the_quick_tests_run_with_each_python(make, tmp_path):
    installs, _ = make("pythons")
    assert [line.split()[-1] for line in installs] == [".[tools]"] * 3  # and not what the extra `test` fixes
    assert ran(tmp_path) == ["python-3.11", "python-3.12", "python-3.13"]
    assert make("pythons")[0] == []
    assert ran(tmp_path) == ["python-3.11", "python-3.12", "python-3.13"]


def test_a_python_whose_tests_fail_is_named_last_and_the_others_have_their_turn(make, tmp_path):
    _, output = make("pythons", failing="python-3.12", expect=2)
    assert ran(tmp_path) == ["python-3.11", "python-3.12", "python-3.13"]
    assert "The quick tests failed in: python-3.12\n" in output.splitlines(keepends=True)[-2]


def test_a_python_that_cannot_be_set_up_fails_too(make):
    _, output = make("pythons", install="exit 1", expect=2)
    assert "The quick tests failed in: python-3.11 python-3.12 python-3.13\n" in output


def test_the_newest_python_runs_alone(make, tmp_path):
    make("newest")
    assert ran(tmp_path) == ["python-3.13"]
    make("newest", failing="python-3.13", expect=2)
    _, output = make("newest", python="./nonesuch", expect=2)
    assert "gpubp needs Python 3.11 or later" in output


def test_one_python_runs_alone_and_one_that_is_missing_fails(make, tmp_path):
    make("python-3.12")
    assert ran(tmp_path) == ["python-3.12"]
    make("python-3.13", missing="3.13", expect=2)
    assert ran(tmp_path) == []


def test_the_oldest_dependencies_come_without_the_pins(make, tmp_path):
    installs, _ = make("oldest")
    assert [line.split()[-4:] for line in installs] == [["-c", ".cache/oldest.txt", "-e", ".[tools]"]]
    assert (tmp_path / ".cache" / "oldest.txt").read_text() == "numpy==2.1.2\n"
    assert ran(tmp_path) == ["oldest"]
    assert "not slow and not exhaustive" in (tmp_path / "log").read_text()
    _, output = make("oldest", failing="oldest", expect=2)
    assert "The quick tests failed in: oldest\n" in output


def test_the_successor_of_numba_cuda_has_an_environment_of_its_own(make, tmp_path):
    installs, _ = make("mlir")
    assert [line.split()[-1] for line in installs] == [".[mlir,bench]"]
    assert ran(tmp_path) == ["mlir"]
    assert "tests/successor.py" in (tmp_path / "log").read_text()


def test_scikit_learn_has_an_environment_of_its_own(make, tmp_path):
    installs, _ = make("peers")
    assert [line.split()[-1] for line in installs] == [".[compared]"]
    assert ran(tmp_path) == ["peers"]
    assert "tests/peers.py" in (tmp_path / "log").read_text()


def test_exhaustive_runs_the_long_tests_then_every_environment(make, tmp_path):
    installs, _ = make("exhaustive")
    assert [line.split()[-1] for line in installs] == [".[test]", *[".[tools]"] * 2, ".[compared]"]
    assert len(re.findall(r"^TESTED \.venv/.* -m exhaustive", (tmp_path / "log").read_text(), re.MULTILINE)) == 1
    assert ran(tmp_path) == ["python-3.13", "oldest", "peers"]
    first_steps, mutants, suites = (tmp_path / "log").read_text().splitlines()[-3:]
    assert "tests/first_steps.py" in first_steps
    assert mutants == "tests/mutants --sample 40"
    assert re.fullmatch(r"tests/suites/run.py numba-cuda --jobs \w+ --most 2", suites)
    make("exhaustive", failing="python-3.13", expect=2)


def phony_targets(repository):
    text = (repository / "Makefile").read_text().replace("\\\n", "")
    return re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split()


def test_help_lists_every_target(make, repository):
    targets = phony_targets(repository)
    _, output = make("help")
    for target in set(targets) - {"types", "successor"}:
        assert f"make {target} " in output


def test_the_ci_script_is_executable_and_fails_with_the_tests(repository, tmp_path):
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    (tmp_path / ".ci").mkdir()
    shutil.copy(script, tmp_path / ".ci" / "run")
    for test, exhaustive, expected in ((0, 0, 0), (1, 0, 2), (0, 1, 2)):
        (tmp_path / "Makefile").write_text(f"test:\n\texit {test}\nexhaustive:\n\texit {exhaustive}\n")
        result = subprocess.run(
            ["bash", ".ci/run"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert result.returncode == expected
        assert f"exit {test}" in result.stdout
        assert result.stdout.count("exit") == (1 if test else 2)


def test_the_workflow_runs_targets_of_the_makefile_from_the_lowest_python_on(repository):
    workflow = (repository / ".github" / "workflows" / "test.yml").read_text()
    runs = re.findall(r"run: (.*)$", workflow, re.MULTILINE)
    assert set(runs) == {
        "make test",
        "make long",
        "make first-steps",
        "make oldest",
        "make python-${{ matrix.python }}",
    }
    assert {run.removeprefix("make ") for run in runs if "$" not in run} <= set(phony_targets(repository))
    with open(repository / "pyproject.toml", "rb") as file:
        lowest = tomllib.load(file)["project"]["requires-python"].removeprefix(">=")
    assert re.findall(r'python-version: "(.*)"$', workflow, re.MULTILINE) == [lowest] * 2
    assert re.search(r"python: \[(.*)\]", workflow).group(1).startswith(f'"{lowest}", ')
