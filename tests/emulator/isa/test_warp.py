"""Warp instructions against loops over the lanes of one warp, written from the ISA's pseudo-code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.isa import warp

WARPS = 5
RNG_SEED = 7


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(RNG_SEED)


def activity(rng: np.random.Generator) -> np.ndarray:
    """Full, half, single-lane, ragged and empty warps."""
    active = rng.random((WARPS, 32)) < 0.5
    active[0] = True
    active[1] = np.arange(32) < 16
    active[2] = np.arange(32) == 13
    active[4] = False
    return active


def words(rng: np.random.Generator, few: int | None = None) -> np.ndarray:
    return rng.integers(0, few or 2**32, (WARPS, 32), dtype=np.uint32)


def one_shuffle(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """The lane that a lane reads, and whether it is in range."""
    bval, cval, mask = b & 31, c & 31, c >> 8 & 31
    max_lane = (lane & mask) | (cval & ~mask & 31)
    min_lane = lane & mask
    if mode == "up":
        j = lane - bval
        valid = j >= max_lane
    elif mode == "down":
        j = lane + bval
        valid = j <= max_lane
    elif mode == "bfly":
        j = lane ^ bval
        valid = j <= max_lane
    else:
        j = min_lane | (bval & ~mask & 31)
        valid = j <= max_lane
    return (j, True) if valid else (lane, False)


@pytest.mark.parametrize("mode", warp.SHUFFLES)
@pytest.mark.parametrize("whole", [False, True])
def test_shuffle(mode: str, whole: bool, rng: np.random.Generator) -> None:
    inactive_read = 0
    for _ in range(40):
        active, value = np.full((WARPS, 32), True) if whole else activity(rng), words(rng)
        segment = 32 - int(rng.choice([32, 16, 8, 4, 2, 1]))
        clamp = 0 if mode == "up" else 31
        b = np.array([rng.integers(0, 40)], np.uint32) if rng.random() < 0.5 else words(rng, 64).ravel()
        c = np.array([segment << 8 | clamp], np.uint32) if rng.random() < 0.7 else words(rng, 2**13).ravel()
        result, valid = words(rng).ravel(), np.zeros(WARPS * 32, bool)
        untouched = result.copy()
        bad = warp.shuffle(warp.SHUFFLES[mode], value.ravel(), b, c, active.ravel(), whole, result, valid)
        of_lane = [np.broadcast_to(x, value.size) for x in (b, c)]
        for w, lane in itertools.product(range(WARPS), range(32)):
            at = 32 * w + lane
            if not active[w, lane]:
                assert result[at] == untouched[at]
                continue
            j, in_range = one_shuffle(mode, lane, int(of_lane[0][at]), int(of_lane[1][at]))
            if not active[w, j]:
                assert bad == at
                inactive_read += 1
                break
            assert valid[at] == in_range
            assert result[at] == value[w, j]
        else:
            assert bad == -1
    assert (inactive_read > 0) != whole


def test_shuffle_in_place(rng: np.random.Generator) -> None:
    value = words(rng)
    moved = value.ravel().copy()
    one, clamp, valid = np.array([1], np.uint32), np.array([31], np.uint32), np.zeros(value.size, bool)
    assert warp.shuffle(warp.SHUFFLE_DOWN, moved, one, clamp, valid, True, moved, valid) == -1
    assert (moved.reshape(-1, 32)[:, :31] == value[:, 1:]).all()


def masks_of_members(rng: np.random.Generator, active: np.ndarray) -> list[np.ndarray]:
    """The full mask as an immediate; each warp its own mask; and two halves of a warp each with theirs."""
    own = warp.lane_mask(active)[:, np.newaxis]
    own = np.broadcast_to(own, active.shape)
    split = words(rng)[:, :1]
    per_half = np.where(warp.lanes_of(split[:, 0]), own & split, own & ~split)
    return [np.array(0xFFFFFFFF, np.uint32), own, per_half]


def members(mask: int, active: np.ndarray) -> list[int]:
    return [lane for lane in range(32) if mask >> lane & 1 and active[lane]]


def each_lane(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray, list[tuple[int, int, list[int]]]]]:
    """(active, member mask, [(warp, lane, its members)]) for several activities and masks."""
    cases = []
    for _ in range(12):
        active = activity(rng)
        for mask in masks_of_members(rng, active):
            lanes = [
                (w, int(lane), members(int(np.broadcast_to(mask, active.shape)[w, lane]), active[w]))
                for w in range(WARPS)
                for lane in np.flatnonzero(active[w])
            ]
            cases.append((active, mask, lanes))
    return cases


def test_vote(rng: np.random.Generator) -> None:
    for active, mask, lanes in each_lane(rng):
        predicate = rng.random((WARPS, 32)) < rng.choice([0.02, 0.5, 0.98])
        results = {mode: warp.vote(mode, predicate, mask, active) for mode in ("all", "any", "uni", "ballot")}
        for w, lane, group in lanes:
            votes = [bool(predicate[w, other]) for other in group]
            assert results["all"][w, lane] == all(votes)
            assert results["any"][w, lane] == any(votes)
            assert results["uni"][w, lane] == (len(set(votes)) == 1)
            ballot = sum(1 << other for other, vote in zip(group, votes, strict=True) if vote)
            assert results["ballot"][w, lane] == ballot
    assert results["ballot"].dtype == np.uint32


def test_match(rng: np.random.Generator) -> None:
    seen = set()
    for active, mask, lanes in each_lane(rng):
        value = words(rng, int(rng.choice([1, 2, 5])))
        some = warp.match_any(value, mask, active)
        every, equal = warp.match_all(value, mask, active)
        for w, lane, group in lanes:
            same = [other for other in group if value[w, other] == value[w, lane]]
            assert some[w, lane] == sum(1 << other for other in same)
            assert equal[w, lane] == (same == group)
            assert every[w, lane] == (sum(1 << other for other in group) if same == group else 0)
            seen.add(same == group)
    assert seen == {False, True}


def test_match_of_64_bits() -> None:
    value = np.zeros((1, 32), np.uint64)
    value[0, 3] = 1 << 40
    result = warp.match_any(value, np.array(0xFFFFFFFF, np.uint32), np.ones((1, 32), bool))
    assert result[0, 3] == 8
    assert result[0, 0] == 0xFFFFFFF7


def test_elect(rng: np.random.Generator) -> None:
    for active, mask, lanes in each_lane(rng):
        leader, leads = warp.elect(mask, active)
        for w, lane, group in lanes:
            assert leader[w, lane] == group[0]
            assert leads[w, lane] == (lane == group[0])


def as_signed(word: int) -> int:
    return word - 2**32 if word >> 31 else word


@pytest.mark.parametrize("operator", ["add", "min", "max"])
@pytest.mark.parametrize("type_", ["u32", "s32"])
def test_reduction_of_integers(operator: str, type_: str, rng: np.random.Generator) -> None:
    reduce = warp.reduction(("sync", operator, type_))
    for active, mask, lanes in each_lane(rng):
        value = words(rng)
        result = reduce(value, mask, active)
        for w, lane, group in lanes:
            terms = [int(value[w, other]) for other in group]
            terms = [as_signed(term) for term in terms] if type_ == "s32" else terms
            wanted = {"add": sum, "min": min, "max": max}[operator](terms)
            assert result[w, lane] == wanted % 2**32


@pytest.mark.parametrize("operator", ["and", "or", "xor"])
def test_reduction_of_bits(operator: str, rng: np.random.Generator) -> None:
    reduce = warp.reduction(("sync", operator, "b32"))
    for active, mask, lanes in each_lane(rng):
        value = words(rng) | words(rng) if operator == "and" else words(rng)
        result = reduce(value, mask, active)
        for w, lane, group in lanes:
            wanted = 0xFFFFFFFF if operator == "and" else 0
            for other in group:
                term = int(value[w, other])
                wanted = {"and": wanted & term, "or": wanted | term, "xor": wanted ^ term}[operator]
            assert result[w, lane] == wanted


def float_of(bits: int) -> float:
    return float(np.array(bits, np.uint32).view(np.float32))


@pytest.mark.parametrize("operator", ["min", "max"])
@pytest.mark.parametrize("flags", [(), ("abs",), ("NaN",), ("abs", "NaN")])
def test_reduction_of_floats(operator: str, flags: tuple[str, ...], rng: np.random.Generator) -> None:
    reduce = warp.reduction(("sync", operator, *flags, "f32"))
    special = np.array([0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00001, 0x3F800000, 0xBF800000, 1], np.uint32)
    for active, mask, lanes in each_lane(rng):
        value = words(rng)
        value = np.where(value % 3 > 0, special[value % int(rng.choice([2, 4, 5, 8]))], value)
        result = reduce(value, mask, active)
        for w, lane, group in lanes:
            terms = [int(value[w, other]) for other in group]
            terms = [term & 0x7FFFFFFF for term in terms] if "abs" in flags else terms
            numbers = [term for term in terms if not np.isnan(float_of(term))]
            if not numbers or ("NaN" in flags and len(numbers) < len(terms)):
                assert result[w, lane] == 0x7FFFFFFF
                continue
            choose = min if operator == "min" else max
            wanted = choose(numbers, key=lambda bits: (float_of(bits), 0 if bits >> 31 else 1))
            assert result[w, lane] == wanted


@pytest.mark.parametrize("text", ["sync.add.f32", "sync.and.u32", "sync.min.abs.s32", "sync.mul.u32", "sync.add"])
def test_unknown_reductions_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedInstruction, match="redux"):
        warp.reduction(tuple(text.split(".")))


def test_lane_masks_round_trip(rng: np.random.Generator) -> None:
    lanes = rng.random((3, 4, 32)) < 0.5
    masks = warp.lane_mask(lanes)
    assert masks.dtype == np.uint32
    assert (warp.lanes_of(masks) == lanes).all()
    assert warp.lane_mask(np.arange(32)[np.newaxis] == 31)[0] == 1 << 31


def test_unmet_members() -> None:
    active = np.zeros((2, 32), bool)
    active[0] = True
    active[1, :16] = True
    full = np.array(0xFFFFFFFF, np.uint32)
    unmet = warp.unmet_members(full, active)
    assert (unmet[0] == 0).all()
    assert (unmet[1, :16] == 0xFFFF0000).all()
    assert (unmet[1, 16:] == 0).all()  # not executing, so not asked
    exited = np.zeros((2, 32), bool)
    exited[1, 16:] = True
    assert (warp.unmet_members(full, active, exited) == 0).all()
    without_itself = np.full((2, 32), 0xFFFFFFFE, np.uint32)
    assert warp.unmet_members(without_itself, active, exited)[0, 0] == 1


def test_first_unmet_is_where_there_is_one(rng: np.random.Generator) -> None:
    for _ in range(40):
        active = activity(rng)
        live = active | (rng.random(active.shape) < 0.5)
        for mask in (*masks_of_members(rng, active), words(rng)):
            unmet = warp.unmet_members(mask, active, ~live)
            first = np.flatnonzero(unmet.ravel())
            found = warp.first_unmet(np.ascontiguousarray(mask).reshape(-1), active.ravel(), live.ravel())
            assert found == (first[0] if first.size else -1)
