"""Warp instructions as functions of arrays (PTX ISA, shfl.sync, vote.sync, match.sync, redux.sync, elect.sync).

Every array has the shape (warps, 32), lane by lane; `active` says which lanes execute the instruction together, and
`member_mask` is the instruction's mask operand, one uint32 a lane (or a 0-d array: the same for all). Values of
inactive lanes take no part, and what inactive lanes get back means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpubp.emulator.errors import UnsupportedInstruction
from gpubp.emulator.loops import loop

LANES = np.arange(32, dtype=np.int32)
FULL_MASK = 0xFFFFFFFF
CANONICAL_NAN = np.uint32(0x7FFFFFFF)


def lane_mask(lanes: np.ndarray) -> np.ndarray:
    """Booleans of shape (..., 32) as masks, uint32 of shape (...): lane 0 is the lowest bit."""
    return np.packbits(lanes, axis=-1, bitorder="little").view(np.uint32)[..., 0]


def lanes_of(masks: np.ndarray) -> np.ndarray:
    """Masks, uint32 of shape (...), as booleans of shape (..., 32)."""
    return (np.asarray(masks, np.uint32)[..., np.newaxis] >> LANES.astype(np.uint32) & np.uint32(1)).astype(bool)


def unmet_members(member_mask: np.ndarray, active: np.ndarray, exited: np.ndarray | None = None) -> np.ndarray:
    """For each active lane, the lanes that its mask asks for and that do not execute with it, as a mask; a lane whose
    mask leaves itself out has its own bit set.

    The ISA wants every thread named in the mask that has not exited; the result for all others is undefined.
    Returns uint32 of shape (warps, 32): 0 where all is well, and in inactive lanes.
    """
    wanted = np.broadcast_to(np.asarray(member_mask, np.uint32), active.shape)
    present = lane_mask(active)[:, np.newaxis]
    if exited is not None:
        present = present | lane_mask(exited)[:, np.newaxis]
    own = (np.uint32(1) << LANES.astype(np.uint32))[np.newaxis]
    return np.where(active, (wanted & ~present) | (own & ~wanted), np.uint32(0))


@loop
def first_unmet(members, mask, live):
    """The first active lane for which `unmet_members` is not 0, or -1; lanes in one dimension, or one mask for all."""
    one = members.size == 1
    all_named = one and members[0] == np.uint32(0xFFFFFFFF)
    active_words, live_words = mask.view(np.uint64), live.view(np.uint64)
    for first in range(0, mask.size, 32):
        if all_named and _same_words(active_words, live_words, first >> 3):
            continue
        absent = np.int64(0)
        for own in range(32):
            if live[first + own] and not mask[first + own]:
                absent |= np.int64(1) << own
        for own in range(32):
            if mask[first + own]:
                named = np.int64(members[0 if one else first + own])
                if named & absent != 0 or named >> own & 1 == 0:
                    return first + own
    return -1


@loop
def _same_words(a, b, start):
    """True if four words from `start` on, a warp's 32 bytes, are the same."""
    return (
        a[start] == b[start]
        and a[start + 1] == b[start + 1]
        and a[start + 2] == b[start + 2]
        and a[start + 3] == b[start + 3]
    )


def _participants(member_mask: np.ndarray, active: np.ndarray) -> np.ndarray:
    """Which lanes take part in each lane's result; shape (warps, 32 or 1, 32), 1 where a warp shares one mask."""
    masks = np.asarray(member_mask, np.uint32)
    if masks.ndim == 0:
        return (active & lanes_of(masks))[:, np.newaxis, :]
    first = masks[np.arange(len(masks)), active.argmax(axis=1)]
    if (masks == first[:, np.newaxis])[active].all():
        return (active & lanes_of(first))[:, np.newaxis, :]
    return active[:, np.newaxis, :] & lanes_of(masks)


def _spread(per_group: np.ndarray) -> np.ndarray:
    """One value a group, shape (warps, 32 or 1), given to every lane."""
    return np.broadcast_to(per_group, (per_group.shape[0], 32))


# --- shuffle


SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_BFLY, SHUFFLE_IDX = range(4)
SHUFFLES = {"up": SHUFFLE_UP, "down": SHUFFLE_DOWN, "bfly": SHUFFLE_BFLY, "idx": SHUFFLE_IDX}
"""The modes of shuffle, by their names."""


@loop
def shuffle(mode, value, offsets, clamps, mask, whole, result, valid):
    """shfl: each active lane takes a value from another lane of its segment, or keeps its own if that is out of range.

    Args:
        mode: SHUFFLE_UP, ...
        value: uint32, all lanes.
        offsets: source lane or offset, uint32, of one element or all lanes; the low five bits count.
        clamps: clamp value in bits 0 to 4, segment mask in bits 8 to 12, uint32, of one element or all lanes.
        mask: the active lanes; `whole` if that is all, and it need not be read.
        result, valid: written for the active lanes: uint32, which may be `value`, and the second destination, bool.

    Returns the first lane whose source lane is not active, which makes the result undefined; or -1.
    """
    one_offset, one_clamp = offsets.size == 1, clamps.size == 1
    before = np.empty(32, np.uint32)
    if whole and one_offset and one_clamp:  # the usual case: each warp does the same
        sources, inside = np.empty(32, np.int64), np.empty(32, np.bool_)
        for own in range(32):
            sources[own], inside[own] = _source_lane(mode, own, np.int64(offsets[0]), np.int64(clamps[0]))
        for first in range(0, value.size, 32):
            before[:] = value[first : first + 32]
            for own in range(32):
                result[first + own] = before[sources[own]]
                valid[first + own] = inside[own]
        return -1
    for first in range(0, value.size, 32):
        before[:] = value[first : first + 32]
        for own in range(32):
            lane = first + own
            if not whole and not mask[lane]:
                continue
            offset, clamp = offsets[0 if one_offset else lane], clamps[0 if one_clamp else lane]
            source, in_range = _source_lane(mode, own, np.int64(offset), np.int64(clamp))
            if not whole and not mask[first + source]:
                return lane
            result[lane] = before[source]
            valid[lane] = in_range
    return -1


@loop
def _source_lane(mode, own, offset, clamp):
    """The lane of the warp that a lane reads, its own if that is out of range; and whether it is in range."""
    segment = clamp >> 8 & 31
    least = own & segment
    most = least | (clamp & 31 & ~segment)
    if mode == SHUFFLE_UP:
        source = own - (offset & 31)
    elif mode == SHUFFLE_DOWN:
        source = own + (offset & 31)
    elif mode == SHUFFLE_BFLY:
        source = own ^ (offset & 31)
    else:
        source = least | (offset & 31 & ~segment)
    in_range = source >= most if mode == SHUFFLE_UP else source <= most
    return (source if in_range else np.int64(own)), in_range


# --- vote, match, elect


def vote(mode: str, predicate: np.ndarray, member_mask: np.ndarray, active: np.ndarray) -> np.ndarray:
    """vote: "all", "any" or "uni" (all agree) of a predicate as bool, or "ballot" as a mask, uint32; (warps, 32)."""
    members = _participants(member_mask, active)
    true = members & predicate[:, np.newaxis, :]
    if mode == "ballot":
        return _spread(lane_mask(true))
    some, every = true.any(axis=2), (true == members).all(axis=2)
    results = {"any": some, "all": every, "uni": every | ~some}
    if mode not in results:
        raise UnsupportedInstruction(f"vote.{mode}")
    return _spread(results[mode])


def match_any(value: np.ndarray, member_mask: np.ndarray, active: np.ndarray) -> np.ndarray:
    """match.any: the mask of the members whose value equals the lane's own; uint32, (warps, 32)."""
    members = _participants(member_mask, active)
    return lane_mask(members & (value[:, np.newaxis, :] == value[:, :, np.newaxis]))


def match_all(value: np.ndarray, member_mask: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """match.all: (the mask of the members if their values are all equal, else 0; whether they are), (warps, 32)."""
    members = _participants(member_mask, active)
    equal = (~members | (value[:, np.newaxis, :] == value[:, :, np.newaxis])).all(axis=2)
    return np.where(equal, _spread(lane_mask(members)), np.uint32(0)), equal


def elect(member_mask: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """elect: (the leader's lane number, whether the lane is it). The ISA leaves the choice open; here the lowest member
    leads."""
    leader = _spread(_participants(member_mask, active).argmax(axis=2)).astype(np.uint32)
    return leader, leader == LANES.astype(np.uint32)


# --- reductions


@dataclass(frozen=True)
class WarpReduction:
    """redux.sync: the operation "add", "min", "max", "and", "or" or "xor" on u32, s32, b32 or (min, max) f32."""

    operator: str
    type: str
    absolute: bool = False
    nan_wins: bool = False

    def __call__(self, value: np.ndarray, member_mask: np.ndarray, active: np.ndarray) -> np.ndarray:
        """value: raw registers, uint32, (warps, 32). Returns the same, every member holding the result."""
        members = _participants(member_mask, active)
        if self.type == "f32":
            return _spread(self._of_floats(value, members))
        dtype = np.dtype(np.int32 if self.type == "s32" else np.uint32)
        ufunc, neutral = {
            "add": (np.add, 0),
            "min": (np.minimum, np.iinfo(dtype).max),
            "max": (np.maximum, np.iinfo(dtype).min),
            "and": (np.bitwise_and, 0xFFFFFFFF),
            "or": (np.bitwise_or, 0),
            "xor": (np.bitwise_xor, 0),
        }[self.operator]
        terms = np.where(members, value.view(dtype)[:, np.newaxis, :], dtype.type(neutral))
        return _spread(ufunc.reduce(terms, axis=2, dtype=dtype).view(np.uint32))

    def _of_floats(self, value: np.ndarray, members: np.ndarray) -> np.ndarray:
        bits = value & np.uint32(0x7FFFFFFF) if self.absolute else value
        nan = np.isnan(bits.view(np.float32))[:, np.newaxis, :] & members
        # Integers in the order of the floats, so that -0 < +0: negative ones have their other bits flipped.
        signed = bits.view(np.int32)
        key = signed ^ ((signed >> 31) & np.int32(0x7FFFFFFF))
        ufunc, neutral = (np.minimum, 2**31 - 1) if self.operator == "min" else (np.maximum, -(2**31))
        best = ufunc.reduce(np.where(members & ~nan, key[:, np.newaxis, :], np.int32(neutral)), axis=2)
        result = (best ^ ((best >> 31) & np.int32(0x7FFFFFFF))).view(np.uint32)
        no_number = nan.any(axis=2) if self.nan_wins else (nan == members).all(axis=2)
        return np.where(no_number, CANONICAL_NAN, result)


def reduction(modifiers: tuple[str, ...]) -> WarpReduction:
    """The reduction of redux.sync with these modifiers, ("sync", "add", "s32"); raises UnsupportedInstruction."""
    left = [modifier for modifier in modifiers if modifier != "sync"]
    absolute, nan_wins = "abs" in left, "NaN" in left
    left = [modifier for modifier in left if modifier not in ("abs", "NaN")]
    known = {
        *((operator, type_) for operator in ("add", "min", "max") for type_ in ("u32", "s32")),
        *((operator, "b32") for operator in ("and", "or", "xor")),
        ("min", "f32"),
        ("max", "f32"),
    }
    if tuple(left) not in known or ((absolute or nan_wins) and left[1] != "f32"):
        raise UnsupportedInstruction(".".join(("redux", *modifiers)))
    return WarpReduction(left[0], left[1], absolute, nan_wins)
