"""What the async proxy remembers of a chunk's readers."""

from types import SimpleNamespace

import numpy as np

from gpubp.emulator.observe import shadow
from gpubp.emulator.observe.async_proxy import ASYNC_RACE, NEVER, READERS, AsyncProxy, Operation, View

WARP = 32
CHUNKS = np.arange(2)


def proxy():
    """The proxy of a machine of one warp, and what it reports: kinds, and the instructions of the two parties."""
    machine = SimpleNamespace(
        shared=np.zeros((1, 256), np.uint8), uses=SimpleNamespace(wgmma=False), lanes=WARP, blocks=1, padded=WARP,
        first_block=0, block_index=lambda lane: 0, thread_index=lambda lane: lane,
    )  # fmt: skip
    cells, readers, reported = np.zeros((64, shadow.CELL), np.int32), np.zeros((0, 0), np.int64), []

    def report(machine, kind, instruction, key, message):
        reported.append((kind, instruction.location, *(other.location for other in key)))

    made = AsyncProxy(machine, SimpleNamespace(width=WARP), lambda: (cells, 2, readers), None, report)
    return made, reported


def operation(lane, name, *, writes=False, found=NEVER):
    """A copy that a lane issues, and finds complete when its own number is `found`."""
    by = np.full(WARP, NEVER, np.int32)
    by[lane] = found
    return Operation(SimpleNamespace(opcode="cp", location=name, text=name), lane, writes, by, WARP)


def test_a_reader_that_is_over_makes_room_for_those_that_are_not():
    """Else one that may still be reading would be forgotten: a chunk remembers a few."""
    watched, reported = proxy()
    of_first = View(np.where(np.arange(2 * WARP) == 0, 5, 0), 0)  # knows of its own copies alone
    for number in range(READERS):
        watched.access(operation(0, f"waited {number}", found=1), CHUNKS, of_first, "copies")
    watched.access(operation(1, "not waited"), CHUNKS, View(np.zeros(2 * WARP, np.int32), 0), "copies")
    watched.access(operation(0, "last", found=1), CHUNKS, of_first, "copies")
    assert not reported
    watched.access(operation(0, "write", writes=True), CHUNKS, of_first, "copies to")
    assert reported == [(ASYNC_RACE, "write", "not waited")]
