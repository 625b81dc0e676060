"""Captures and graphs."""

from __future__ import annotations

import ctypes
from typing import Any

from gpubp.emulator.driver import streams
from gpubp.emulator.driver.api.values import HOST_FUNCTION, required, write
from gpubp.emulator.driver.calls import (
    ENUM,
    HANDLE,
    INT,
    POINTER,
    SIZE,
    UINT,
    UINT64,
    export,
    to,
)
from gpubp.emulator.driver.results import DriverError


@export("cuStreamBeginCapture_v2", 10010, HANDLE, ENUM)
def _(stream: int, mode: int) -> None:
    streams.begin_capture(stream, mode)


@export("cuStreamEndCapture", 10000, HANDLE, to(HANDLE))
def _(stream: int, graph: Any) -> None:
    graph[0] = 0
    graph[0] = streams.end_capture(stream)


@export("cuStreamIsCapturing", 10000, HANDLE, to(INT))
def _(stream: int, status: Any) -> None:
    status[0] = streams.capture_status(stream)[0]


@export("cuStreamGetCaptureInfo", 10010, HANDLE, to(INT), POINTER)
@export("cuStreamGetCaptureInfo_v2", 11030, HANDLE, to(INT), POINTER, POINTER, POINTER, POINTER)
@export("cuStreamGetCaptureInfo_v3", 12030, HANDLE, to(INT), POINTER, POINTER, POINTER, POINTER, POINTER)
def _(stream: int, status: Any, number: int, graph: int = 0, *rest: int) -> None:
    """The dependencies are none: a graph here is work in the order in which it was recorded."""
    status[0], found = streams.capture_status(stream)
    write(number, UINT64, found)
    capture = streams.capture_of(stream)
    if capture is not None and graph:
        write(graph, HANDLE, streams.graph_handle(capture.graph))
    for address in rest:
        write(address, UINT64, 0)


@export("cuThreadExchangeStreamCaptureMode", 10010, to(INT))
def _(mode: Any) -> None:
    mode[0] = streams.exchange_mode(mode[0])


@export("cuGraphCreate", 10000, to(HANDLE), UINT)
def _(graph: Any, flags: int) -> None:
    graph[0] = streams.create_graph()


@export("cuGraphDestroy", 10000, HANDLE)
def _(graph: int) -> None:
    streams.destroy_graph(graph)


@export("cuGraphClone", 10000, to(HANDLE), HANDLE)
def _(clone: Any, graph: int) -> None:
    clone[0] = streams.clone_graph(graph)


@export("cuGraphGetNodes", 10000, HANDLE, POINTER, to(SIZE))
def _(graph: int, nodes: int, count: Any) -> None:
    if nodes:
        raise DriverError("CUDA_ERROR_NOT_SUPPORTED", "the virtual device gives no handles of a graph's nodes")
    count[0] = len(streams.graph(graph).work)


@export("cuGraphInstantiate", 10000, to(HANDLE), HANDLE, POINTER, POINTER, SIZE)
@export("cuGraphInstantiate_v2", 11000, to(HANDLE), HANDLE, POINTER, POINTER, SIZE)
def _(executable: Any, graph: int, node: int, log: int, nbytes: int) -> None:
    write(node, HANDLE, 0)
    executable[0] = streams.instantiate(graph)


@export("cuGraphInstantiateWithFlags", 11040, to(HANDLE), HANDLE, UINT64)
def _(executable: Any, graph: int, flags: int) -> None:
    executable[0] = streams.instantiate(graph, flags)


class InstantiateParams(ctypes.Structure):
    """CUDA_GRAPH_INSTANTIATE_PARAMS of the documentation."""

    _fields_ = (("flags", UINT64), ("hUploadStream", HANDLE), ("hErrNode_out", HANDLE), ("result_out", INT))


@export("cuGraphInstantiateWithParams", 12000, to(HANDLE), HANDLE, to(InstantiateParams))
def _(executable: Any, graph: int, params: Any) -> None:
    executable[0] = streams.instantiate(graph, params[0].flags)
    params[0].hErrNode_out, params[0].result_out = 0, 0


@export("cuGraphLaunch", 10000, HANDLE, HANDLE)
def _(executable: int, stream: int) -> None:
    streams.launch_graph(executable, stream)


@export("cuGraphUpload", 11010, HANDLE, HANDLE)
def _(executable: int, stream: int) -> None:
    streams.upload_graph(executable, stream)


@export("cuGraphExecDestroy", 10000, HANDLE)
def _(executable: int) -> None:
    streams.destroy_executable(executable)


@export("cuGraphExecUpdate_v2", 12000, HANDLE, HANDLE, POINTER)
def _(executable: int, graph: int, info: int) -> None:
    success, error, topology_changed = 0, 1, 2
    write(required(info, "resultInfo"), INT, error)
    try:
        streams.update_executable(executable, graph)
    except DriverError as failure:
        if failure.result == "CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE":
            write(info, INT, topology_changed)
        raise
    write(info, INT, success)


@export("cuUserObjectCreate", 11030, to(HANDLE), POINTER, POINTER, UINT, UINT)
def _(thing: Any, data: int, destroy: int, references: int, flags: int) -> None:
    required(destroy, "destroy")
    thing[0] = streams.create_object(lambda: HOST_FUNCTION(destroy)(data), references)


@export("cuUserObjectRetain", 11030, HANDLE, UINT)
def _(thing: int, count: int) -> None:
    streams.retain_object(thing, count)


@export("cuUserObjectRelease", 11030, HANDLE, UINT)
def _(thing: int, count: int) -> None:
    streams.release_object(thing, count)


@export("cuGraphRetainUserObject", 11030, HANDLE, HANDLE, UINT, UINT)
def _(graph: int, thing: int, count: int, flags: int) -> None:
    moves = 1  # CU_GRAPH_USER_OBJECT_MOVE
    if flags & ~moves:
        raise DriverError("CUDA_ERROR_INVALID_VALUE", f"flags is {flags}: it must be 0 or 1")
    streams.keep_object(graph, thing, count, bool(flags & moves))


@export("cuGraphReleaseUserObject", 11030, HANDLE, HANDLE, UINT)
def _(graph: int, thing: int, count: int) -> None:
    streams.drop_object(graph, thing, count)
