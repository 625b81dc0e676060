"""What several tests of the driver share: they call its functions in this process, without a library."""

import ctypes

import pytest

from gpubp.emulator.driver import api, calls, results, streams

assert api.__all__  # the functions have noted themselves


@pytest.fixture
def no_capture():
    """No stream is capturing, before and after."""
    assert not streams._capturing
    yield
    for capture in list(streams._capturing):
        streams._end(capture)


@pytest.fixture
def fails():
    """Check that a call fails by a result: `fails("CUDA_ERROR_INVALID_VALUE", "message", function, *arguments)`."""

    def check(result, message, function, *arguments):
        with pytest.raises(results.DriverError, match=message) as caught:
            function(*arguments)
        assert caught.value.result == result

    return check


@pytest.fixture(scope="session")
def c_call():
    """Call a function of the driver as C does; returns the name of its CUresult and the message."""
    made = {}

    def call(name, *arguments):
        if name not in made:
            made[name] = calls.callback(calls.EXPORTS[name])
        number = made[name](*arguments)
        known = ctypes.c_uint64()
        assert calls.callback(calls.EXPORTS["cuGetErrorString"])(number, ctypes.byref(known)) == 0
        return results.NAMES[number], ctypes.string_at(known.value).decode()

    return call
