"""An upload reads the host's memory when the device comes to it: that may be after the call, and after the caller has
changed or dropped its array. The emulated device is made to do so."""

import weakref

import numpy as np
import pytest

from gpubp.backends.cupy_backend import CupyBackend
from gpubp.backends.numba_backend import NumbaBackend
from gpubp.emulator.cupy import arrays, streams
from gpubp.emulator.numba import frontend as numba_frontend


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
