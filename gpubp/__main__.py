"""The program `gpubp`, also as `python -m gpubp`; a Ctrl-C ends it without a traceback even while its modules load."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the program, its imports included."""
    try:
        from gpubp import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
