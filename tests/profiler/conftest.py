import pytest
from pages import _check_page  # noqa: F401

from gpubp import chips
from gpubp.profiler import counts, launches
from gpubp.profiler.workloads import Workload


@pytest.fixture
def count():
    """Counts a workload on the emulated device as `gpubp profile` does; options are the workload's."""

    def count(primitive, shape, backend="cupy", limit=counts.WORK, **options):
        with launches.recording(backend, chips.get("H100"), "sm_90") as (device, made):
            return counts.count(Workload(primitive, shape, **options), device, made, limit)

    return count
