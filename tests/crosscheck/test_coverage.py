"""The cases of a default run launch every kernel of both toolchains, so that no file of kernels goes unchecked."""

import re
from pathlib import Path

import pytest

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.instances import KERNEL_DIRECTORY, cuda_entry
from gpubp.backends.numba_backend import MAKERS, NumbaBackend
from gpubp.crosscheck import buffers, cases, problems, runner
from gpubp.kernels import numba as numba_kernels

MOVES = ("copy", "gather_rows")


def problems_of(backend):
    """The problem of each case of one seed and scale, with its arrays, while plans are made as the case asks.

    Of primitives that move bytes it is each case: the seed decides how arrays are aligned.
    """
    for primitive in cases.OPTIONS:
        for case in cases.covering_cases(primitive, backend.variants):
            if (case.seed, case.scale) == (0, 1.0) or primitive in MOVES:
                problem = problems.make(case)
                placed = buffers.placed(backend, problem, case)
                with runner.plans_of(backend, case):
                    yield problem, {name: each.array for name, each in placed.items()}


@pytest.fixture(scope="module")
def launches():
    """What the cupy backend launches; nothing runs."""
    found = []

    class Notes(CupyBackend):
        def _launch(self, launch):
            found.append(launch)

    backend = Notes("emulator")
    for problem, arrays in problems_of(backend):
        problem.run(backend, arrays)
    return found


def test_every_kernel_in_cuda_is_launched(launches):
    declared = {
        name
        for path in KERNEL_DIRECTORY.glob("*.cu")
        for name in re.findall(
            r"__global__ void (?:IN_CLUSTERS )?(?:__launch_bounds__\([^{;]*?\) )?(\w+)\(", path.read_text()
        )
    }
    assert {launch.kernel for launch in launches} == declared


def test_every_file_in_cuda_is_compiled(launches):
    waiting = {cuda_entry(launch.kernel, launch.template).source for launch in launches}
    loaded = set()
    while waiting:
        name = waiting.pop()
        loaded.add(name)
        waiting |= set(re.findall(r'#include "(\S+)"', (KERNEL_DIRECTORY / name).read_text())) - loaded
    assert loaded == {path.name for path in KERNEL_DIRECTORY.glob("*.cu*")}


def test_bytes_are_moved_in_words_of_every_size(launches):
    for kernel in MOVES:
        assert {launch.template[0].nbytes for launch in launches if launch.kernel == kernel} == {2, 4, 8, 16}


def test_every_kernel_and_every_file_in_python_is_launched():
    kernels, files = set(), set()

    class Notes(NumbaBackend):
        def _launch(self, launch):
            kernels.add(launch.kernel)
            self.kernel_of(launch)

        def _jit(self, *signature, **options):
            def noted(function):
                files.add(Path(function.__code__.co_filename).name)
                return function

            return noted

    backend = Notes("emulator")
    for problem, arrays in problems_of(backend):
        problem.run(backend, arrays)
    assert kernels == set(MAKERS)
    compiled = {path.name for path in Path(numba_kernels.__file__).parent.glob("*.py") if "jit(" in path.read_text()}
    assert files == compiled
