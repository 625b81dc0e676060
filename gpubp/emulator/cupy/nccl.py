"""NCCL's sum over several processes under CuPy's names, each with an emulated device of its own: MPI adds up.

The processes are those that a launcher of MPI started; mpi4py is imported when the first communicator is made.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from gpubp.emulator.cupy import streams
from gpubp.emulator.device.memory import MEMORY
from gpubp.emulator.errors import EmulatorError

available = True

NCCL_SUM = 0
NCCL_FLOAT32 = 7
NCCL_FLOAT64 = 8
_DTYPES: dict[int, np.dtype] = {NCCL_FLOAT32: np.dtype(np.float32), NCCL_FLOAT64: np.dtype(np.float64)}

IDENTITY_BYTES = 128


def get_unique_id() -> bytes:
    """Return what all processes give to `NcclCommunicator`; which processes they are, MPI knows."""
    return bytes(IDENTITY_BYTES)


class NcclCommunicator:
    """All processes that MPI started, `ndev` of them; this one is number `rank`, as in MPI."""

    def __init__(self, ndev: int, commId: bytes, rank: int, config: None = None) -> None:
        from mpi4py import MPI

        world = MPI.COMM_WORLD
        if len(commId) != IDENTITY_BYTES or config is not None:
            raise EmulatorError("NcclCommunicator takes what get_unique_id gave, and no config")
        if (ndev, rank) != (world.size, world.rank):
            raise EmulatorError(f"rank {rank} of {ndev} must be that of MPI, {world.rank} of {world.size}")
        self._communicator = world.Dup()

    def allReduce(self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int) -> None:
        """Write the sum of all ranks' arrays at `sendbuf` to `recvbuf`, on the stream of that handle."""
        if op != NCCL_SUM or datatype not in _DTYPES:
            raise EmulatorError(f"allReduce of type {datatype} by operation {op}: it adds up float32 and float64")
        streams.submit(stream, partial(self._add_up, sendbuf, recvbuf, count, _DTYPES[datatype]))

    def _add_up(self, sendbuf: int, recvbuf: int, count: int, dtype: np.dtype) -> None:
        nbytes = count * dtype.itemsize
        sent, received = (MEMORY.view(address, nbytes).view(dtype) for address in (sendbuf, recvbuf))
        MEMORY.mark_read(sendbuf, nbytes)
        self._communicator.Allreduce(sent.copy(), received)
        MEMORY.mark_written(recvbuf, nbytes)
