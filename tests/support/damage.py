"""Damage to good inputs, by seed, and the runner that feeds it to a loader.

A loader that is given damaged input either succeeds or raises a GpubpError with a short message, soon and with little
memory. `GPUBP_FUZZ` says how many cases each loader gets, `GPUBP_FUZZ_FIRST` the first seed:
`GPUBP_FUZZ=1 GPUBP_FUZZ_FIRST=1234` repeats the case of a failure that names seed 1234.
"""

import contextlib
import json
import os
import re
import resource
import signal
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from gpubp.errors import GpubpError

CASES = int(os.environ.get("GPUBP_FUZZ", "40"))
FIRST = int(os.environ.get("GPUBP_FUZZ_FIRST", "0"))
SECONDS = 20
"""The most of the processor's time that a case may take; most take milliseconds."""
PATIENCE = 300
"""Seconds by the clock that a case may take: to wait for ever is a fault too, but a machine may be busy."""
MEMORY = 2**30
"""Bytes that a case may take beyond what the process has."""
LONGEST_MESSAGE = 400
"""Characters: less than what GpubpError cuts to, so that a message that quotes too much is seen."""

ODD_INTEGERS = (0, 1, -1, 2, 3, 7, 2**7, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30)
ODD_FLOATS = (0.0, -0.0, 0.5, -1.5, 1e-320, 1e38, 1e39, 1e308, float("nan"), float("inf"), float("-inf"))
ODD_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07",
    "two\nlines\r\t",
    "\x9b2J\u202e\u2028",
    "\ud800",
    "[/]",
    "[bold]x[/bold]",
    "[link=file:///etc]x[/link]",
    "[red",
    "{}",
    "%s%n",
    "=HYPERLINK(1)",
    "../../x",
    "nan",
    "-",
    "--",
    "数",
    "x" * 256,
    "x" * 5000,
    "1" * 30,
    "9" * 5000,
    "1e999",
    "0x10",
    "1_000",
    "٣",
    "None",
    "null",
    "True",
)
"""What people, other programs and attackers write where a name or a number is expected."""

_TOKENS = (
    *(str(each) for each in (*ODD_INTEGERS, *ODD_FLOATS)),
    *(json.dumps(each) for each in ODD_TEXTS),
    "9" * 30,
    "9" * 5000,
    "1e400",
    "NaN",
    "-Infinity",
    "nan",
    "null",
    "true",
    "[]",
    "{}",
    "[" * 3000,
    "[" * 3000 + "]" * 3000,
    '{"a":' * 3000,
    "{a=" * 3000,
    '"\\ud800"',
    '"\\u0000"',
    "'''",
    '"""',
    "#",
    "\0",
    "\x1b[2J",
    "\ufeff",
    "\r",
    ",",
    '"',
    "=",
    "[x]",
    "[[x]]",
    "[a." + "b." * 2000 + "c]",
    "1979-05-27T07:32:00Z",
)


# --- the damage -------------------------------------------------------------------------------------------------------
def damaged_bytes(rng: Random, *good: bytes) -> bytes:
    """Return one of these files with up to four places damaged, or spliced with another."""
    data = bytearray(rng.choice(good))
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data) + 1), min(rng.choice((1, 2, 4, 8, 16, 200)), len(data))
        run = slice(at, at + length)
        match rng.randrange(9):
            case 0 if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            case 1:
                data[run] = rng.randbytes(len(data[run]))
            case 2:
                del data[at:]
            case 3:
                del data[run]
            case 4:
                data[at:at] = rng.randbytes(length)
            case 5:
                data[at:at] = data[run] * rng.choice((1, 2, 50))
            case 6:  # a length or a side of an array
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(ODD_INTEGERS) % 256**size
                data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 7:  # where lengths and magic numbers usually stand
                at = rng.randrange(min(16, len(data) + 1))
                magic = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"PK\3\4", b"\x1f\x8b")
                data[at : at + 4] = rng.choice(magic)
            case 8:
                other = rng.choice(good)
                data = data[:at] + other[rng.randrange(len(other) + 1) :]
    return bytes(data)


def damaged_text(rng: Random, *good: str) -> bytes:
    """Return one of these texts with up to three words, lines or places damaged; as bytes, which need be no UTF-8."""
    text = rng.choice(good)
    for _ in range(rng.randint(1, 3)):
        lines = text.splitlines(keepends=True) or [""]
        match rng.randrange(7):
            case 0 | 1 | 2:  # another value
                words = list(re.finditer(r'"[^"\n]*"|[\w.+-]+', text))
                if words:
                    word = rng.choice(words)
                    text = text[: word.start()] + rng.choice(_TOKENS) + text[word.end() :]
            case 3:
                at = rng.randrange(len(text) + 1)
                text = text[:at] + rng.choice(_TOKENS) + text[at:]
            case 4:
                del lines[rng.randrange(len(lines))]
                text = "".join(lines)
            case 5:
                lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
                text = "".join(lines)
            case 6:
                text = text[: rng.randrange(len(text) + 1)]
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        data = text.encode(rng.choice(("utf-16", "latin-1")), "replace")
    return damaged_bytes(rng, data) if rng.random() < 0.1 else data


def odd_value(rng: Random) -> Any:
    """Return a value as JSON has them, seldom the one that is expected."""
    return rng.choice(
        (
            None,
            True,
            False,
            rng.choice(ODD_INTEGERS),
            -rng.choice(ODD_INTEGERS),
            rng.choice(ODD_FLOATS),
            rng.choice(ODD_TEXTS),
            [],
            {},
            [rng.choice(ODD_TEXTS)],
            [rng.choice(ODD_INTEGERS)] * rng.choice((1, 2, 3)),
            [[rng.choice(ODD_FLOATS)], [None]],
            {"name": rng.choice(ODD_TEXTS)},
            {rng.choice(ODD_TEXTS): rng.choice(ODD_FLOATS)},
            nested(rng.choice((5, 60, 500))),
        )
    )


def nested(depth: int) -> list:
    """Return lists in lists, this deep."""
    found: list = []
    for _ in range(depth):
        found = [found]
    return found


def damaged_json(rng: Random, good: str) -> bytes:
    """Return this JSON with one of its tables, lists or values damaged."""
    damaged = damaged_tree(rng, json.loads(good))
    return json.dumps(damaged, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def damaged_tree(rng: Random, tree: Any) -> Any:
    """Return JSON's tables, lists and values with one of them exchanged, left out, added or doubled; `tree` stays."""
    if isinstance(tree, dict) and tree and rng.random() < 0.9:
        found, key = dict(tree), rng.choice(list(tree))
        match rng.randrange(8):
            case 0:
                del found[key]
            case 1:
                found[rng.choice(ODD_TEXTS)] = odd_value(rng)
            case 2:
                found[key + rng.choice(("s", " ", "\0"))] = found.pop(key)
            case _:
                found[key] = damaged_tree(rng, tree[key])
        return found
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        found, at = list(tree), rng.randrange(len(tree))
        match rng.randrange(5):
            case 0:
                del found[at]
            case 1:
                found.insert(at, found[at])
            case 2:
                found.insert(at, odd_value(rng))
            case _:
                found[at] = damaged_tree(rng, tree[at])
        return found
    return odd_value(rng)


# --- the runner -------------------------------------------------------------------------------------------------------
def fuzz(attempt: Callable[[Random], object], share: float = 1.0) -> None:
    """Run an attempt at damaged input for each seed, and fail at the first that breaks the rules of this module.

    attempt: is given the source of all that is random in it. It succeeds, or raises GpubpError.
    share: of the cases that are asked for, for attempts that take long.
    """
    for seed in range(FIRST, FIRST + max(1, round(CASES * share))):
        try:
            with bounded():
                attempt(Random(seed))
        except GpubpError as error:
            fault = message_fault(str(error))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise AssertionError(f"seed {seed} (see tests/support/damage.py): {type(error).__name__}") from error
        else:
            fault = None
        if fault is not None:
            raise AssertionError(f"seed {seed} (see tests/support/damage.py): {fault}")


def message_fault(message: str) -> str | None:
    """Return what is wrong with the message of an error as a terminal shows it; None if nothing is."""
    if not message or len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} characters: {message[:LONGEST_MESSAGE]!r}"
    if not message.isprintable():
        return f"a message that a terminal obeys: {message!r}"
    return None


class TooLong(BaseException):
    """A case took longer than it may. No loader catches it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Raise TooLong in what runs beyond SECONDS or PATIENCE, and let what takes more than MEMORY run out of it."""

    def stop(number: int, frame: object) -> None:
        raise TooLong(f"it took more than {SECONDS} s of the processor's time, or {PATIENCE} s")

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    timers = {signal.SIGPROF: (signal.ITIMER_PROF, SECONDS), signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE)}
    before = {number: signal.signal(number, stop) for number in timers}
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in before.items():
            signal.signal(number, handler)
