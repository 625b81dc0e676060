"""Losses of shared steps by as many ranks as start this program, on emulated devices: `shared_steps.py FOLDER`."""

import json
import sys
from pathlib import Path

from gpubp.bench import own
from gpubp.bench.works import STEPS, SharedStep
from gpubp.distributed.ranks import joined

WAYS = {
    "cupy": {"backend": "cupy"},
    "cupy-graph": {"backend": "cupy", "captured": True},
    "numba": {"backend": "numba"},
}


def main(folder):
    with joined() as ranks:
        for name, settings in WAYS.items():
            made = own.shared(SharedStep(STEPS["tiny"], ranks.count), ranks, device="emulator", **settings)
            losses = []
            for _ in range(3):
                made.stepper.step()
                losses.append(made.stepper.loss())
            if ranks.first:
                (Path(folder) / f"{name}.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(*sys.argv[1:])
