"""The exceptions that gpubp raises for what its user got wrong, or what the machine lacks.

Each message names the thing, says what it was and what it must be. The command line prints it and exits with 2.
"""

import difflib
from collections.abc import Iterable


class GpubpError(Exception):
    """Base of every error that is about the input or the machine, not about a defect of gpubp."""


class ArgumentError(GpubpError, ValueError):
    """An argument has a value that it must not have.

    Args:
        argument: the argument's name, as the caller wrote it.
        value: what it was.
        expected: what it must be, as the end of the sentence "it must be ...".
        hint: a closing remark, such as the nearest right name; empty for none.
    """

    def __init__(self, argument: str, value: object, expected: str, hint: str = "") -> None:
        self.argument = argument
        self.value = value
        self.expected = expected
        self.hint = hint
        message = f"{argument} was {value!r}; it must be {expected}"
        super().__init__(f"{message}; {hint}" if hint else message)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        # Exception.__reduce__ would pass the message alone, so that a worker process could not hand the error back.
        return type(self), (self.argument, self.value, self.expected, self.hint)


class DataError(GpubpError):
    """A data set is missing, damaged or not what training needs."""


class CheckpointError(GpubpError):
    """A saved model or a run's checkpoint is missing, damaged or does not fit."""


class BackendError(GpubpError):
    """A backend or a device that was asked for cannot run here; the message says what is missing."""


class CacheError(BackendError):
    """Neither the cache folder nor a temporary one can be written: there is no place for compiled code."""


class CacheWarning(UserWarning):
    """The cache folder cannot be written, so that what is compiled now is compiled again by the next process."""


def nearest(name: object, options: Iterable[str]) -> str | None:
    """Return the option that looks most like ``name``, or None when none comes close."""
    by_lower_case = {option.lower(): option for option in options}
    matches = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1, cutoff=0.5)
    return by_lower_case[matches[0]] if matches else None


def unknown_name(argument: str, name: object, options: Iterable[str]) -> ArgumentError:
    """Return the error for a name that is none of ``options``, with the nearest right one when there is one."""
    options = list(options)
    match = nearest(name, options)
    hint = f"did you mean {match!r}?" if match else ""
    return ArgumentError(argument, name, "one of " + ", ".join(options), hint)
