"""Photograph the two pages of `gpubp explain` for the README.

    python .github/images/explain_pages.py     writes explain-network.png and explain-kernel.png beside this file

It runs the commands that the README shows, opens each page at one step in headless Chromium, and leaves out what stands
around the steps.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Photograph:
    """A page, and what of it is in the picture.

    Attributes:
        name: of the picture.
        command: makes the page, but for `--out`.
        step: that is open.
        size: of the picture, in pixels.
    """

    name: str
    command: tuple[str, ...]
    step: int
    size: tuple[int, int]


PHOTOGRAPHS = (
    Photograph("explain-network.png", ("explain", "network"), 5, (900, 640)),
    Photograph("explain-kernel.png", ("explain", "kernel", "hidden_delta", "--variant", "tiled"), 9, (1200, 860)),
)

AROUND = (
    "<style>header, nav, footer, #moved, #depths, #sources, #owners, #verdict, #ladder, h2 { display: none; }</style>"
)


def opened(page: str, step: int) -> str:
    """Return a page that opens at a step, without what stands around its steps."""
    return page.replace("<body>", f'<body data-opens="{step}">').replace("</head>", f"{AROUND}</head>")


def photograph(browser: str, picture: Photograph, out: Path) -> None:
    """Make a page, and write its picture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        subprocess.run([sys.executable, "-m", "gpubp", *picture.command, "--out", str(page)], check=True)
        page.write_text(opened(page.read_text(encoding="utf-8"), picture.step), encoding="utf-8")
        width, height = picture.size
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={out}"]
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Write both pictures."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit("no Chromium is installed, which photographs the pages (on Debian: apt-get install chromium)")
    for picture in PHOTOGRAPHS:
        photograph(browser, picture, FOLDER / picture.name)


if __name__ == "__main__":
    main()
