"""The runner in TF32 and in 16 bits: each mistake planted into the NumPy backend is caught."""

import functools

import ml_dtypes
import numpy as np
import pytest

from gpubp import precision
from gpubp.backends import numpy_mixed
from gpubp.backends.base import Control, Losses
from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.crosscheck import cases, runner
from gpubp.precision import HALVES, widened


@functools.cache
def cases_of(primitive, dtype):
    return [case for case in cases.covering_cases(primitive, ()) if case.dtype == dtype]


def failures_of(backend, primitive, dtype):
    """The failures, one after the other as they come."""
    for case in cases_of(primitive, dtype):
        outcome = runner.run_case(backend, case)
        if not outcome.passed:
            yield outcome


class Product(NumpyBackend):
    """transpose_product with operands, a sum and a store that a mistake may override."""

    def transpose_product(self, delta_next, w_next, product, tf32=False):
        if not tf32 and product.dtype not in HALVES:
            return super().transpose_product(delta_next, w_next, product)
        a, b = self.operand(delta_next, tf32), self.operand(w_next, tf32)
        with np.errstate(over="ignore"):
            product[...] = self.stored(self.sum(a, b), product.dtype)

    def operand(self, x, tf32):
        return precision.round_to_tf32(x) if tf32 else widened(x)

    def sum(self, a, b):
        return a @ b

    def stored(self, x, dtype):
        return x.astype(dtype)


class TakesBfloat16(Product):
    def operand(self, x, tf32):
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)


class CutsOff(Product):
    def operand(self, x, tf32):
        return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


class RoundsTiesToEven(Product):
    def operand(self, x, tf32):
        bits = x.view(np.uint32)
        return ((bits + np.uint32(0xFFF) + (bits >> 13 & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


class StaysInFloat32(Product):
    def operand(self, x, tf32):
        return x


class SumsInHalves(Product):
    def sum(self, a, b):
        total = np.zeros((len(a), b.shape[1]), np.float16)
        with np.errstate(all="ignore"):
            for k in range(0, a.shape[1], 16):
                total = (total.astype(np.float32) + a[:, k : k + 16] @ b[k : k + 16]).astype(np.float16)
        return total.astype(np.float32)


class LeavesOutASlice(Product):
    def sum(self, a, b):
        whole = a.shape[1] // 16 * 16
        return a[:, :whole] @ b[:whole]


class Saturates(Product):
    def stored(self, x, dtype):
        return np.clip(x, -65504, 65504).astype(dtype)


class CutsOffWhatItStores(Product):
    def stored(self, x, dtype):
        if dtype == ml_dtypes.bfloat16:
            return (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32).astype(dtype)
        nearest = x.astype(dtype)
        return np.where(np.abs(nearest.astype(np.float32)) > np.abs(x), np.nextafter(nearest, dtype.type(0)), nearest)


class RoundsThroughBfloat16(Product):
    def stored(self, x, dtype):
        return x.astype(ml_dtypes.bfloat16).astype(dtype)


class AppliesSigmaToTheRoundedZ(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a, tf32=False):
        if a.dtype not in HALVES:
            return super().dense_forward(a_prev, w, b, activation, z, a, tf32)
        wide = np.empty(a.shape, np.float32)
        numpy_mixed.transpose_product(NumpyBackend(), a_prev, np.ascontiguousarray(w.T), wide, False)
        rounded = (wide if b is None else wide + b).astype(a.dtype).astype(np.float32)
        out = np.empty_like(rounded)
        activation.apply(rounded, out)
        a[...] = out.astype(a.dtype)
        if z is not None:
            z[...] = rounded.astype(z.dtype)


class SumsAColumnInHalves(NumpyBackend):
    def bias_gradient(self, delta, gradient):
        total = np.zeros(delta.shape[1], delta.dtype)
        with np.errstate(over="ignore"):
            for row in delta:
                total = total + row
        gradient[...] = total


class RoundsTheProbabilities(NumpyBackend):
    def softmax(self, z, a):
        e = np.exp(widened(z) - widened(z).max(axis=1, keepdims=True)).astype(a.dtype).astype(np.float32)
        a[...] = (e / e.sum(axis=1, keepdims=True)).astype(a.dtype)


class ForgetsTheLossScale(NumpyBackend):
    def output_delta(self, loss, activation, output, saved, y, control, losses, delta):
        super().output_delta(loss, activation, output, saved, y, None, losses, delta)


class ScalesTheLoss(NumpyBackend):
    def output_delta(self, loss, activation, output, saved, y, control, losses, delta):
        super().output_delta(loss, activation, output, saved, y, control, losses, delta)
        if control is not None and output.dtype in HALVES:
            losses[Losses.BATCH] *= control[Control.LOSS_SCALE]


class ScalesAfterRounding(NumpyBackend):
    """What underflows before it is scaled is lost."""

    def output_delta(self, loss, activation, output, saved, y, control, losses, delta):
        super().output_delta(loss, activation, output, saved, y, None, losses, delta)
        if control is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                small = (delta.astype(np.float32) * np.float32(2**-10)).astype(delta.dtype).astype(np.float32)
                delta[...] = (small * np.float32(2**10 * control[Control.LOSS_SCALE])).astype(delta.dtype)


class UpdatesInSpiteOfSkip(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters, stored=None):
        control = control.copy()
        control[Control.SKIP] = 0
        with np.errstate(invalid="ignore"):
            super().update(optimizer, gradients, decayed, control, state, parameters, stored)


class CountsSkippedSteps(NumpyBackend):
    def prepare_update(self, max_norm, control, loss_scaling=None):
        step = control[Control.STEP]
        super().prepare_update(max_norm, control, loss_scaling)
        control[Control.STEP] = step + 1


class NeverClearsSkip(NumpyBackend):
    def prepare_update(self, max_norm, control, loss_scaling=None):
        skip = control[Control.SKIP]
        super().prepare_update(max_norm, control, loss_scaling)
        control[Control.SKIP] = max(skip, control[Control.SKIP])


class NeverGrows(NumpyBackend):
    def prepare_update(self, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        super().prepare_update(max_norm, control, loss_scaling)
        control[Control.LOSS_SCALE] = min(scale, control[Control.LOSS_SCALE])


class DividesByTheNewScale(NumpyBackend):
    def prepare_update(self, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        super().prepare_update(max_norm, control, loss_scaling)
        if scale and not control[Control.SKIP]:
            control[Control.GRADIENT_SCALE] *= scale / control[Control.LOSS_SCALE]


class ClipsTheScaledNorm(NumpyBackend):
    def prepare_update(self, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        super().prepare_update(None if max_norm is None else max_norm / max(scale, 1), control, loss_scaling)


class ForgetsToUnscale(NumpyBackend):
    def prepare_update(self, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        super().prepare_update(max_norm, control, loss_scaling)
        control[Control.GRADIENT_SCALE] *= max(scale, 1)


class StoresTheOldWeights(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters, stored=None):
        old = parameters.copy()
        super().update(optimizer, gradients, decayed, control, state, parameters, stored)
        if stored is not None:
            stored[...] = old.astype(stored.dtype)


class ForgetsTheCopy(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters, stored=None):
        super().update(optimizer, gradients, decayed, control, state, parameters)


class CutsOffTheCopy(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters, stored=None):
        super().update(optimizer, gradients, decayed, control, state, parameters, stored)
        if stored is not None and not control[Control.SKIP]:
            stored[...] = CutsOffWhatItStores().stored(parameters, stored.dtype)


class CastSaturates(NumpyBackend):
    def cast(self, source, out):
        super().cast(np.clip(source, -65504, 65504), out)


class CastCutsOff(NumpyBackend):
    def cast(self, source, out):
        if out.dtype not in HALVES:
            return super().cast(source, out)
        with np.errstate(over="ignore"):
            out[...] = CutsOffWhatItStores().stored(source, out.dtype)


HALF = ("bfloat16", "float16")
PLANTED = [
    *[(kind, "transpose_product", "tf32") for kind in (TakesBfloat16, CutsOff, RoundsTiesToEven, StaysInFloat32)],
    *[(kind, "transpose_product", dtype) for kind in (SumsInHalves, LeavesOutASlice) for dtype in cases.MIXED_DTYPES],
    (TakesBfloat16, "transpose_product", "float16"),
    (RoundsThroughBfloat16, "transpose_product", "float16"),
    (Saturates, "transpose_product", "float16"),
    *[(CutsOffWhatItStores, "transpose_product", dtype) for dtype in HALF],
    *[(AppliesSigmaToTheRoundedZ, "dense_forward", dtype) for dtype in HALF],
    *[(SumsAColumnInHalves, "bias_gradient", dtype) for dtype in HALF],
    *[(RoundsTheProbabilities, "softmax", dtype) for dtype in HALF],
    *[(kind, "output_delta", dtype) for kind in (ForgetsTheLossScale, ScalesTheLoss) for dtype in HALF],
    (ScalesAfterRounding, "output_delta", "float16"),
    *[
        (kind, "update", "bfloat16")
        for kind in (
            UpdatesInSpiteOfSkip,
            CountsSkippedSteps,
            NeverClearsSkip,
            NeverGrows,
            DividesByTheNewScale,
            ClipsTheScaledNorm,
            ForgetsToUnscale,
            StoresTheOldWeights,
            ForgetsTheCopy,
            CutsOffTheCopy,
        )
    ],
    (CutsOffTheCopy, "update", "float16"),
    (CastSaturates, "cast", "float16"),
    *[(CastCutsOff, "cast", dtype) for dtype in HALF],
]


@pytest.mark.parametrize(("kind", "primitive", "dtype"), PLANTED, ids=lambda value: getattr(value, "__name__", value))
def test_planted_mistakes_are_caught(kind, primitive, dtype):
    failure = next(failures_of(kind(), primitive, dtype), None)
    assert failure is not None
    assert not failure.faults  # caught by its results


@pytest.mark.parametrize("dtype", cases.MIXED_DTYPES)
def test_the_product_without_a_mistake_passes(dtype):
    assert list(failures_of(Product(), "transpose_product", dtype)) == []


def test_float16_products_overflow_in_some_cases_and_in_part():
    """Else the check could not tell saturation."""
    from gpubp.crosscheck import problems

    chosen = cases_of("transpose_product", "float16")
    shares = [(np.abs(problems.make(case).expected["product"].reference) >= 65520).mean() for case in chosen]
    assert any(0 < share < 1 for share in shares)
    assert any(share == 0 for share in shares)
