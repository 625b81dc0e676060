"""Mistakes that the cross-check must find: wrong products, and backends each of which does one thing wrong."""

from dataclasses import replace

import ml_dtypes
import numpy as np

from gpubp.backends.numpy_backend import NumpyBackend
from gpubp.backends.numpy_rounded import rounded
from gpubp.crosscheck import cases
from gpubp.dtypes import HALVES
from gpubp.kernels.control import Control, Losses
from gpubp.nn import activations, losses
from gpubp.nn.dropout import Dropout
from gpubp.nn.precision import round_to_tf32, widened


# --- operands of other bits than the product was asked for ------------------------------------------------------------
def as_bfloat16(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def as_float16(x):
    return x.astype(np.float16).astype(np.float32)


def as_float8(x):
    return x.astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


def cut_to_tf32(x):
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def ties_to_even(x):
    """x in TF32, ties to even where the hardware rounds them away from zero."""
    bits = x.view(np.uint32)
    return ((bits + np.uint32(0xFFF) + (bits >> 13 & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


def not_rounded(x):
    return x.astype(np.float32)


# --- sums that are wrong: what becomes of c = a b ---------------------------------------------------------------------
def last_depth_left_out(c, a, b):
    return a[:, :-1] @ b[:-1]


def one_element_off(c, a, b):
    c[np.unravel_index(np.abs(c).argmax(), c.shape)] *= 1.01
    return c


def one_nan(c, a, b):
    c[-1, -1] = np.nan
    return c


def one_infinity(c, a, b):
    c[0, -1] = np.inf
    return c


def all_zeros(c, a, b):
    return np.zeros_like(c)


def unwritten_row(c, a, b):
    c[len(c) // 2] = np.nan
    return c


def row_of_zeros(c, a, b):
    c[len(c) // 2] = 0
    return c


def rows_reversed(c, a, b):
    return c[::-1].copy()


def two_columns_swapped(c, a, b):
    c[:, [2, 3]] = c[:, [3, 2]]
    return c


WRONG_SUMS = (
    last_depth_left_out,
    one_element_off,
    one_nan,
    one_infinity,
    all_zeros,
    unwritten_row,
    row_of_zeros,
    rows_reversed,
    two_columns_swapped,
)


# --- backends that do one thing wrong ---------------------------------------------------------------------------------
class DropsTheLastTerm(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        product[...] = last_depth_left_out(delta_next @ w_next, delta_next, w_next)


class RoundsItsInputs(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        if product.dtype == np.float32:
            delta_next, w_next = round_to_tf32(delta_next), round_to_tf32(w_next)
        np.matmul(delta_next, w_next, out=product)


class LeavesTheLastRowUnwritten(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        np.matmul(delta_next[:-1], w_next, out=product[:-1])


class WritesBehindTheOutput(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        super().transpose_product(delta_next, w_next, product)
        behind = np.lib.stride_tricks.as_strided(product.reshape(-1), (product.size + 1,))
        behind[-1] = 0


class ChangesAnInput(NumpyBackend):
    def transpose_product(self, delta_next, w_next, product):
        super().transpose_product(delta_next, w_next, product)
        delta_next[0, 0] += 1


class ForgetsTheBias(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a, **options):
        super().dense_forward(a_prev, w, None, activation, z, a, **options)


class ForgetsToKeepZ(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a, **options):
        super().dense_forward(a_prev, w, b, activation, None, a, **options)


class AppliesSigmaForSigmaPrime(NumpyBackend):
    def hidden_delta(self, delta_next, w_next, activation, saved, delta, dropout=None, control=None):
        self.transpose_product(delta_next, w_next, delta)
        a = np.empty_like(saved)
        activation.apply(saved, a)
        np.multiply(delta, a, out=delta)


class TakesTheSlopeOfOneAtZero(NumpyBackend):
    def hadamard_derivative(self, product, activation, saved, delta):
        super().hadamard_derivative(product, activation, saved, delta)
        if activation == activations.ReLU():
            np.copyto(delta, product, where=saved == 0)


class DividesByOneRowTooMany(NumpyBackend):
    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        super().output_delta(loss, activation, output, saved, y, weights, control, losses, delta, divisor)
        delta *= len(delta) / (len(delta) + 1)


class SetsTheTotal(NumpyBackend):
    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        losses[Losses.TOTAL] = 0
        super().output_delta(loss, activation, output, saved, y, weights, control, losses, delta, divisor)


class StepsUphill(NumpyBackend):
    def weight_step(self, delta, a_prev, control, w, **options):
        control = control * np.where(np.arange(len(control)) == Control.LEARNING_RATE, -1, 1)
        super().weight_step(delta, a_prev, control, w, **options)


class StepsTheBiasUphill(NumpyBackend):
    def bias_step(self, delta, control, b):
        super().bias_step(-delta, control, b)


class ForgetsTheBiasBeside(NumpyBackend):
    def weight_gradient(self, delta, a_prev, gradient, bias_gradient=None, **options):
        super().weight_gradient(delta, a_prev, gradient, **options)

    def bias_step(self, delta, control, b):
        pass


class ScalesTheBiasGradient(NumpyBackend):
    def weight_gradient(self, delta, a_prev, gradient, alpha=1.0, bias_gradient=None, **options):
        super().weight_gradient(delta, a_prev, gradient, alpha=alpha, **options)
        if bias_gradient is not None:
            self.bias_gradient(delta * delta.dtype.type(alpha), bias_gradient, **options)


class ForgetsARow(NumpyBackend):
    def bias_gradient(self, delta, gradient, accumulate=False):
        super().bias_gradient(delta[1:] if len(delta) > 1 else delta, gradient, accumulate)


class ForgetsTheCorrection(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        control = control.copy()
        control[Control.STEP] = 10**9
        super().update(optimizer, gradients, decayed, control, state, parameters)


class DecaysEverything(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        super().update(optimizer, gradients, gradients.size, control, state, parameters)


class IgnoresClipping(NumpyBackend):
    def prepare_update(self, gradients, max_norm, control):
        super().prepare_update(gradients, None, control)


class IgnoresTheClipValue(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        super().update(replace(optimizer, clip_value=None), gradients, decayed, control, state, parameters)


class IgnoresTheOffset(NumpyBackend):
    def gather_rows(self, sources, order, control, out):
        super().gather_rows(sources, order, 0 * control, out)


class GathersTheFirstAlone(NumpyBackend):
    def gather_rows(self, sources, order, control, out):
        super().gather_rows(sources[:1], order, control, out[:1])


class TakesTheLastOfTies(NumpyBackend):
    def row_argmax(self, x, out):
        out[...] = x.shape[1] - 1 - np.argmax(x[:, ::-1], axis=1)


class SumsInFloat32(NumpyBackend):
    def prepare_update(self, gradients, max_norm, control):
        super().prepare_update(gradients, max_norm, control)
        control[Control.SQUARED_NORM] = np.square(gradients, dtype=np.float32).sum()


class SkipsTheMaximum(NumpyBackend):
    def softmax(self, z, a):
        np.exp(z, out=a)
        a /= a.sum(axis=1, keepdims=True) * np.asarray(1 + 1e-5, a.dtype)


class ScalesTwice(NumpyBackend):
    def scale(self, x, factor):
        super().scale(x, factor**2)


# --- dropout, and the factors that go with it -------------------------------------------------------------------------
class DrawsWrongly(NumpyBackend):
    """Takes units for dropped by the mask of `kind`, in place of those of dropout."""

    kind = Dropout

    def dense_forward(self, a_prev, w, b, activation, z, a, dropout=None, **options):
        super().dense_forward(a_prev, w, b, activation, z, a, dropout=self.wrong(dropout), **options)

    def hidden_delta(self, delta_next, w_next, activation, saved, delta, dropout=None, **options):
        super().hidden_delta(delta_next, w_next, activation, saved, delta, dropout=self.wrong(dropout), **options)

    def wrong(self, dropout):
        return dropout and self.kind(**vars(dropout))


class DrawsTransposed(DrawsWrongly):
    class kind(Dropout):
        def mask(self, rows, width, step):
            return super().mask(width, rows, step).T


class DrawsTheNextStep(DrawsWrongly):
    class kind(Dropout):
        def mask(self, rows, width, step):
            return super().mask(rows, width, step + 1)


class DrawsFromRowZero(DrawsWrongly):
    def wrong(self, dropout):
        return dropout and replace(dropout, first_row=0)


class DrawsOneWordForFourColumns(DrawsWrongly):
    class kind(Dropout):
        def mask(self, rows, width, step):
            return super().mask(rows, width, step)[:, np.arange(width) // 4 * 4]


class DropsAtTheThreshold(DrawsWrongly):
    class kind(Dropout):
        @property
        def threshold(self):
            return super().threshold + 1


class DropsTheOthers(DrawsWrongly):
    class kind(Dropout):
        def mask(self, rows, width, step):
            return ~super().mask(rows, width, step)


class TakesZerosForDropped(NumpyBackend):
    """An output of 0 is no sign of a dropped unit, and another one none of a kept unit."""

    def hidden_delta(self, delta_next, w_next, activation, saved, delta, dropout=None, control=None):
        super().hidden_delta(delta_next, w_next, activation, saved, delta)
        if dropout is not None:
            np.multiply(delta, np.where(saved == 0, 0, delta.dtype.type(dropout.factor)), out=delta)


class AppliesTheFactorTwice(NumpyBackend):
    def hidden_delta(self, delta_next, w_next, activation, saved, delta, dropout=None, control=None):
        super().hidden_delta(delta_next, w_next, activation, saved, delta, dropout=dropout, control=control)
        if dropout is not None:
            np.multiply(delta, delta.dtype.type(dropout.factor), out=delta)


class AppliesTheFactorToWhatItStores(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a, dropout=None, **options):
        super().dense_forward(a_prev, w, b, activation, z, a, dropout=dropout, **options)
        if dropout is not None:
            np.multiply(a, a.dtype.type(dropout.factor), out=a)


class MasksZToo(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a, dropout=None, control=None, **options):
        super().dense_forward(a_prev, w, b, activation, z, a, dropout=dropout, control=control, **options)
        if dropout is not None and z is not None:
            z[~dropout.mask(*z.shape, int(control[Control.STEP]))] = 0


class ForgetsAlpha(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a, alpha=1.0, **options):
        super().dense_forward(a_prev, w, b, activation, z, a, **options)

    def weight_gradient(self, delta, a_prev, gradient, alpha=1.0, **options):
        super().weight_gradient(delta, a_prev, gradient, **options)


class ScalesTheBias(NumpyBackend):
    def dense_forward(self, a_prev, w, b, activation, z, a, alpha=1.0, **options):
        b = None if b is None else b.dtype.type(alpha) * b
        super().dense_forward(a_prev, w, b, activation, z, a, alpha=alpha, **options)


class IgnoresBeta(NumpyBackend):
    def weight_gradient(self, delta, a_prev, gradient, alpha=1.0, accumulate=False, **beside):
        super().weight_gradient(delta, a_prev, gradient, alpha=alpha, **beside)

    def bias_gradient(self, delta, gradient, accumulate=False):
        super().bias_gradient(delta, gradient)


class AlwaysAdds(NumpyBackend):
    def weight_gradient(self, delta, a_prev, gradient, alpha=1.0, accumulate=False, **beside):
        before = gradient.copy()
        super().weight_gradient(delta, a_prev, gradient, alpha=alpha, **beside)
        gradient += before

    def bias_gradient(self, delta, gradient, accumulate=False):
        before = gradient.copy()
        super().bias_gradient(delta, gradient)
        gradient += before


# --- weights, and losses with numbers of their own --------------------------------------------------------------------
class Weighs(NumpyBackend):
    """output_delta with a loss, weights, a control or a divisor that a mistake may override."""

    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        if weights is not None:
            weights, control = self.weights(weights), self.control(control, weights)
        others = self.loss(loss), activation, output, saved, y
        super().output_delta(*others, weights, control, losses, delta, self.divisor(divisor))

    def loss(self, loss):
        return loss

    def weights(self, weights):
        return weights

    def control(self, control, weights):
        return control

    def divisor(self, divisor):
        return divisor


class IgnoresTheWeights(Weighs):
    def weights(self, weights):
        return np.ones_like(weights)


class SquaresTheWeights(Weighs):
    def weights(self, weights):
        return weights**2


class ShiftsTheWeights(Weighs):
    def weights(self, weights):
        return np.roll(weights, 1)


class LearnsFromRowsOfWeightZero(Weighs):
    """0 times NaN is NaN."""

    def weights(self, weights):
        return np.where(weights == 0, np.finfo(weights.dtype).tiny, weights)


class HidesWhatIsNoTarget(Weighs):
    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        super().output_delta(loss, activation, output, saved, y, weights, control, losses, delta, divisor)
        if weights is not None:
            np.nan_to_num(delta, copy=False)


class DividesByTheRows(Weighs):
    def control(self, control, weights):
        control = control.copy()
        control[Control.LOSS_FACTOR] = 1 / len(weights)
        return control


class WeighsTheLossAlone(Weighs):
    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        super().output_delta(loss, activation, output, saved, y, weights, control, losses, delta, divisor)
        if weights is not None:
            ones = np.where(weights == 0, 0, np.ones_like(weights))
            super().output_delta(loss, activation, output, saved, y, ones, control, losses.copy(), delta, divisor)


class WeighsTheDeltaAlone(Weighs):
    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        before = losses.copy()
        super().output_delta(loss, activation, output, saved, y, weights, control, losses, delta, divisor)
        if weights is not None:
            ones = np.where(weights == 0, 0, np.ones_like(weights))
            losses[...] = before
            super().output_delta(loss, activation, output, saved, y, ones, control, losses, delta.copy(), divisor)


class IgnoresTheDivisor(Weighs):
    def divisor(self, divisor):
        return None


class SmoothsOverOneClassMore(Weighs):
    def loss(self, loss):
        return self.Wrong(**vars(loss)) if isinstance(loss, losses.SoftmaxCrossEntropy) else loss

    class Wrong(losses.SoftmaxCrossEntropy):
        def terms(self, output, y, gradient):
            found = super().terms(output, y, gradient)
            width = gradient.shape[1]
            gradient += self.label_smoothing * (1 / width - 1 / (width + 1))
            return found


class SmoothsTheGradientAlone(Weighs):
    def loss(self, loss):
        return self.Wrong(**vars(loss)) if isinstance(loss, losses.SoftmaxCrossEntropy) else loss

    class Wrong(losses.SoftmaxCrossEntropy):
        def terms(self, output, y, gradient):
            super().terms(output, y, gradient)
            return replace(self, label_smoothing=0.0).plain(output, y)

        def plain(self, output, y):
            return losses.SoftmaxCrossEntropy.terms(self, output, y, np.empty_like(output))


class MirrorsTheQuantile(Weighs):
    def loss(self, loss):
        return replace(loss, quantile=1 - loss.quantile) if isinstance(loss, losses.Quantile) else loss


class FocusesByAnotherGamma(Weighs):
    def loss(self, loss):
        is_focal = isinstance(loss, losses.BinaryFocalCrossEntropy | losses.SoftmaxFocalCrossEntropy)
        return replace(loss, gamma=loss.gamma * 1.0001) if is_focal else loss


class FocusesTheLossAlone(Weighs):
    """∂ℓ/∂z of cross-entropy times (1 − a)^γ, as if the factor were a constant."""

    def loss(self, loss):
        return self.Wrong(**vars(loss)) if isinstance(loss, losses.SoftmaxFocalCrossEntropy) else loss

    class Wrong(losses.SoftmaxFocalCrossEntropy):
        def terms(self, output, y, gradient):
            found = super().terms(output, y, gradient)
            if y.ndim == 1:
                losses.SoftmaxCrossEntropy().terms(output, y, gradient)
                own = np.clip(y, 0, gradient.shape[1] - 1)[:, None]
                gradient *= np.abs(np.take_along_axis(gradient, own, axis=1)) ** self.gamma
            return found


# --- penalties, and rows that are gathered ----------------------------------------------------------------------------
class PenalisesNothing(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        plain = replace(optimizer, l1=0.0, l2=0.0, decoupled=False)
        super().update(plain, gradients, decayed, control, state, parameters)


class DecouplesNothing(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        super().update(replace(optimizer, decoupled=False), gradients, decayed, control, state, parameters)


class PushesZerosUp(NumpyBackend):
    """sign(0) is 1."""

    def update(self, optimizer, gradients, decayed, control, state, parameters):
        zeros = np.flatnonzero(parameters[:decayed] == 0)
        gradients = gradients.copy()
        gradients[zeros] += optimizer.in_gradient.l1 / control[Control.GRADIENT_SCALE]
        super().update(replace(optimizer, clip_value=None), gradients, decayed, control, state, parameters)


class ShrinksPastZero(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        limit = control[Control.LEARNING_RATE] * optimizer.apart.l1
        weights = parameters[:decayed]
        weights -= (limit * np.sign(weights)).astype(weights.dtype)
        if optimizer.decoupled:
            optimizer = replace(optimizer, l1=0.0, l2=optimizer.l2 or 1e-30)
        super().update(optimizer, gradients, decayed, control, state, parameters)


class ClipsThePenalties(NumpyBackend):
    def update(self, optimizer, gradients, decayed, control, state, parameters):
        limit, added = optimizer.clip_value, optimizer.in_gradient
        if limit is not None and added:
            weights, scale = parameters[:decayed], control[Control.GRADIENT_SCALE]
            gradients = gradients * gradients.dtype.type(scale)
            gradients[:decayed] += (added.l1 * np.sign(weights) + added.l2 * weights).astype(weights.dtype)
            gradients = np.clip(gradients, -limit, limit)
            control = control.copy()
            control[Control.GRADIENT_SCALE] = 1
            decay = optimizer.weight_decay if optimizer.decouples_decay else 0.0
            optimizer = replace(optimizer, clip_value=None, l1=0.0, l2=0.0, decoupled=False, weight_decay=decay)
        super().update(optimizer, gradients, decayed, control, state, parameters)


class WrapsTheOrder(NumpyBackend):
    """Takes an order to be as long as its source."""

    def gather_rows(self, sources, order, control, out):
        length, control = len(sources[0]), control.copy()
        control[Control.BATCH_OFFSET] %= length
        super().gather_rows(sources, np.resize(order, 2 * length), control, out)


# --- the same in TF32 and in 16 bits ----------------------------------------------------------------------------------
RoundedNumpy = rounded(NumpyBackend)


class Product(RoundedNumpy):
    """transpose_product with operands, a sum and a store that a mistake may override."""

    def transpose_product(self, delta_next, w_next, product, tf32=False):
        if not tf32 and product.dtype not in HALVES:
            return super().transpose_product(delta_next, w_next, product)
        a, b = self.operand(delta_next, tf32), self.operand(w_next, tf32)
        with np.errstate(over="ignore"):
            product[...] = self.stored(self.sum(a, b), product.dtype)

    def operand(self, x, tf32):
        return round_to_tf32(x) if tf32 else widened(x)

    def sum(self, a, b):
        return a @ b

    def stored(self, x, dtype):
        return x.astype(dtype)


class TakesBfloat16(Product):
    def operand(self, x, tf32):
        return as_bfloat16(x)


class CutsOff(Product):
    def operand(self, x, tf32):
        return cut_to_tf32(x)


class RoundsTiesToEven(Product):
    def operand(self, x, tf32):
        return ties_to_even(x)


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


class AppliesSigmaToTheRoundedZ(RoundedNumpy):
    def dense_forward(self, a_prev, w, b, activation, z, a, **options):
        if a.dtype not in HALVES or options:
            return super().dense_forward(a_prev, w, b, activation, z, a, **options)
        wide = np.empty(a.shape, np.float32)
        self.transpose_product(a_prev, np.ascontiguousarray(w.T), wide)
        rounded = (wide if b is None else wide + b).astype(a.dtype).astype(np.float32)
        out = np.empty_like(rounded)
        activation.apply(rounded, out)
        a[...] = out.astype(a.dtype)
        if z is not None:
            z[...] = rounded.astype(z.dtype)


class SumsAColumnInHalves(RoundedNumpy):
    def bias_gradient(self, delta, gradient, accumulate=False):
        total = gradient.astype(delta.dtype) if accumulate else np.zeros(delta.shape[1], delta.dtype)
        with np.errstate(over="ignore"):
            for row in delta:
                total = total + row
        gradient[...] = total


class RoundsTheProbabilities(RoundedNumpy):
    def softmax(self, z, a):
        e = np.exp(widened(z) - widened(z).max(axis=1, keepdims=True)).astype(a.dtype).astype(np.float32)
        a[...] = (e / e.sum(axis=1, keepdims=True)).astype(a.dtype)


def unscaled(control):
    """A `control` like this one, but for a loss scale of 1."""
    if control is not None:
        control = control.copy()
        control[Control.LOSS_SCALE] = 1
    return control


class ForgetsTheLossScale(RoundedNumpy):
    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        super().output_delta(loss, activation, output, saved, y, weights, unscaled(control), losses, delta, divisor)


class ScalesTheLoss(RoundedNumpy):
    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        super().output_delta(loss, activation, output, saved, y, weights, control, losses, delta, divisor)
        if control is not None and output.dtype in HALVES:
            losses[Losses.BATCH] *= control[Control.LOSS_SCALE]


class ScalesAfterRounding(RoundedNumpy):
    """What underflows before it is scaled is lost."""

    def output_delta(self, loss, activation, output, saved, y, weights, control, losses, delta, divisor=None):
        super().output_delta(loss, activation, output, saved, y, weights, unscaled(control), losses, delta, divisor)
        if control is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                small = (delta.astype(np.float32) * np.float32(2**-10)).astype(delta.dtype).astype(np.float32)
                delta[...] = (small * np.float32(2**10 * control[Control.LOSS_SCALE])).astype(delta.dtype)


class UpdatesInSpiteOfSkip(RoundedNumpy):
    def update(self, optimizer, gradients, decayed, control, state, parameters, stored=None):
        control = control.copy()
        control[Control.SKIP] = 0
        with np.errstate(invalid="ignore"):
            super().update(optimizer, gradients, decayed, control, state, parameters, stored)


class CountsSkippedSteps(RoundedNumpy):
    def prepare_update(self, gradients, max_norm, control, loss_scaling=None):
        skipped = control[Control.SKIPPED]
        super().prepare_update(gradients, max_norm, control, loss_scaling)
        control[Control.SKIPPED] = skipped


class NeverClearsSkip(RoundedNumpy):
    def prepare_update(self, gradients, max_norm, control, loss_scaling=None):
        skip = control[Control.SKIP]
        super().prepare_update(gradients, max_norm, control, loss_scaling)
        control[Control.SKIP] = max(skip, control[Control.SKIP])


class NeverGrows(RoundedNumpy):
    def prepare_update(self, gradients, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        super().prepare_update(gradients, max_norm, control, loss_scaling)
        control[Control.LOSS_SCALE] = min(scale, control[Control.LOSS_SCALE])


class DividesByTheNewScale(RoundedNumpy):
    def prepare_update(self, gradients, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        super().prepare_update(gradients, max_norm, control, loss_scaling)
        if scale and not control[Control.SKIP]:
            control[Control.GRADIENT_SCALE] *= scale / control[Control.LOSS_SCALE]


class ClipsTheScaledNorm(RoundedNumpy):
    def prepare_update(self, gradients, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        limit = None if max_norm is None else max_norm / max(scale, 1)
        super().prepare_update(gradients, limit, control, loss_scaling)


class ForgetsToUnscale(RoundedNumpy):
    def prepare_update(self, gradients, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        super().prepare_update(gradients, max_norm, control, loss_scaling)
        control[Control.GRADIENT_SCALE] *= max(scale, 1)


class StoresTheOldWeights(RoundedNumpy):
    def update(self, optimizer, gradients, decayed, control, state, parameters, stored=None):
        old = parameters.copy()
        super().update(optimizer, gradients, decayed, control, state, parameters, stored)
        if stored is not None:
            stored[...] = old.astype(stored.dtype)


class ForgetsTheCopy(RoundedNumpy):
    def update(self, optimizer, gradients, decayed, control, state, parameters, stored=None):
        super().update(optimizer, gradients, decayed, control, state, parameters)


class CutsOffTheCopy(RoundedNumpy):
    def update(self, optimizer, gradients, decayed, control, state, parameters, stored=None):
        super().update(optimizer, gradients, decayed, control, state, parameters, stored)
        if stored is not None and not control[Control.SKIP]:
            stored[...] = CutsOffWhatItStores().stored(parameters, stored.dtype)


class CastSaturates(RoundedNumpy):
    def cast(self, source, out):
        super().cast(np.clip(source, -65504, 65504), out)


class CastCutsOff(RoundedNumpy):
    def cast(self, source, out):
        if out.dtype not in HALVES:
            return super().cast(source, out)
        with np.errstate(over="ignore"):
            out[...] = CutsOffWhatItStores().stored(source.astype(np.float32), out.dtype)


class CastRoundsTwice(RoundedNumpy):
    def cast(self, source, out):
        super().cast(source.astype(np.float32) if out.dtype in HALVES else source, out)


class CopiesOneTooFew(NumpyBackend):
    def copy(self, source, out):
        out[:-1] = source[:-1]


class ReadsWhatItNeedNot(NumpyBackend):
    def product(self, form, a, b, c, alpha=1.0, beta=0.0):
        before = c.copy()
        super().product(form, a, b, c, alpha, 0.0)
        c += beta * before


class TakesAnotherForm(NumpyBackend):
    def product(self, form, a, b, c, alpha=1.0, beta=0.0):
        b = b.reshape(b.shape[::-1])
        super().product({"NT": "NN", "NN": "NT", "TN": "TN"}[form], a, b, c, alpha, beta)


class HidesTheNaN(NumpyBackend):
    def prepare_update(self, gradients, max_norm, control):
        super().prepare_update(gradients, max_norm, control)
        control[Control.GRADIENT_SCALE] = np.fmin(1, control[Control.GRADIENT_SCALE])


class ClipsToAnInfiniteNorm(NumpyBackend):
    def prepare_update(self, gradients, max_norm, control):
        super().prepare_update(gradients, np.inf if max_norm is None else max_norm, control)


class GrowsBeyondTheBound(RoundedNumpy):
    def prepare_update(self, gradients, max_norm, control, loss_scaling=None):
        scale, grows = control[Control.LOSS_SCALE], loss_scaling and loss_scaling.growth_interval
        grows = grows and control[Control.CLEAN_STEPS] + 1 >= grows and np.isfinite(gradients).all()
        super().prepare_update(gradients, max_norm, control, loss_scaling)
        if grows:
            control[Control.LOSS_SCALE] = 2 * scale


class HalvesBelowOne(RoundedNumpy):
    def prepare_update(self, gradients, max_norm, control, loss_scaling=None):
        scale = control[Control.LOSS_SCALE]
        super().prepare_update(gradients, max_norm, control, loss_scaling)
        if control[Control.SKIP] == 1:
            control[Control.LOSS_SCALE] = scale / 2


HALF = ("bfloat16", "float16")
PLANTED = [
    (DropsTheLastTerm, "transpose_product", cases.DTYPES),
    (RoundsItsInputs, "transpose_product", cases.DTYPES),
    (LeavesTheLastRowUnwritten, "transpose_product", cases.DTYPES),
    (WritesBehindTheOutput, "transpose_product", cases.DTYPES),
    (ChangesAnInput, "transpose_product", cases.DTYPES),
    (ForgetsTheBias, "dense_forward", cases.DTYPES),
    (ForgetsToKeepZ, "dense_forward", cases.DTYPES),
    (AppliesSigmaForSigmaPrime, "hidden_delta", cases.DTYPES),
    (TakesTheSlopeOfOneAtZero, "hadamard_derivative", cases.DTYPES),
    (DividesByOneRowTooMany, "output_delta", cases.DTYPES),
    (SetsTheTotal, "output_delta", cases.DTYPES),
    *[(kind, "weight_step", cases.DTYPES) for kind in (StepsUphill, StepsTheBiasUphill, ForgetsTheBiasBeside)],
    *[(kind, "weight_gradient", cases.DTYPES) for kind in (ForgetsTheBiasBeside, ScalesTheBiasGradient)],
    (ForgetsARow, "bias_gradient", cases.DTYPES),
    (ForgetsTheCorrection, "update", cases.DTYPES),
    (DecaysEverything, "update", cases.DTYPES),
    (IgnoresClipping, "update", cases.DTYPES),
    (IgnoresTheClipValue, "update", cases.DTYPES),
    *[(kind, "gather_rows", cases.DTYPES) for kind in (IgnoresTheOffset, GathersTheFirstAlone)],
    (TakesTheLastOfTies, "row_argmax", cases.DTYPES),
    (SumsInFloat32, "prepare_update", cases.DTYPES),
    (SkipsTheMaximum, "softmax", cases.DTYPES),
    (ScalesTwice, "scale", cases.DTYPES),
    (CopiesOneTooFew, "copy", cases.DTYPES),
    (ReadsWhatItNeedNot, "product", cases.DTYPES),
    (TakesAnotherForm, "product", cases.DTYPES),
    *[(kind, "prepare_update", cases.DTYPES) for kind in (HidesTheNaN, ClipsToAnInfiniteNorm)],
    *[
        (kind, primitive, cases.DTYPES)
        for kind in (
            DrawsTransposed,
            DrawsTheNextStep,
            DrawsFromRowZero,
            DrawsOneWordForFourColumns,
            DropsAtTheThreshold,
            DropsTheOthers,
        )
        for primitive in ("dense_forward", "hidden_delta")
    ],
    *[(kind, "hidden_delta", cases.DTYPES) for kind in (TakesZerosForDropped, AppliesTheFactorTwice)],
    *[
        (kind, "dense_forward", cases.DTYPES)
        for kind in (AppliesTheFactorToWhatItStores, MasksZToo, ForgetsAlpha, ScalesTheBias)
    ],
    *[(kind, "weight_gradient", cases.DTYPES) for kind in (ForgetsAlpha, IgnoresBeta, AlwaysAdds)],
    *[(kind, "bias_gradient", cases.DTYPES) for kind in (IgnoresBeta, AlwaysAdds)],
    *[
        (kind, "output_delta", cases.DTYPES)
        for kind in (
            IgnoresTheWeights,
            SquaresTheWeights,
            ShiftsTheWeights,
            LearnsFromRowsOfWeightZero,
            HidesWhatIsNoTarget,
            DividesByTheRows,
            WeighsTheLossAlone,
            WeighsTheDeltaAlone,
            IgnoresTheDivisor,
            SmoothsOverOneClassMore,
            SmoothsTheGradientAlone,
            MirrorsTheQuantile,
            FocusesByAnotherGamma,
            FocusesTheLossAlone,
        )
    ],
    *[
        (kind, "update", cases.DTYPES)
        for kind in (PenalisesNothing, DecouplesNothing, PushesZerosUp, ShrinksPastZero, ClipsThePenalties)
    ],
    (WrapsTheOrder, "gather_rows", cases.DTYPES),
    *[(kind, "transpose_product", ("tf32",)) for kind in (TakesBfloat16, CutsOff, RoundsTiesToEven, StaysInFloat32)],
    *[
        (kind, "transpose_product", (dtype,))
        for kind in (SumsInHalves, LeavesOutASlice)
        for dtype in cases.MIXED_DTYPES
    ],
    (TakesBfloat16, "transpose_product", ("float16",)),
    (RoundsThroughBfloat16, "transpose_product", ("float16",)),
    (Saturates, "transpose_product", ("float16",)),
    *[(CutsOffWhatItStores, "transpose_product", (dtype,)) for dtype in HALF],
    *[(AppliesSigmaToTheRoundedZ, "dense_forward", (dtype,)) for dtype in HALF],
    *[(SumsAColumnInHalves, "bias_gradient", (dtype,)) for dtype in HALF],
    *[(RoundsTheProbabilities, "softmax", (dtype,)) for dtype in HALF],
    *[(kind, "output_delta", (dtype,)) for kind in (ForgetsTheLossScale, ScalesTheLoss) for dtype in HALF],
    (ScalesAfterRounding, "output_delta", ("float16",)),
    *[
        (kind, "update", ("bfloat16",))
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
    (CutsOffTheCopy, "update", ("float16",)),
    (CastSaturates, "cast", ("float16",)),
    *[(kind, "cast", (dtype,)) for kind in (CastCutsOff, CastRoundsTwice) for dtype in HALF],
    *[(kind, "prepare_update", (dtype,)) for kind in (GrowsBeyondTheBound, HalvesBelowOne) for dtype in HALF],
]
"""A backend, the primitive that it gets wrong, and the dtypes in one of which a case must show it."""

FAULTS = (WritesBehindTheOutput, ChangesAnInput)
"""Those whose results are right: what surrounds the output, or an input, shows them."""
