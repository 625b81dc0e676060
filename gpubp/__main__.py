"""The program `gpubp`, also as `python -m gpubp`: it hears a Ctrl-C before the first of its modules loads."""

from __future__ import annotations

import signal
import sys

from gpubp import interrupts


def main() -> None:
    """Run the program, its imports included."""
    try:
        interrupts.end_on_interrupt()
        from gpubp import cli

        cli.main()
    except KeyboardInterrupt:  # as the verbs are imported
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
