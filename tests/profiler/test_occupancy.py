"""The occupancy model against NVIDIA's published examples, and against NVIDIA's own calculation."""

import itertools
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, files

import pytest

from gpubp import chips
from gpubp.errors import ArgumentError
from gpubp.profiler.occupancy import occupancy, waves

A100, H100, T4 = (chips.get(name).multiprocessor for name in ("A100", "H100", "T4"))


def test_the_examples_of_the_best_practices_guide():
    """CUDA C++ Best Practices Guide, "Calculating Occupancy": 65,536 registers and 2,048 threads a multiprocessor.

    100 % needs at most 32 registers a thread; with 37, blocks of 128 threads give 75 % (12 blocks), blocks of 320 give
    63 % (4 blocks).
    """
    assert occupancy(A100, 128, 32).share == 1
    assert occupancy(A100, 128, 33).share < 1
    found = occupancy(A100, 128, 37)
    assert (found.blocks, found.share, found.limited_by) == (12, 0.75, ("registers",))
    found = occupancy(A100, 320, 37)
    assert (found.blocks, round(100 * found.share), found.limited_by) == (4, 62, ("registers",))


def test_a_block_that_needs_every_register():
    """64 registers in blocks of 512 threads leave room for two blocks, 65 for one: each warp gets its own in units."""
    assert occupancy(H100, 512, 64).blocks == 2
    assert occupancy(H100, 512, 65).blocks == 1
    assert occupancy(H100, 1024, 65).blocks == 0


@pytest.mark.parametrize(
    ("limits", "shared_bytes", "blocks"),
    # with the reserve of 1 KiB a block: tuning guides of Ampere, Ada and Hopper, "Unified Shared Memory"
    [(A100, 163 * 1024, 1), (A100, 163 * 1024 + 1, 0), (A100, 40 * 1024, 4), (H100, 227 * 1024, 1), (T4, 32 * 1024, 2)],
)
def test_shared_memory_is_taken_with_what_the_system_reserves(limits, shared_bytes, blocks):
    found = occupancy(limits, 128, 32, shared_bytes)
    assert found.blocks == blocks
    assert found.limited_by == ("shared memory",)


def test_small_blocks_are_limited_by_their_number_and_large_ones_by_their_threads():
    assert occupancy(H100, 32, 16).limited_by == ("blocks",)
    assert occupancy(H100, 1024, 16).limited_by == ("threads",)
    assert occupancy(H100, 1000, 16).limits["threads"] == 2  # whole warps: 32 of them


def test_waves():
    gpu = chips.get("H100")
    found = occupancy(gpu.multiprocessor, 256, 128)
    assert found.blocks == 2
    grid = waves(gpu, found, 300)
    assert (grid.resident, grid.count, grid.last_fill) == (264, 2, 36 / 264)
    assert waves(gpu, found, 264).last_fill == 1
    assert waves(gpu, occupancy(gpu.multiprocessor, 1024, 255), 1) is None


def test_bad_input_is_named():
    with pytest.raises(ArgumentError, match="threads was 0"):
        occupancy(H100, 0, 32)
    with pytest.raises(ArgumentError, match="shared_bytes was -1"):
        occupancy(H100, 32, 32, -1)


# --- NVIDIA's own calculation -----------------------------------------------------------------------------------------
REGISTERS, THREADS, SHARED = (1, 31, 32, 33, 40, 64, 96, 128, 168, 200, 255), (32, 96, 256, 320, 1024), (0, 1000, 20480)

PROGRAM = r"""
#include "cuda_occupancy.h"
#include <stdio.h>
int main(void) {
    int major, minor, threads_a_multiprocessor, registers, threads, shared;
    long shared_a_multiprocessor, opt_in, reserve;
    while (scanf("%d %d %d %ld %ld %ld %d %d %d", &major, &minor, &threads_a_multiprocessor, &shared_a_multiprocessor,
                 &opt_in, &reserve, &registers, &threads, &shared) == 9) {
        struct cudaOccDeviceProp chip = {0};
        chip.computeMajor = major; chip.computeMinor = minor;
        chip.maxThreadsPerBlock = 1024; chip.maxThreadsPerMultiprocessor = threads_a_multiprocessor;
        chip.regsPerBlock = chip.regsPerMultiprocessor = 65536; chip.warpSize = 32;
        chip.sharedMemPerBlock = 49152; chip.sharedMemPerMultiprocessor = shared_a_multiprocessor;
        chip.numSms = 1; chip.sharedMemPerBlockOptin = opt_in; chip.reservedSharedMemPerBlock = reserve;
        struct cudaOccFuncAttributes kernel = {0};
        kernel.maxThreadsPerBlock = 1024; kernel.numRegs = registers; kernel.sharedSizeBytes = shared;
        kernel.numBlockBarriers = 1;
        struct cudaOccDeviceState state = {0};
        state.carveoutConfig = SHAREDMEM_CARVEOUT_DEFAULT;
        struct cudaOccResult result;
        int status = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &chip, &kernel, &state, threads, 0);
        printf("%d\n", status ? -1 : result.activeBlocksPerMultiprocessor);
    }
}
"""


def header_directory():
    """Where the CUDA runtime's wheel has cuda_occupancy.h, if it is there."""
    try:
        found = [file for file in files("nvidia-cuda-runtime") or () if file.name == "cuda_occupancy.h"]
    except PackageNotFoundError:
        found = []
    return found[0].locate().parent if found else None


@pytest.mark.slow
def test_the_model_is_that_of_cuda_occupancy_h(tmp_path):
    compiler, headers = shutil.which("cc"), header_directory()
    if compiler is None:
        pytest.skip("no C compiler cc on the PATH to compile NVIDIA's own model with")
    assert headers is not None, "the test extra brings nvidia-cuda-runtime, which has cuda_occupancy.h"
    source = tmp_path / "occupancy.c"
    source.write_text(PROGRAM)
    program = tmp_path / "occupancy"
    subprocess.run([compiler, f"-I{headers}", source, "-o", program], check=True)
    cases = list(itertools.product(chips.known().values(), REGISTERS, THREADS, SHARED))
    lines = []
    for gpu, registers, threads, shared in cases:
        number = int(gpu.arch.removeprefix("sm_"))
        limits = gpu.multiprocessor
        chip = (number // 10, number % 10, limits.threads, limits.shared_bytes, limits.shared_per_block)
        lines.append(" ".join(map(str, (*chip, limits.shared_reserve, registers, threads, shared))))
    text = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True).stdout
    theirs = [int(line) for line in text.split()]
    ours = [
        occupancy(gpu.multiprocessor, threads, registers, shared).blocks for gpu, registers, threads, shared in cases
    ]
    assert len(theirs) == len(cases)
    named = [(gpu.key, *case) for gpu, *case in cases]
    assert [(case, a, b) for case, a, b in zip(named, ours, theirs, strict=True) if a != b] == []
