"""A pipeline of two streams: while one copies its part of the data, the other computes; events keep them in order."""

import numpy as np
from numba import cuda


@cuda.jit
def smooth(x, y):
    i = cuda.grid(1)
    if i < x.size - 1:  # planted: if i < x.size:
        y[i] = (x[i] + x[i + 1]) / 2  # found


parts = 4
data = cuda.pinned_array((parts, 1000), dtype=np.float64)
data[:] = np.random.default_rng(4).random(data.shape)
got = cuda.pinned_array((parts, 999), dtype=np.float64)
streams = [cuda.stream(), cuda.stream()]
inputs = [cuda.device_array(1000, stream=stream) for stream in streams]
outputs = [cuda.device_array(999, stream=stream) for stream in streams]
for part in range(parts):
    stream, x, y = streams[part % 2], inputs[part % 2], outputs[part % 2]
    x.copy_to_device(data[part], stream=stream)
    smooth[8, 128, stream](x, y)
    y.copy_to_host(got[part], stream=stream)
event = cuda.event(timing=False)
event.record(streams[1])
event.wait(streams[0])
streams[0].synchronize()
np.testing.assert_allclose(got, (data[:, :-1] + data[:, 1:]) / 2)
