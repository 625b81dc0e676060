"""Processes that MPI starts for a test, each on one core."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    # so that Open MPI can be tried too: more ranks than cores, and in a container
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}

SILENCE, _KEPT = os.pipe()
"""An input without an end: MPICH's launcher gives its own to rank 0, and fails if that ends before rank 0 has begun."""


def launcher():
    """The launcher in this Python's environment; skips the test where there is none."""
    found = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("there is no MPI in this environment: pip install 'gpubp[mpi]'")
    return found


def command(ranks, *words):
    """What runs Python with these words in as many ranks."""
    return [launcher(), "-n", str(ranks), sys.executable, *map(str, words)]


def run(ranks, *words, timeout=240, **options):
    """Run Python with these words in as many ranks, to the end."""
    options = {"stdin": SILENCE, "capture_output": True, "text": True, "timeout": timeout, **options}
    return subprocess.run(command(ranks, *words), env=ENVIRONMENT, **options)
