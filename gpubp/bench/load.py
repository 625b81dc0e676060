"""How much of the machine other programs take while something is measured."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Load:
    """Counts from its making on. Linux only: elsewhere nobody says."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._before = _foreign_core_seconds()

    def share(self) -> float | None:
        """Return the share of all cores' time that other programs have taken since then, or None."""
        now = _foreign_core_seconds()
        if now is None or self._before is None:
            return None
        cores = os.cpu_count() or 1
        return max(0.0, (now - self._before) / ((time.perf_counter() - self._start) * cores))


def _foreign_core_seconds() -> float | None:
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    import resource

    user, nice, system = map(int, stat.read_text().split()[1:4])
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own = sum(use.ru_utime + use.ru_stime for use in uses)
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - own
