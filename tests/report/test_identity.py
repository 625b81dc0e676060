"""What must stay the same for parts of several runs to stand in one report."""

import subprocess

import pytest
import reports

from gpubp.report import identity
from gpubp.report.identity import differences, identity_of
from gpubp.report.parts import Choice
from gpubp.report.results import machine_of


def of(machine=None, choice=None, device="gpu"):
    return identity_of(machine_of(machine or reports.info(reports.GPU)), choice or Choice(), device)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"machine": reports.info("NVIDIA A100")}, f"GPU is NVIDIA A100 and was {reports.GPU}"),
        ({"machine": reports.info()}, f"GPU is none and was {reports.GPU}"),
        ({"machine": reports.info(reports.GPU, driver="13.1")}, "driver is 13.1 and was 13.0"),
        (
            {"machine": reports.info(reports.GPU, packages={"gpubp": "0.2"})},
            "packages is gpubp 0.2 and was gpubp 0.1.0",
        ),
        ({"device": "virtual"}, "device is virtual and was gpu"),
        ({"choice": Choice(quick=True)}, "options is quick and was usual"),
        ({"choice": Choice(("cupy",), ("cast",))}, "options is cupy cast usual and was usual"),
    ],
)
def test_another_machine_software_or_choice_is_named(other, words):
    assert words in differences(of(), of(**other))


@pytest.mark.parametrize("same", [{}, {"choice": Choice(skip=("bench",))}, {"choice": Choice(jobs=3)}])
def test_what_decides_nothing_is_no_difference(same):
    assert differences(of(), of(**same)) == []


def test_another_source_is_another_identity(monkeypatch, tmp_path):
    before = of()
    for name in ("gpubp", "kernels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    monkeypatch.setattr(identity.gpubp, "__file__", str(tmp_path / "gpubp" / "__init__.py"))
    monkeypatch.setattr(identity.gpubp.kernels, "__file__", str(tmp_path / "kernels" / "__init__.py"))
    now = of()
    assert next(line.split()[0] for line in differences(before, now)) == "sources"
    (tmp_path / "kernels" / "new.cu").write_text("__global__")
    assert [line.split()[0] for line in differences(now, of())] == ["sources"]


def test_the_commit_is_that_of_the_clone(monkeypatch, tmp_path):
    monkeypatch.setattr(identity.gpubp, "__file__", str(tmp_path / "gpubp" / "__init__.py"))
    assert identity.commit() == ""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert identity.commit() == ""
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert len(identity.commit()) == 40


def test_two_machines_that_could_not_be_looked_at_are_alike_only_to_each_other():
    unknown = identity_of(None, Choice(), "gpu")
    assert differences(unknown, identity_of(None, Choice(), "gpu")) == []
    assert f"GPU is {reports.GPU} and was unknown" in differences(unknown, of())
