"""Graphs."""

from __future__ import annotations

from gpubp.emulator.driver import streams
from gpubp.emulator.driver.cupy.runtime.serving import serve


@serve()
def graphDestroy(graph: int) -> None:
    """Forget a graph."""
    streams.destroy_graph(graph)


@serve()
def graphExecDestroy(graphExec: int) -> None:
    """Forget an executable graph."""
    streams.destroy_executable(graphExec)


@serve()
def graphInstantiate(graph: int) -> int:
    """Return the handle of an executable copy of a graph."""
    return streams.instantiate(graph)


@serve()
def graphLaunch(graphExec: int, stream: int) -> None:
    """Do the work of an executable graph."""
    streams.launch_graph(graphExec, stream)


@serve()
def graphUpload(graphExec: int, stream: int) -> None:
    """Do nothing to an executable graph that there is."""
    streams.upload_graph(graphExec, stream)
