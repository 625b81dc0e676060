"""The script that names the environments: which Pythons it finds, and the oldest dependencies that it prints."""

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

SCRIPT = Path(__file__).with_name("environments.py")


@pytest.fixture(scope="module")
def environments():
    spec = importlib.util.spec_from_file_location("environments", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def project():
    return tomllib.loads(SCRIPT.parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture
def machine(tmp_path):
    """A function that puts a Python that says it is of this version somewhere, and the environment that finds it."""

    def add(place, version):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {version.replace('.', ' ')} {path}\n" if version else "#!/bin/sh\nexit 1\n")
        path.chmod(0o755)
        return str(path)

    return add, {"PATH": f"{tmp_path / 'bin'}:{tmp_path / 'none'}:/bin", "PYENV_ROOT": str(tmp_path / "pyenv")}


def only_fake(environment):
    return {**environment, "PATH": environment["PATH"].removesuffix(":/bin")}


def test_one_python_for_each_minor_version_is_the_newest_release(environments, machine):
    add, environment = machine
    add("bin/python3.11", "3.11.2")
    newest = add("pyenv/versions/3.11.7/bin/python3", "3.11.7")
    add("pyenv/versions/3.11.10/bin/python3", "3.11.4")
    on_path = add("bin/python3.12", "3.12.1")
    add("pyenv/versions/3.12.1/bin/python3", "3.12.1")
    add("pyenv/versions/3.10.1/bin/python3", "3.10.1")
    add("bin/python3.13", "")
    add("bin/python3.14-config", "3.14.0")
    found = environments.pythons(only_fake(environment), (3, 11))
    assert found == {(3, 11): newest, (3, 12): on_path}


def test_pyenv_is_looked_for_at_home(environments, machine, tmp_path):
    add, environment = machine
    path = add(".pyenv/versions/3.13.0/bin/python3", "3.13.0")
    environment = {"PATH": str(tmp_path / "none"), "HOME": str(tmp_path)}
    assert environments.pythons(environment, (3, 11)) == {(3, 13): path}


def test_a_python_that_is_no_program_is_passed_over(environments, machine, tmp_path):
    add, environment = machine
    Path(add("bin/python3.11", "3.11.7")).chmod(0o644)
    Path(add("bin/python3.12", "3.12.1")).write_text("no program")
    assert environments.pythons(only_fake(environment), (3, 11)) == {}


def test_the_probe_takes_this_python(environments):
    output = subprocess.run(
        [sys.executable, "-c", environments.PROBE], capture_output=True, text=True, check=True
    ).stdout
    assert output.split(maxsplit=3) == [*map(str, sys.version_info[:3]), sys.executable + "\n"]


def test_the_constraints_are_the_lower_bounds_of_all_that_users_install(environments, project):
    constraints = dict(line.split("==") for line in environments.constraints(project))
    extras = project["optional-dependencies"]
    users = ("cpu", "cuda12", "cuda13", "emulator", "mkl", "mlir", "mpi", "onnx", "parquet", "sklearn")
    wanted = [*project["dependencies"], *(line for name in users for line in extras[name])]
    assert constraints.keys() == {Requirement(line).name for line in wanted}
    for requirement in map(Requirement, wanted):
        assert constraints[requirement.name] in requirement.specifier
    assert environments.DEVELOPMENT | {*users} == extras.keys()


@pytest.mark.parametrize("line", ["scipy", "scipy<2", "scipy[x]", "numpy>=2.2"])
def test_a_missing_or_second_lower_bound_is_an_error(environments, line):
    project = {"name": "gpubp", "dependencies": ["numpy>=2.1,<3", "numpy<2.5", line], "optional-dependencies": {}}
    with pytest.raises(ValueError, match="must have one lower bound"):
        environments.constraints(project)


def test_the_lowest_python(environments, project):
    assert environments.lowest_python(project) == (3, 11)
    assert environments.lowest_python({"requires-python": ">=4.0"}) == (4, 0)


def run(*arguments, path):
    environment = {"PATH": str(path), "HOME": str(path)}
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, env=environment)


def test_the_command(machine, tmp_path):
    add, _ = machine
    lowest, other = add("bin/python3.11", "3.11.7"), add("bin/python3.12", "3.12.1")
    assert run("pythons", path=tmp_path / "bin").stdout == "3.11 3.12\n"
    assert run("python", path=tmp_path / "bin").stdout == f"{lowest}\n"
    assert run("python", "3.12", path=tmp_path / "bin").stdout == f"{other}\n"
    assert run("constraints", path=tmp_path / "bin").stdout.startswith("cuda-bindings==")
    missing = run("python", "3.13", path=tmp_path / "bin")
    assert missing.returncode == 1
    assert "no Python 3.13" in missing.stderr
    nothing = run("pythons", path=tmp_path / "none")
    assert nothing.returncode == 1
    assert "no Python from 3.11 on" in nothing.stderr
