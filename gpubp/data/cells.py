"""What the text of one cell of a table is: a number, a missing value, or something that people write for a number."""

from __future__ import annotations

import re

MISSING = frozenset(
    {
        *("", "?", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "+nan", "nat", "null", "none"),
        *("1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"),
    }
)
"""What stands for a missing value, in lower case: as pandas, R, SQL, Excel and the UCI repository write it."""

_THOUSANDS = r"[+-]?\d{1,3}(?:[,.'’ \u00a0\u202f]\d{3})+(?:[.,]\d+)?"
WRITTEN_FOR_NUMBERS = {
    r"(?i:true|false)": "write 1 and 0 for true and false",
    r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?": "write it without the comma, with a point for decimals",
    rf"[+-]?\d*[.,]?\d+\s?%|{_THOUSANDS}\s?%": "write it without the percent sign",
    _THOUSANDS: "write it without separators of thousands",
    r"\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}(?: .*)?": (
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


def advice(text: str) -> str:
    """Return what to do about a cell that is no finite number; "" if there is nothing to say."""
    text = text.strip()
    if is_missing(text):
        return "a value is missing: fill it in, or leave the line out"
    return next((advice for pattern, advice in _ADVICE if pattern.fullmatch(text)), "")


def is_value(text: str) -> bool:
    """True if the text is a number or what people write for one, so that it is a value and no name of a column."""
    return is_number(text) or any(pattern.fullmatch(text.strip()) for pattern, _ in _ADVICE)
