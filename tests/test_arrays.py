"""Arrays of other libraries: they are taken wherever NumPy's are, from the host and from a device."""

import numpy as np
import pytest

from gpubp import Network, Trainer, backends, emulator
from gpubp.arrays import dtype_of, lies_on_device, on_host
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.data.dataset import Dataset
from gpubp.data.scaler import Scaler
from gpubp.emulator import cuda
from gpubp.errors import ArgumentError, DataError, StateError
from gpubp.training import TrainingConfig, fit

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4)).astype(np.float32)
LABELS = np.arange(6) % 3
VALUES = RNG.normal(size=(6, 3)).astype(np.float32)


class Refusing:
    """What CuPy, PyTorch and Numba have in common: NumPy must not copy from the device unasked."""

    def __array__(self, *arguments, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __len__(self):
        return len(self.host)


class Cupys(Refusing):
    """An array as CuPy's, in the memory of another device than the emulated one."""

    def __init__(self, host):
        self.host, self.shape, self.dtype, self.ndim = host, host.shape, host.dtype, host.ndim
        self.__cuda_array_interface__ = {
            "shape": host.shape,
            "typestr": host.dtype.str,
            "data": (64, False),
            "version": 3,
        }

    def get(self):
        return self.host.copy()


class Numbas(Refusing):
    """An array as Numba's."""

    def __init__(self, host):
        self.host, self.shape, self.dtype = host, host.shape, host.dtype
        self.__cuda_array_interface__ = {
            "shape": host.shape,
            "typestr": host.dtype.str,
            "data": (64, False),
            "version": 3,
        }

    def copy_to_host(self):
        return self.host.copy()


class Torchs(Refusing):
    """A tensor as PyTorch's, which must be detached first and has a dtype that is not NumPy's."""

    def __init__(self, host, on_device=True, detached=False):
        self.host, self.shape, self.on_device, self.detached = host, host.shape, on_device, detached
        self.dtype = object()

    def __dlpack_device__(self):
        return (2, 0) if self.on_device else (1, 0)

    @property
    def __cuda_array_interface__(self):
        if not self.on_device:
            raise AttributeError
        return {"shape": self.host.shape, "typestr": self.host.dtype.str, "data": (64, False), "version": 3}

    def detach(self):
        return Torchs(self.host, self.on_device, True)

    def cpu(self):
        return Torchs(self.host, False, self.detached)

    def __array__(self, *arguments, **options):
        if self.on_device or not self.detached:
            raise TypeError("Can't call numpy() on this tensor")
        return self.host


class OnHost:
    """An array on the host that speaks DLPack alone."""

    def __init__(self, host):
        self.host = host

    def __dlpack__(self, **options):
        return self.host.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.host.__dlpack_device__()


class OnDevice(OnHost):
    """An array on a device whose library copies it to the host if DLPack asks for that."""

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, *, dl_device=None, **options):
        if dl_device is None:
            raise BufferError("the array lies on a device")
        return self.host.__dlpack__(**options)


class Sequence:
    """A table of another library, such as pandas: NumPy takes it by `__array__`."""

    def __init__(self, host):
        self.host = host

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.host, dtype)


FOREIGN = [
    Cupys,
    Numbas,
    Torchs,
    lambda host: Torchs(host, on_device=False),
    OnHost,
    OnDevice,
    Sequence,
    np.ndarray.tolist,
]


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_values_of_any_array_reach_the_host(kind):
    found = np.asarray(on_host("x", kind(X)))
    np.testing.assert_array_equal(found, X)


def test_where_an_array_lies():
    assert [lies_on_device(kind(X)) for kind in (Cupys, Numbas, Torchs, OnDevice)] == [True] * 4
    assert not any(lies_on_device(x) for x in (X, X.tolist(), OnHost(X), Torchs(X, on_device=False), 3, None, "x"))
    assert lies_on_device(emulator.asarray(X))
    assert lies_on_device(cuda.to_device(X))
    assert dtype_of(Torchs(X)) == dtype_of(Cupys(X)) == np.float32


def test_an_array_that_stays_on_its_device_is_named():
    class Closed:
        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(StateError, match=r"x is a Closed on a device \(.*\); it must be copied to the host"):
        Network([4, 3], backend="numpy").predict(Closed())


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_network_on_the_host_takes_any_array(kind):
    network = Network([4, 3], backend="numpy")
    np.testing.assert_array_equal(network.predict(kind(X)), network.predict(X))
    assert network.evaluate(kind(X), kind(LABELS)) == network.evaluate(X, LABELS)
    assert network.score(kind(X), kind(LABELS)) == network.score(X, LABELS)
    assert network.gradients(kind(X), kind(LABELS))[0] == network.gradients(X, LABELS)[0]
    trainers = [Trainer(Network([4, 3], backend="numpy")) for _ in range(2)]
    for trainer, (x, y) in zip(trainers, [(X, LABELS), (kind(X), kind(LABELS))], strict=True):
        trainer.step(x, y)
        trainer.step_rows(trainer.feed(x, y), 0, 4)
    np.testing.assert_array_equal(trainers[0].network.parameters, trainers[1].network.parameters)
    np.testing.assert_array_equal(NumpyBackend().asarray(kind(X), "float64"), X)
    network.set_weights({name: kind(w) for name, w in trainers[0].network.weights().items()})
    np.testing.assert_array_equal(network.parameters, trainers[0].network.parameters)


@pytest.mark.parametrize("kind", FOREIGN)
def test_fit_and_its_model_take_any_array(kind):
    config = TrainingConfig(epochs=1)
    models = []
    for convert in (np.asarray, kind):
        names = ("a", "b", "c")
        data = Dataset(convert(X), convert(LABELS), convert(X), convert(LABELS), class_names=names)
        models.append(fit(Network([4, 3], backend="numpy"), data, config).model)
    np.testing.assert_array_equal(models[0].predict_proba(X), models[1].predict_proba(kind(X)))
    np.testing.assert_array_equal(models[0].predict(X), models[1].predict(kind(X)))
    assert models[0].evaluate(X, LABELS) == models[1].evaluate(kind(X), kind(LABELS))


def cupy_array(host):
    return emulator.asarray(host)


def numba_array(host):
    return cuda.to_device(host)


def by_interface(host):
    class Foreign:
        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, object()
            self.__cuda_array_interface__ = array.__cuda_array_interface__

    return Foreign(emulator.asarray(host))


@pytest.fixture(params=["cupy", "numba"], scope="module")
def backend(request):
    return backends.get(request.param, "emulator")


@pytest.mark.parametrize("kind", [cupy_array, numba_array, by_interface])
def test_a_network_on_the_device_takes_any_array_of_the_device(backend, kind):
    network, reference = Network([4, 3], backend=backend), Network([4, 3], backend="numpy")
    np.testing.assert_array_equal(network.predict(kind(X)), reference.predict(X))
    np.testing.assert_array_equal(network.predict_proba(kind(X)), network.predict_proba(X))
    assert network.evaluate(kind(X), kind(LABELS)) == network.evaluate(X, LABELS)
    with pytest.raises(ArgumentError, match="y holds labels from 0 to 9; it must hold labels from 0 to 2"):
        network.evaluate(kind(X), kind(np.array([0, 1, 2, 9, 0, 1])))
    with pytest.raises(ArgumentError, match="x holds NaN"):
        network.predict(kind(np.full_like(X, np.nan)))
    trainer, other = Trainer(network), Trainer(Network([4, 3], backend=backend))
    trainer.step(kind(X), kind(LABELS))
    other.step(X, LABELS)
    np.testing.assert_array_equal(backend.asnumpy(network.parameters), backend.asnumpy(other.network.parameters))


def test_what_is_no_number_is_named_where_a_table_is_scaled():
    with pytest.raises(DataError, match="x holds object; it must hold real numbers"):
        Scaler(np.zeros(2), np.ones(2)).apply(Sequence(np.array([[1, "a"]], dtype=object)))
