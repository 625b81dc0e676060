"""Dropout: Philox against its authors' vectors, the masks, and what they do in training."""

from __future__ import annotations

import numpy as np
import pytest

from gpubp import Network, Trainer
from gpubp.errors import ArgumentError
from gpubp.nn.dropout import Dropout, philox

ALL_ONES = 0xFFFFFFFF


# --- Philox -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ALL_ONES,) * 4, (ALL_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_vectors_that_its_authors_published(counter, key, expected):
    """kat_vectors of Random123, philox4x32 10."""
    assert tuple(map(int, philox(counter, key))) == expected


def philox_of_integers(counter, key):
    """Philox4×32-10 in Python's integers, from the paper."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & ALL_ONES, (p0 >> 32) ^ c[3] ^ k[1], p0 & ALL_ONES]
        k = [(k[0] + 0x9E3779B9) & ALL_ONES, (k[1] + 0xBB67AE85) & ALL_ONES]
    return c


def test_words_beyond_32_bits_count_by_their_lower_ones():
    assert tuple(philox((1, 2, 3, 2**32 + 4), (5, 6))) == tuple(philox((1, 2, 3, 4), (5, 6)))


# --- the masks --------------------------------------------------------------------------------------------------------
def test_each_unit_is_drawn_by_its_own_place():
    drop = Dropout(0.3, (11, 22), layer=2, first_row=5)
    mask = drop.mask(7, 10, step=9)
    for i in range(7):
        for j in range(10):
            word = philox_of_integers((5 + i, j // 4, 2, 9), (11, 22))[j % 4]
            assert mask[i, j] == (word >= round(0.3 * 2**32))


def test_a_part_of_a_batch_draws_what_the_whole_batch_does():
    whole = Dropout(0.5, (1, 2), 1).mask(20, 9, 4)
    np.testing.assert_array_equal(Dropout(0.5, (1, 2), 1, first_row=13).mask(7, 9, 4), whole[13:])
    np.testing.assert_array_equal(Dropout(0.5, (1, 2), 1).mask(20, 5, 4), whole[:, :5])


@pytest.mark.parametrize(
    "other", [Dropout(0.5, (1, 3), 1), Dropout(0.5, (1, 2), 2), Dropout(0.5, (1, 2), 1, first_row=1)], ids=str
)
def test_key_layer_row_and_step_each_draw_anew(other):
    one = Dropout(0.5, (1, 2), 1).mask(64, 64, 3)
    for mask in (other.mask(64, 64, 3), Dropout(0.5, (1, 2), 1).mask(64, 64, 4)):
        assert 0.4 < (mask == one).mean() < 0.6  # as often as two coins agree


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_of_dropped_units_is_the_rate(rate):
    mask = Dropout(rate, (3, 4), 1).mask(500, 400, 0)
    spread = (rate * (1 - rate) / mask.size) ** 0.5
    assert abs((~mask).mean() - rate) < 5 * spread


def test_the_largest_rate_still_keeps_a_unit_in_four_billion():
    assert Dropout(1 - 2**-53, (0, 0), 1).threshold == 2**32 - 1


# --- in training ------------------------------------------------------------------------------------------------------
def problem(rows=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 6)), rng.integers(0, 3, rows)


def made(**chosen):
    return Network([6, 10, 8, 3], dropout=[0.5, 0.25], dtype="float64", backend="numpy", **chosen)


def test_predictions_and_evaluations_keep_every_unit():
    x, y = problem()
    net, plain = made(), Network([6, 10, 8, 3], dtype="float64", backend="numpy")
    np.testing.assert_array_equal(net.predict_proba(x), plain.predict_proba(x))
    assert net.evaluate(x, y) == plain.evaluate(x, y)
    for found, expected in zip(net.hidden_activations(x), plain.hidden_activations(x), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_each_step_makes_the_loss_and_the_update_of_its_own_masks():
    x, y = problem()
    net = made()
    trainer = Trainer(net, {"name": "sgd", "learning_rate": 0.1})
    for step in range(3):
        loss, gradients = net.gradients(x, y, dropout_step=step)
        before = net.weights()
        trainer.step(x, y)
        assert trainer.last_loss() == pytest.approx(loss, rel=1e-12)
        for layer in (1, 2, 3):
            expected = before[f"layer{layer}.weight"] - 0.1 * gradients.w[layer]
            np.testing.assert_allclose(net.weights()[f"layer{layer}.weight"], expected, rtol=1e-12, atol=1e-15)


def test_the_seed_decides_the_masks_and_a_restored_trainer_goes_on_with_them():
    x, y = problem()
    whole = Trainer(made(seed=3), "adam")
    for _ in range(6):
        whole.step(x, y)
    half = Trainer(made(seed=3), "adam")
    for _ in range(3):
        half.step(x, y)
    resumed = Trainer(made(seed=99).from_config(half.network.config(), backend="numpy"), "adam")
    resumed.restore(half.state())
    for _ in range(3):
        resumed.step(x, y)
    for name, value in whole.network.weights().items():
        np.testing.assert_array_equal(resumed.network.weights()[name], value)


def test_a_dropped_unit_passes_no_delta_and_a_kept_one_that_is_0_is_not_taken_for_dropped():
    # every unit gives 0 (ReLU of a negative z is 0, and its σ' is 0; ELU at z = 0 gives 0, and its σ' is 1)
    net = Network([1, 64, 1], hidden_activation="elu", dropout=0.5, loss="half_squared_error", dtype="float64",
                  backend="numpy")  # fmt: skip
    net.set_weights(
        {
            "layer1.weight": np.zeros((64, 1)),
            "layer1.bias": np.zeros(64),
            "layer2.weight": np.ones((1, 64)),
            "layer2.bias": np.ones(1),
        }
    )
    _, gradients = net.gradients([[1.0]], [[0.0]], dropout_step=0)
    mask = net.dropped()[1].mask(1, 64, 0)[0]
    assert 0 < mask.sum() < 64
    np.testing.assert_array_equal(gradients.b[1], 2.0 * mask)  # δ = 1 · w / (1 − p) for the kept


def test_the_expectation_of_a_layer_is_what_it_gives_without_dropout():
    net = Network([6, 50, 1], hidden_activation="identity", dropout=0.3, loss="absolute_error", dtype="float64",
                  backend="numpy")  # fmt: skip
    x = problem(1)[0]
    y = np.full((1, 1), -1e6)  # far below, so that the loss is linear in the output
    expected = net.gradients(x, y)[0]
    losses = [net.gradients(x, y, dropout_step=step)[0] for step in range(2000)]
    assert abs(np.mean(losses) - expected) < 5 * np.std(losses) / 2000**0.5


@pytest.mark.parametrize(
    ("dropout", "named"), [(1.0, "dropout"), (-0.1, "dropout"), ([0.1], "2"), ([0.1, 2], "dropout"), ("0.1", "dropout")]
)
def test_a_wrong_rate_is_an_error(dropout, named):
    with pytest.raises(ArgumentError, match=named):
        Network([6, 10, 8, 3], dropout=dropout, backend="numpy")


def test_a_network_without_dropout_is_saved_as_before_there_was_any():
    assert "dropout" not in Network([2, 3, 1], backend="numpy").config()
    assert Network.from_config(made().config(), backend="numpy").dropout == (0.5, 0.25)
