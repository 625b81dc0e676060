"""An upload reads the host's memory when the device comes to it: that may be after the call, and after the caller has
changed or dropped its array. The emulated device is made to do so."""

import weakref

import numpy as np
import pytest

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.numba_backend import NumbaBackend
from gpubp.emulator.cupy import arrays, streams
from gpubp.emulator.numba import frontend as numba_frontend
from gpubp.errors import ArgumentError


@pytest.mark.parametrize("kind", [CupyBackend, NumbaBackend])
def test_an_upload_takes_what_the_array_held(monkeypatch, kind):
    backend = kind("emulator")
    out = backend.zeros((3,), "float64")
    late, arrived = [], [False]
    monkeypatch.setattr(streams.Event, "done", property(lambda event: arrived[0]))
    monkeypatch.setattr(numba_frontend.NumbaEvent, "query", lambda event: arrived[0])
    write = arrays.ndarray._write
    monkeypatch.setattr(arrays.ndarray, "_write", lambda self, values: late.append((self, weakref.ref(values))))
    host = np.arange(3.0)
    backend.upload(host, out)
    host[:] = -1
    ((array, values),) = late
    write(array, values())
    np.testing.assert_array_equal(backend.asnumpy(out), [0, 1, 2])

    arrived[0] = True
    backend.upload(host, out)
    assert [values() for _, values in late] == [None, None], "what has arrived is let go"


@pytest.mark.parametrize("kind", [CupyBackend, NumbaBackend])
def test_a_copy_beside_the_steps_has_a_stream_of_its_own_and_marks_order_it(monkeypatch, kind):
    backend = kind("emulator")
    outs, hosts = ([make((3,), "float64") for _ in range(2)] for make in (backend.zeros, backend.pinned))
    for number, host in enumerate(hosts):
        host[:] = number + 1
    own, beside = backend._stream, backend._beside_stream
    assert own.ptr != beside.ptr
    done = []
    monkeypatch.setattr(
        streams.Stream, "check_not_capturing", lambda stream, what: done.append((stream.ptr == beside.ptr, what))
    )
    backend.wait_for(backend.upload_beside(list(zip(hosts, outs, strict=True)), backend.mark()))
    assert done == [
        (False, "an event record"),
        (True, "wait_event"),
        (True, "a copy from the host"),
        (True, "a copy from the host"),
        (True, "an event record"),
        (False, "wait_event"),
    ]
    for number, out in enumerate(outs):
        np.testing.assert_array_equal(backend.asnumpy(out), number + 1)
    with pytest.raises(ArgumentError, match=r"out\.shape"):
        backend.upload_beside([(hosts[0][:2], outs[0])], backend.mark())


@pytest.mark.parametrize("kind", [CupyBackend, NumbaBackend])
def test_what_is_copied_beside_the_steps_is_kept_until_it_has_arrived(monkeypatch, kind):
    backend, arrived = kind("emulator"), [False]
    monkeypatch.setattr(streams.Event, "done", property(lambda event: arrived[0]))
    monkeypatch.setattr(numba_frontend.NumbaEvent, "query", lambda event: arrived[0])
    host, out = backend.pinned((2, 3), "float32"), backend.empty((2, 3), "float32")
    host[:] = 1
    kept = weakref.ref(out)
    backend.upload_beside([(host, out)], backend.mark())
    del host, out
    assert kept() is not None
    arrived[0] = True
    backend.upload(np.zeros(1), backend.zeros((1,), "float64"))
    assert kept() is None
