"""The functions of the CUDA driver API that the virtual device has, by the names and arguments of its documentation.

Each turns C's arguments into Python's and calls the module that does the work. They note themselves in `calls.EXPORTS`
when this package is imported.
"""

from __future__ import annotations

from gpubp.emulator.driver.api import (
    code,
    contexts,
    devices,
    general,
    graphs,
    launches,
    memory,
    per_thread,
    pools,
    streams,
    tensor_maps,
)

__all__ = ["code", "contexts", "devices", "general", "graphs", "launches", "memory", "pools", "streams", "tensor_maps"]

per_thread.export_twins()
