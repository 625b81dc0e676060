"""How much memory a process may use: the machine's, or what its control groups allow."""

import os

import pytest

from gpubp import memory

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture(autouse=True)
def system(tmp_path, monkeypatch):
    """A system without control groups."""
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "HIERARCHIES", tmp_path / "groups")


def test_without_control_groups_it_is_the_machines():
    assert memory.usable_memory() == MACHINE


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        pytest.param("0::/", {"memory.max": "4096000"}, 4096000, id="a container's"),
        pytest.param("0::/", {"memory.max": "max"}, MACHINE, id="no limit"),
        pytest.param("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "8192"}, 8192, id="of a group around it"),
        pytest.param("0::/a/b", {"memory.max": "12288"}, 12288, id="a container with the machine's path"),
        pytest.param("0::/a", {"b/memory.max": "4096"}, MACHINE, id="of another group"),
        pytest.param("9:cpu:/\n4:memory:/p", {"memory/p/memory.limit_in_bytes": "8192"}, 8192, id="version 1"),
        pytest.param(
            "4:memory:/", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}"}, MACHINE, id="none in version 1"
        ),
    ],
)
def test_control_groups_limit_it(own, limits, expected):
    memory.OWN_GROUPS.write_text(f"{own}\n")
    for path, limit in limits.items():
        (memory.HIERARCHIES / path).parent.mkdir(parents=True, exist_ok=True)
        (memory.HIERARCHIES / path).write_text(f"{limit}\n")
    assert memory.usable_memory() == expected


def test_a_system_that_does_not_say_gives_0(monkeypatch):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory.usable_memory() == 0
