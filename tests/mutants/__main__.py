"""Judge the cases of `gpubp check` by mutants of the kernels: see command.py."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is loaded: a thread would not survive a fork

from command import main

if __name__ == "__main__":
    sys.exit(main())
