"""Several ranks train the network that one process trains, and all of them the same bits."""

from pathlib import Path

import mpi
import numpy as np
import pytest
import rank_steps
import trainings
from command_line import read_npz

PROGRAM = Path(trainings.__file__)
EVERY = (
    "sgd",
    "clipped",
    "adam",
    "adam clipped",
    "small batches",
    "one row",
    "weights",
    "dropout",
    "accumulated",
    "stopped early",
    "values",
    "sum",
)
WITHIN = {"float32": 1e-5, "float64": 1e-12}


def trained(folder, ranks, backend, device, dtype, cases):
    """What each rank has of each case."""
    folder.mkdir()
    ended = mpi.run(ranks, PROGRAM, folder, backend, device, dtype, *cases)
    assert ended.returncode == 0, ended.stderr
    return {case: [read_npz(folder / f"{case} {rank}.npz") for rank in range(ranks)] for case in cases}


def require_close(case, found, expected, within):
    for name, array in expected.items():
        scale = within * max(1, np.nanmax(np.abs(array)))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=scale, err_msg=f"{case}: {name}")


def require_equal(case, found):
    for rank, each in enumerate(found):
        for name, array in each.items():
            np.testing.assert_array_equal(array, found[0][name], err_msg=f"{case}: {name} of rank {rank}")


def compare(tmp_path, ranks, backend, device, dtype, cases):
    alone = trained(tmp_path / "alone", 1, backend, device, dtype, cases)
    several = trained(tmp_path / "several", ranks, backend, device, dtype, cases)
    for case in cases:
        require_equal(case, several[case])
        require_close(case, several[case][0], alone[case][0], WITHIN[dtype])


@pytest.mark.slow
def test_four_ranks_train_what_one_does(tmp_path):
    compare(tmp_path, 4, "numpy", "cpu", "float64", EVERY)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("backend", ["numpy", "cpu"])
def test_ranks_train_what_one_does(tmp_path, backend, ranks, dtype):
    compare(tmp_path, ranks, backend, "cpu", dtype, EVERY)


# Steps of cupy on 16 rows are recorded, and those on 2 rows are not: some of 3 ranks has none of them.
@pytest.mark.slow
def test_steps_of_ranks_with_emulated_devices_are_those_of_the_reference(tmp_path):
    ended = mpi.run(3, rank_steps.__file__, tmp_path, "cupy", "emulator")
    assert ended.returncode == 0, ended.stderr
    found = [read_npz(tmp_path / f"{rank}.npz") for rank in range(3)]
    require_equal("steps", found)
    require_close("steps", found[0], rank_steps.weights("numpy"), WITHIN["float32"])


@pytest.mark.exhaustive
@pytest.mark.parametrize(("backend", "ranks"), [("cupy", 4), ("numba", 2)])
def test_ranks_with_either_emulated_backend_train_what_one_does(tmp_path, backend, ranks):
    compare(
        tmp_path, ranks, backend, "emulator", "float32", ["clipped", "small batches", "one row", "weights", "dropout"]
    )


@pytest.mark.slow
def test_ranks_that_stream_train_what_they_train_in_memory(tmp_path):
    cases = ["weights", "small batches", "accumulated"]
    found = trained(tmp_path / "found", 3, "numpy", "cpu", "float32", cases + [f"streamed {case}" for case in cases])
    for case in cases:
        require_equal(case, [*found[case], *found[f"streamed {case}"]])


@pytest.mark.exhaustive
def test_as_many_ranks_give_the_same_bits_again(tmp_path):
    first, second = (trained(tmp_path / name, 3, "numpy", "cpu", "float32", EVERY) for name in ("first", "second"))
    for case in EVERY:
        require_equal(case, [*first[case], *second[case]])


@pytest.mark.exhaustive
def test_half_precision_by_three_ranks(tmp_path):
    compare(tmp_path, 3, "numpy", "cpu", "float32", ["half precision"])
