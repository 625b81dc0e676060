"""The sum of all ranks' arrays on their GPUs, by NCCL through CuPy."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from gpubp.distributed.ranks import Ranks
from gpubp.dtypes import FLOAT32, FLOAT64
from gpubp.errors import BackendError

SETTINGS = {
    # sums that the NVLink switch makes (NVLS): NCCL does not promise their order, and so not the bits, from run to run
    "NCCL_NVLS_ENABLE": "0",
    # all connections are made at the start, by all ranks at once: none within the recording of a step
    "NCCL_RUNTIME_CONNECT": "0",
    # recording a step into a graph needs no word from the other ranks
    "NCCL_GRAPH_REGISTER": "0",
}
"""What NCCL is told by its environment, but for what the user has set."""


class DeviceSum:
    """NCCL's communicator of all ranks, each with one device. All make it at the same time.

    Args:
        device: of the backend; on "emulator" MPI adds up, under NCCL's names.

    Raises:
        BackendError: NCCL is missing.
    """

    def __init__(self, ranks: Ranks, device: str) -> None:
        nccl = self._nccl = module(device)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        identity = ranks.from_first(nccl.get_unique_id() if ranks.first else None)
        self._communicator = nccl.NcclCommunicator(ranks.count, identity, ranks.number)
        self._types = {FLOAT32: nccl.NCCL_FLOAT32, FLOAT64: nccl.NCCL_FLOAT64}

    def add_up(self, address: int, count: int, dtype: np.dtype, stream: int) -> None:
        """x ← Σ over all ranks of x, in place, on a stream; waits for nothing, and can be recorded into a graph.

        Args:
            address, count, dtype: of x, an array on the device, C-contiguous, of float32 or float64.
            stream: its handle.
        """
        self._communicator.allReduce(address, address, count, self._types[dtype], self._nccl.NCCL_SUM, stream)


def module(device: str) -> Any:
    """Return CuPy's module of NCCL, or the emulated device's of that interface; raise BackendError if it is missing."""
    if device == "emulator":
        from gpubp.emulator.cupy import nccl as emulated

        return emulated
    if device == "virtual":
        raise BackendError("several ranks cannot train on device 'virtual', where there is no NCCL; 'emulator' can")
    try:
        from cupy.cuda import nccl
    except ImportError as error:
        raise BackendError(f"several ranks cannot train on GPUs without CuPy: {error}") from error
    if not nccl.available:
        raise BackendError("several ranks cannot train on GPUs without NCCL; pip install nvidia-nccl-cu12, or -cu13")
    return nccl
