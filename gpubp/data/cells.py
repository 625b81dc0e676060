"""What the text of one cell of a table is: a number, a missing value, or something that people write for a number."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable

from gpubp.errors import ArgumentError

MISSING = frozenset(
    {
        *("", "?", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "+nan", "nat", "null", "none"),
        *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    }
)
"""What stands for a missing value, in lower case: as pandas, R, SQL, Excel and the UCI repository write it."""

TRUTHS = {"true": 1.0, "false": 0.0}
"""What is written for 1 and 0 in a column of truths, in lower case."""

DECIMALS = {"point": ".", "comma": ","}
"""What may stand before the decimals of a number, by name."""
THOUSANDS = {"comma": ",", "point": ".", "space": " ", "apostrophe": "'", "underscore": "_"}
"""What may stand between the thousands of a number, by name."""
_LOOK_THE_SAME = {" ": " \u00a0\u202f", "'": "'’"}
"""The characters that are written for one of `THOUSANDS`, where there are several."""

_MONTHS = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-zA-Z]*\\.?"
_THOUSANDS = r"[+-]?\d{1,3}(?:[,.'’ \u00a0\u202f]\d{3})+(?:[.,]\d+)?"
WRITTEN_FOR_NUMBERS = {
    r"(?i:true|false)": "write 1 and 0 for true and false",
    r"[+-]?\d{1,3},\d{3}": "--decimal comma reads it, or --thousands comma, whichever it is",
    r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?": "--decimal comma reads it, or write it with a point for decimals",
    rf"[+-]?\d*[.,]?\d+\s?%|{_THOUSANDS}\s?%": "--percent reads it, or write it without the percent sign",
    _THOUSANDS: "--thousands reads it, or write it without separators of thousands",
    r"\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}(?: .*)?"
    rf"|\d{{1,2}}\.?[ -]{_MONTHS}[ -]\d{{2,4}}|{_MONTHS} \d{{1,2}}, \d{{4}}": (
        "write a date as numbers, such as the days since the first one"
    ),
    r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?:\s?(?i:am|pm))?": "write a time as a number, such as its seconds",
    r"[+-]?\s?[$€£¥]\s?\d[\d.,]*|\d[\d.,]*\s?[$€£¥]": "write it without the currency",
}
"""What people write for numbers (patterns), and what to write instead."""

_ADVICE = [(re.compile(pattern), advice) for pattern, advice in WRITTEN_FOR_NUMBERS.items()]


def is_missing(text: str) -> bool:
    """True if the text stands for a missing value, or is empty."""
    return text.strip().lower() in MISSING


def is_number(text: str) -> bool:
    """True if the text is a number, NaN and infinity included."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python reads 1_000 as a number; tables mean text


def number_reader(decimal: str, thousands: str | None, percent: bool) -> Callable[[str], float]:
    """Return the function that reads a number as a table writes it, and raises ValueError for any other text.

    Args:
        decimal: what stands before decimals, a value of `DECIMALS`.
        thousands: what stands between thousands, a value of `THOUSANDS`, in groups of three digits; None: nothing.
            A number may have none of it all the same.
        percent: a percent sign may follow: 12 % is 12.
    """
    if (decimal, thousands, percent) == (".", None, False):
        return float
    between = f"[{re.escape(_LOOK_THE_SAME.get(thousands, thousands))}]" if thousands else ""
    whole = rf"\d{{1,3}}(?:{between}\d{{3}})+|\d+" if thousands else r"\d+"
    point = re.escape(decimal)
    sign = r"\s?%?" if percent else ""
    number = re.compile(rf"\s*([+-]?(?:(?:{whole})(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?){sign}\s*")
    separators = re.compile(between) if between else None

    def read(text: str) -> float:
        match = number.fullmatch(text)
        if match is None:
            raise ValueError(text)
        digits = separators.sub("", match[1]) if separators else match[1]
        return float(digits.replace(decimal, "."))

    return read


def number_or_nan(text: str, read: Callable[[str], float]) -> float:
    """Return the number that `read`, a `number_reader`, finds in a text; NaN if there is none."""
    try:
        return math.nan if "_" in text and read is float else read(text)
    except ValueError:
        return math.nan


def advice(text: str) -> str:
    """Return what to do about a cell that is no finite number; "" if there is nothing to say."""
    text = text.strip()
    if is_missing(text):
        return "a value is missing: fill it in, or leave the line out"
    return next((advice for pattern, advice in _ADVICE if pattern.fullmatch(text)), "")


def is_value(text: str) -> bool:
    """True if the text is a number or what people write for one, so that it is a value and no name of a column."""
    return is_number(text) or any(pattern.fullmatch(text.strip()) for pattern, _ in _ADVICE)


def in_line(argument: str, text: str, expected: str) -> list[str]:
    """Return the cells of one line of CSV that was given as an argument: split at its commas, but not inside quotes.

    Raises ArgumentError for text that is no such line, with what it must be.
    """
    try:
        return next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:
        raise ArgumentError(argument, text, expected) from None
