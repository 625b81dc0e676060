"""The exceptions that gpubp raises for what its user got wrong, or what the machine lacks.

Each message names the thing, says what it was and what it must be. The command line prints it and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

MOST_SHOWN = 80
"""Characters of one piece of somebody's data that a message shows."""
LONGEST_LINE = 480
"""Characters of a line of a message. Messages are written to be shorter: what is longer quotes too much."""


class GpubpError(Exception):
    """Base of every error that is about the input or the machine, not about a defect of gpubp.

    Its message can be printed as it is: what a terminal would obey is escaped, and lines are cut to `LONGEST_LINE`.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__("\n".join(map(_cut_inside, printable(str(message)).split("\n"))))


class ArgumentError(GpubpError, ValueError):
    """An argument has a value that it must not have: "batch_size was 0; it must be a whole number ≥ 1".

    Args:
        argument: the argument's name, as the caller wrote it.
        value: its value.
        expected: what it must be, as the end of the sentence "it must be ...".
        hint: a closing remark, such as the nearest right name; empty for none.
    """

    def __init__(self, argument: str, value: object, expected: str, hint: str = "") -> None:
        self._tell(argument, f"was {_in_words(repr, value)}; it must be {expected}", hint)
        self._made_with: tuple[object, ...] = (value, expected, hint)

    def _tell(self, argument: str, sentence: str, hint: str) -> None:
        self.argument = argument
        super().__init__(f"{argument} {sentence}" + (f"; {hint}" if hint else ""))

    def renamed(self, rename: Callable[[str], str]) -> ArgumentError:
        """Return the same error, with its argument by another name, such as the command line's."""
        return type(self)(rename(self.argument), *self._made_with)  # type: ignore[arg-type]

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # Exception.__reduce__ would pass the message alone, so that a worker process could not hand the error back.
        return type(self), (self.argument, *self._made_with)


class StateError(ArgumentError):
    """An argument is in a state that it must not be in: "y has 6 rows; it must have as many as x, 7".

    Args:
        argument: the argument's name, as the caller wrote it.
        state: the sentence that it begins, such as "is empty".
        expected: the end of the sentence "it must ...", such as "have at least one label".
    """

    def __init__(self, argument: str, state: str, expected: str) -> None:
        self._tell(argument, f"{state}; it must {expected}", "")
        self._made_with = (state, expected)


class ConflictError(ArgumentError):
    """Two arguments exclude each other: "--full and --quick exclude each other".

    Args:
        argument, other: their names, as the caller wrote them.
        hint: why they do; empty if that is clear.
    """

    def __init__(self, argument: str, other: str, hint: str = "") -> None:
        self._tell(argument, f"and {other} exclude each other", hint)
        self._made_with = (other, hint)

    def renamed(self, rename: Callable[[str], str]) -> ArgumentError:
        """Return the same error, with both arguments by other names."""
        other, hint = self._made_with
        return ConflictError(rename(self.argument), rename(str(other)), str(hint))


class DataError(GpubpError):
    """A data set is missing, damaged or not what training needs."""


class CheckpointError(GpubpError):
    """A saved model or a run's checkpoint is missing, damaged or does not fit."""


class BackendError(GpubpError):
    """The named backend or device cannot run here; the message says what is missing."""


class OtherRankFailed(GpubpError):
    """Another of the processes that train together has said why this one cannot go on either."""


class CacheError(BackendError):
    """Neither the cache folder nor a temporary one can be written: there is no place for compiled code."""


class TunedPlansWarning(UserWarning):
    """Tuned plans that are there, and not used."""


class CacheWarning(UserWarning):
    """The cache folder cannot be written, so that what is compiled now is compiled again by the next process."""


def shown(text: object, most: int = MOST_SHOWN) -> str:
    """Return text from a file or a user as a message may show it: control characters and lone surrogates escaped, since
    a terminal would obey the former and refuse the latter, and cut to `most` characters."""
    return _in_words(str, text, most)


def _in_words(words: Callable[[object], str], value: object, most: int = MOST_SHOWN) -> str:
    """Return `words(value)`, escaped and cut."""
    try:
        text = words(value)[: most + 1]
    except (ValueError, RecursionError):  # an integer of thousands of digits, or lists in lists without end
        return f"a {type(value).__name__} too large to show"
    return _cut(_escaped(text), most)


def _escaped(text: str) -> str:
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _cut_inside(line: str) -> str:
    """Return a line of at most LONGEST_LINE characters: its end, too, which says what is wrong with a long path."""
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[: half - 5]} ... {line[-half:]}"


def printable(text: str) -> str:
    """Return the text with all that a terminal would obey escaped, but for its line breaks."""
    return "\n".join(map(_escaped, text.split("\n")))


def listed(names: Iterable[object], most: int = 2 * MOST_SHOWN) -> str:
    """Return the names with commas between, as many as fit into `most` characters, then "..."."""
    found = ""
    for name in map(shown, names):
        if found and len(found) + len(name) + len(", , ...") > most:
            return f"{found}, ..."
        found += f", {name}" if found else name
    return found


def shown_path(path: object, most: int = 2 * MOST_SHOWN) -> str:
    """Return a path as `shown` returns text, but for its beginning, which is what is cut."""
    text = str(path)
    return shown(text, len(text) * 10) if len(text) <= most else "..." + shown(text[3 - most :], most * 10)


def nearest(name: object, options: Iterable[str]) -> str | None:
    """Return the option that looks most like `name`, or None if none comes close."""
    by_lower_case = {option.lower(): option for option in options}
    matches = difflib.get_close_matches(shown(name).lower(), by_lower_case, n=1, cutoff=0.5)
    return by_lower_case[matches[0]] if matches else None


def unknown_name(argument: str, name: object, options: Iterable[str]) -> ArgumentError:
    """Return the error for a name that is none of `options`, with the nearest right one if there is one."""
    options = list(options)
    match = nearest(name, options)
    hint = f"did you mean {match!r}?" if match else ""
    return ArgumentError(argument, name, "one of " + listed(options), hint)
