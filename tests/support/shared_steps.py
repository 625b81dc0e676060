"""Shared steps by as many ranks as start this program, on emulated devices: `shared_steps.py FOLDER`.

They go through all that is done on GPUs, by the host's clock in place of the device's, and their times are thrown away.
"""

import json
import sys
from pathlib import Path

from gpubp import backends
from gpubp.bench import own, rank_worker
from gpubp.bench.works import STEPS, SharedStep
from gpubp.distributed.ranks import joined
from gpubp.emulator.errors import EmulatorError

WAYS = {
    "cupy": {"backend": "cupy"},
    "cupy-graph": {"backend": "cupy", "captured": True},
    "numba": {"backend": "numba"},
}


def refuses_to_time(work, ranks, settings):
    """True if the emulated device says by itself that it measures no time."""
    try:
        own.shared(work, ranks, device="emulator", **settings).all_reduce()
    except EmulatorError as error:
        return "measures no time" in str(error)
    return False


def main(folder):
    with joined() as ranks:
        work = SharedStep(STEPS["tiny"], ranks.count)
        for name, settings in WAYS.items():
            assert refuses_to_time(work, ranks, settings)
            kind = type(backends.get(settings["backend"], "emulator"))
            usual, kind.elapsed = kind.elapsed, staticmethod(own.on_host)

            def make(work, settings=settings):
                return own.shared(work, ranks, device="emulator", **settings)

            found = rank_worker.measure(work, make, ranks, repeats=1, budget=0.0, losses=3)
            kind.elapsed = usual
            assert (len(found.seconds), len(found.all_reduce)) == (1, 1)
            if ranks.first:
                (Path(folder) / f"{name}.json").write_text(json.dumps(found.losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
