"""The virtual device in a process of pytest: what kernels do wrong fails the test that launched them."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import pytest

from gpubp.emulator import driver
from gpubp.emulator.chip import current_arch, use
from gpubp.emulator.errors import EmulatorError
from gpubp.emulator.observe import observers
from gpubp.emulator.observe.findings import ASYNC_ORDERS, GRADES
from gpubp.errors import ArgumentError, unknown_name

Phase = Generator[None, Any, Any]


def begin(
    arch: str | None,
    races: bool,
    uninitialised: bool,
    order: str | None,
    async_order: str | None,
    suppressions: str | None,
    fail_at: str | None,
) -> Watch:
    """Give this process the virtual device, and return the plugin that watches the tests.

    Raises:
        pytest.UsageError: an option is wrong, or a driver is loaded already.
    """
    if order is not None and not order.isdecimal():
        raise pytest.UsageError(f"--gpubp-order is {order!r}: it must be a whole number ≥ 0")
    if suppressions is not None and not (races or uninitialised):
        raise pytest.UsageError("--gpubp-suppressions needs --gpubp-races or --gpubp-uninitialised")
    try:
        if fail_at not in (None, *GRADES):
            raise unknown_name("--gpubp-fail-at", fail_at, GRADES)
        use(arch or current_arch())
        seed = None if order is None else int(order)
        when = async_order or ASYNC_ORDERS[0]
        with contextlib.ExitStack() as context:
            if races or uninitialised or order is not None or when != ASYNC_ORDERS[0]:
                context.enter_context(
                    observers.observe(races, uninitialised, suppressions=suppressions, order=seed, async_order=when)
                )
            driver.install()
            whole_run = context.pop_all()
    except (ArgumentError, EmulatorError, OSError, ValueError) as error:
        raise pytest.UsageError(f"gpubp: {error}") from None
    wanted = [name for name, chosen in (("races", races), ("uninitialised memory", uninitialised)) if chosen]
    return Watch(whole_run, fail_at or "error", " and ".join(wanted))


class Watch:
    """Fails tests, and the collection of modules, by what their launches did wrong.

    Args:
        context: ends the observation.
        fail_at: the least grade of a finding that fails a test.
        wanted: what is looked for, as the header of pytest's output names it.
    """

    def __init__(self, context: contextlib.ExitStack, fail_at: str, wanted: str) -> None:
        self._context = context
        self._observer = observers.current()
        self._fail_at = fail_at
        self._wanted = wanted

    def pytest_unconfigure(self) -> None:
        """End the observation."""
        self._context.close()

    def pytest_report_header(self) -> str:
        """Return what pytest's output says of the device."""
        return f"gpubp: emulated {current_arch()}" + (f", looking for {self._wanted}" if self._wanted else "")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Phase:
        """Judge the launches of a test's fixtures as they are set up."""
        return (yield from self._judge(item, "setup"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Phase:
        """Judge the launches of a test."""
        return (yield from self._judge(item, "call"))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Phase:
        """Judge the launches of a test's fixtures as they end."""
        return (yield from self._judge(item, "teardown"))

    def _judge(self, item: pytest.Item, when: str) -> Phase:
        """Fail the phase of a test that succeeded by what was found; what failed anyway gets it as a section."""
        self._found()  # what other threads did since
        try:
            result = yield
        except BaseException:
            found = self._found()
            if found:
                item.add_report_section(when, "gpubp", found)
            raise
        found = self._found()
        if found:
            pytest.fail(found, pytrace=False)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Phase:
        """Judge the launches of a module as it is imported."""
        self._found()
        report: pytest.CollectReport = yield
        found = self._found()
        if found and report.passed:
            report.outcome, report.longrepr = "failed", found
        return report

    def _found(self) -> str:
        """Return a text of what was found since the last call, "" for nothing."""
        found = [] if self._observer is None else self._observer.take_report().at_least(self._fail_at)
        return "\n".join(f"{each.kind}: {each.message}" + (f"\n    {each.code}" if each.code else "") for each in found)
