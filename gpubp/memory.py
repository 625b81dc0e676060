"""How much memory this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

OWN_GROUPS = Path("/proc/self/cgroup")
"""Says in which control groups this process is: a line `number:controllers:path` for each hierarchy."""
HIERARCHIES = Path("/sys/fs/cgroup")


def usable_memory() -> int:
    """Return the bytes of memory that this process may use: the machine's, or fewer where a container or another
    control group allows fewer. 0 if the system does not say.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max); v1 has memory.limit_in_bytes.
    """
    return min((*_physical(), *_limits()), default=0)


def _physical() -> Iterator[int]:
    with suppress(AttributeError, ValueError, OSError):  # a system that does not say
        yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limits() -> Iterator[int]:
    """Yield the limits of the control groups that this process is in, and of those around them."""
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, own = line.split(":", 2)
        if not controllers:
            top, name = HIERARCHIES, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = HIERARCHIES / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(own.lstrip("/"))
        # a container may see its own group as the top, while the path is that on the machine
        for path in (group, *group.parents):
            with suppress(OSError, ValueError):  # not there, or "max"
                yield int((top / path / name).read_text(encoding="ascii"))
