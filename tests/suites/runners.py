"""Runs tests of one module and writes each outcome as soon as it is known: what a module did before it died counts.

`python runners.py OUTPUT MOST unittest MODULE` or `python runners.py OUTPUT MOST pytest FILE`: runs MOST tests, evenly
chosen, or all if there are no more.
"""

from __future__ import annotations

import json
import re
import sys
import unittest
from pathlib import Path

PASSED, FAILED, SKIPPED, REFUSED = "passed", "failed", "skipped", "refused"
"""Outcomes. A test is refused if it needs a library that the virtual device does not serve, such as cuRAND."""


def note(output: Path, test: str, outcome: str, reason: str = "") -> None:
    """Append a test's outcome; of a reason the last line counts, which is the exception with its message."""
    last = reason.strip().splitlines()[-1] if reason.strip() else ""
    if outcome == FAILED and "NotServedError" in last:
        outcome = REFUSED
    with output.open("a") as file:
        file.write(json.dumps({"test": test, "outcome": outcome, "reason": last}) + "\n")


class Result(unittest.TestResult):
    """Writes what unittest finds. A subtest that fails lets its test fail."""

    def __init__(self, output: Path) -> None:
        super().__init__()
        self.output = output
        self._subtests: list[str] = []

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._subtests = []

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        note(self.output, test.id(), PASSED)

    def addError(self, test, err) -> None:
        super().addError(test, err)
        note(self.output, test.id(), FAILED, _said(self.errors[-1][1]))

    def addFailure(self, test, err) -> None:
        super().addFailure(test, err)
        note(self.output, test.id(), FAILED, _said(self.failures[-1][1]))

    def addSubTest(self, test, subtest, err) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None and not self._subtests:
            self._subtests.append(subtest.id())
            kind, value, _ = err
            note(self.output, test.id(), FAILED, f"{kind.__name__}: {value}".splitlines()[0])

    def addSkip(self, test, reason: str) -> None:
        super().addSkip(test, reason)
        note(self.output, test.id(), SKIPPED, reason)

    def addExpectedFailure(self, test, err) -> None:
        super().addExpectedFailure(test, err)
        note(self.output, test.id(), PASSED)

    def addUnexpectedSuccess(self, test) -> None:
        super().addUnexpectedSuccess(test)
        note(self.output, test.id(), FAILED, "unexpected success")


def _said(text: str) -> str:
    """Return the line of a traceback that names the exception: what follows may explain it, or compare values."""
    lines = [line for line in text.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return lines[-1] if lines else text


def chosen(tests: list, most: int) -> list:
    """Return at most so many of tests, evenly spaced."""
    return tests if len(tests) <= most else [tests[index * len(tests) // most] for index in range(most)]


class Plugin:
    """Writes what pytest finds."""

    def __init__(self, output: Path, most: int) -> None:
        self.output = output
        self.most = most

    def pytest_collection_modifyitems(self, items: list) -> None:
        """Keep the tests that are chosen."""
        items[:] = chosen(items, self.most)

    def pytest_runtest_logreport(self, report) -> None:
        """Note a test's call, or what went wrong before or after it."""
        if report.when == "call" or not report.passed:
            outcome = PASSED if report.passed or hasattr(report, "wasxfail") else SKIPPED if report.skipped else FAILED
            crash = getattr(report.longrepr, "reprcrash", None)
            text = str(report.longrepr or "")
            refused = [line for line in text.splitlines() if "NotServedError: " in line]
            said = crash.message.splitlines()[0] if crash is not None and crash.message else text
            said = refused[-1] if refused else said
            note(self.output, report.nodeid, outcome, said)

    def pytest_collectreport(self, report) -> None:
        """Note a file that cannot be read."""
        if report.failed:
            note(self.output, report.nodeid, FAILED, str(report.longrepr))


def main() -> None:
    """Run what the command line says."""
    output, most, kind, name = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    if kind == "pytest":
        import pytest

        options = ["-c", "/dev/null", "--rootdir", ".", "-p", "no:cacheprovider", "-q", "-m", "not slow"]
        pytest.main([*options, name], plugins=[Plugin(output, most)])
        return
    tests = list(_flat(unittest.defaultTestLoader.loadTestsFromName(name)))
    unittest.TestSuite(chosen(tests, most)).run(Result(output))


def _flat(suite):
    for each in suite:
        if isinstance(each, unittest.TestSuite):
            yield from _flat(each)
        else:
            yield each


if __name__ == "__main__":
    main()
