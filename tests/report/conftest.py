from pages import _check_page  # noqa: F401
