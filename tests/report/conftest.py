import pytest
from pages import _check_page  # noqa: F401

from gpubp.bench import pictures


@pytest.fixture
def undrawn(monkeypatch):
    """Spares a page its pictures, which take longer than the rest."""
    for name in ("throughput", "roofline"):
        monkeypatch.setattr(pictures, name, lambda result: b"a picture")
    monkeypatch.setattr("gpubp.report.machine_page.picture", lambda draw, alt: pictures_of(alt))


def pictures_of(alt):
    from gpubp.report.page import Picture

    return Picture(b"a picture", alt)
