"""The references: each primitive in a wider float, from inputs that are already rounded to the kernel's dtype.

They share no code with the backends, but for σ, σ' and the losses of `gpubp.nn.activations` and `gpubp.nn.losses`,
whose own tests hold them against independent differentiation. The random numbers of dropout are drawn anew.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from gpubp.kernels.control import LARGEST_LOSS_SCALE, Control
from gpubp.nn.activations import GELU, Activation
from gpubp.nn.losses import Loss
from gpubp.nn.precision import LossScaling


def tf32(x: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to TF32, in float64: 11 significant bits, to nearest, ties away from zero.

    In arithmetic, where `gpubp.nn.precision.round_to_tf32` works on the bits.
    """
    significand, exponent = np.frexp(x.astype(np.float64))
    # TF32 has float32's exponents, and so its subnormals: 10 bits under the smallest normal number
    last = np.maximum(exponent - 11, -136)
    units = np.ldexp(significand, exponent - last)
    return np.ldexp(np.trunc(units + np.copysign(0.5, units)), last)


def with_tf32_ties(x: np.ndarray) -> np.ndarray:
    """Return float32 values of which one in five lies halfway between two TF32 values, to test the rule for ties."""
    flat = x.flatten()
    flat[::5] = ((flat[::5].view(np.uint32) & np.uint32(0xFFFFE000)) | np.uint32(0x1000)).view(np.float32)
    return flat.reshape(x.shape)


def beside_tf32_ties(x: np.ndarray) -> np.ndarray:
    """Return float32 values none of which lies halfway between two TF32 values, and two in five next to such a place,
    on either side: to test that they are rounded to nearest, whatever the rule for ties."""
    bits = x.flatten().view(np.uint32)
    for first, last in ((0, 0x0FFF), (1, 0x1001)):
        bits[first::5] = (bits[first::5] & np.uint32(0xFFFFE000)) | np.uint32(last)
    bits[(bits & np.uint32(0x1FFF)) == 0x1000] += np.uint32(1)
    return bits.view(np.float32).reshape(x.shape)


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return x rounded to this float dtype, in x's own: once, to nearest, ties to even; too large becomes infinite.

    In arithmetic: on the way from a wide float to 16 bits NumPy rounds twice, to float32 first.
    """
    info = ml_dtypes.finfo(dtype)
    exponent = np.frexp(x)[1]
    last = np.maximum(exponent - (info.nmant + 1), info.minexp - info.nmant)  # of the last bit, subnormals included
    result = np.ldexp(np.rint(np.ldexp(x, -last)), last)
    return np.where(np.abs(result) > float(info.max), np.copysign(np.inf, x), result)


def sigma(activation: Activation, z: np.ndarray) -> np.ndarray:
    """Return σ(z), in z's dtype."""
    return _apply(activation, "apply", z)


def sigma_prime(activation: Activation, saved: np.ndarray) -> np.ndarray:
    """Return σ', from the array that the activation reads, in that array's dtype."""
    return _apply(activation, "derivative", saved)


def _apply(activation: Activation, method: str, x: np.ndarray) -> np.ndarray:
    # SciPy's normal distribution stops at float64: GELU's bound covers its rounding
    narrow = isinstance(activation, GELU) and x.dtype == np.longdouble
    x_work = x.astype(np.float64) if narrow else x
    out = np.empty_like(x_work)
    getattr(activation, method)(x_work, out)
    return out.astype(x.dtype)


def softmax(z: np.ndarray) -> np.ndarray:
    """Return softmax of each row."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def random_words(shape: tuple[int, int], key: tuple[int, int], layer: int, first_row: int, step: int) -> np.ndarray:
    """Return the random number by which dropout keeps or drops each unit of a layer: (rows, width), from 0 to 2³² − 1.

    Each unit by itself, and in divisions where `gpubp.nn.dropout` shifts and masks (Salmon et al., "Parallel Random
    Numbers: As Easy as 1, 2, 3", 2011, section 3.3).
    """
    word = np.uint64(2**32)
    row, column = (x.astype(np.uint64) for x in np.indices(shape))
    numbers = (row + np.uint64(first_row), column // np.uint64(4), np.uint64(layer), np.uint64(step))
    c = [np.broadcast_to(number % word, shape) for number in numbers]
    for turn in range(10):
        # turn by turn the words of the key grow by the golden ratio and by √3 − 1, in units of 2⁻³²
        k0, k1 = np.uint64((key[0] + turn * 0x9E3779B9) % 2**32), np.uint64((key[1] + turn * 0xBB67AE85) % 2**32)
        high0, low0 = np.divmod(c[0] * np.uint64(0xD2511F53), word)
        high1, low1 = np.divmod(c[2] * np.uint64(0xCD9E8D57), word)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
    return np.choose((column % np.uint64(4)).astype(int), c)


def output_delta(
    loss: Loss, activation: Activation, output: np.ndarray, saved: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return δ^L and each example's loss, (B,), both before any weight and reduction; and g = ∂ℓ/∂output."""
    g = np.empty_like(output)
    terms = loss.terms(output, y, g)
    losses = terms if terms.ndim == 1 else terms.sum(axis=1)
    if loss.from_logits:
        return g, losses, g
    if activation.name == "softmax":
        return saved * (g - (g * saved).sum(axis=1, keepdims=True)), losses, g
    return g * sigma_prime(activation, saved), losses, g


def prepared(
    gradients: np.ndarray, control: np.ndarray, max_norm: float | None, scaling: LossScaling | None
) -> np.ndarray:
    """Return `control` as prepare_update leaves it."""
    after = control.copy()
    squared_norm = after[Control.SQUARED_NORM] = np.square(gradients.astype(np.longdouble)).sum()
    loss_scale = 1.0 if scaling is None else control[Control.LOSS_SCALE]
    if scaling is not None:
        moved = [Control.LOSS_SCALE, Control.CLEAN_STEPS, Control.SKIP]
        if not np.isfinite(squared_norm):
            after[moved] = max(1.0, loss_scale / 2), 0, 1
            after[Control.SKIPPED] += 1
            return after
        clean = control[Control.CLEAN_STEPS] + 1
        doubled = 2 * loss_scale if loss_scale < LARGEST_LOSS_SCALE else loss_scale
        after[moved] = (doubled, 0, 0) if clean >= scaling.growth_interval else (loss_scale, clean, 0)
    norm = float(squared_norm) ** 0.5 / loss_scale
    clip = 1.0 if max_norm is None or norm <= max_norm else max_norm / norm
    after[Control.GRADIENT_SCALE] = clip / loss_scale
    return after
