"""The pages in headless Chromium: no side scrolls at three widths, the slider and the choice work, print has all steps.

A copy of the page gets a script that does what a person would do, and leaves what it saw in the page.
"""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from gpubp import Network
from gpubp.crosscheck.cases import measured
from gpubp.explain.catalogue import catalogue
from gpubp.explain.kernel_page import kernel_page
from gpubp.explain.kernel_run import explain_case
from gpubp.explain.network_equations import notation
from gpubp.explain.network_page import network_page
from gpubp.explain.network_step import default_example, one_step

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (on Debian: apt-get install chromium)"),
]

WIDTHS = (500, 800, 1400)
"""A phone's, as narrow as Chromium's window can be, a tablet's, a desk's."""

LOOK = """
const seen = { wide: document.documentElement.scrollWidth, window: window.innerWidth, steps: [] };
const shown = () => steps.map((each, i) => each.hidden ? 0 : i + 1).filter((each) => each > 0);
const steps = Array.from(document.querySelectorAll(".step")), slider = document.getElementById("slider");
seen.first = shown();
slider.value = 2;
slider.dispatchEvent(new Event("input"));
seen.slid = shown();
document.getElementById("on").click();
seen.on = shown();
document.getElementById("back").click();
document.getElementById("back").click();
document.getElementById("back").click();
seen.back = shown();
document.getElementById("whole").click();
seen.whole = shown().length;
document.getElementById("whole").click();
document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
seen.key = shown();
seen.marked = Array.from(document.querySelectorAll("#code .here")).map((row) => row.id);
seen.asked = steps[1].dataset.lines || "";
const node = document.querySelector('svg.network a[href="#moved-1-2"]'), answers = document.querySelectorAll(".answer");
if (node) {
  node.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  seen.answers = Array.from(answers).filter((each) => !each.hidden).map((each) => each.id);
}
"""


def chromium(*options):
    """What Chromium writes for these options."""
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def seen(folder, text, width):
    """What the script saw in a page at this width."""
    script = f"<script>{LOOK} document.body.dataset.seen = JSON.stringify(seen);</script></body>"
    path = folder / f"page-{width}.html"
    path.write_text(text.replace("</body>", script), encoding="utf-8")
    dumped = chromium(
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1000", "--dump-dom", path.as_uri()
    )
    return json.loads(unescape(re.search(r'data-seen="([^"]*)"', dumped)[1]))


@pytest.fixture(scope="module")
def pages():
    network = Network(
        (2, 3, 1), hidden_activation="sigmoid", output_activation="sigmoid", loss="half_squared_error",
        dtype="float64", backend="numpy",
    )  # fmt: skip
    step = one_step(network, *default_example(network.sizes))
    kernel = explain_case(measured("bias_gradient", (8, 6), "float32"), "cupy")
    return {
        "network": network_page(step, notation("w"), catalogue("en"), "gpubp explain network"),
        "kernel": kernel_page(kernel, catalogue("en"), "gpubp explain kernel"),
    }


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["network", "kernel"])
def test_a_page_is_clicked_through(name, width, pages, tmp_path):
    found = seen(tmp_path, pages[name], width)
    assert found["wide"] <= found["window"], "the page scrolls sideways"
    assert (found["first"], found["slid"], found["on"], found["back"]) == ([1], [2], [3], [1])
    assert found["whole"] == pages[name].count('<article class="step')
    assert found["key"] == [2]
    if name == "network":
        assert found["answers"] == ["moved-1-2"]
    else:
        assert found["marked"]
        assert set(found["marked"]) == set(found["asked"].split())


@pytest.mark.parametrize("name", ["network", "kernel"])
def test_print_has_every_step(name, pages, tmp_path):
    """The steps that the script hides come back in print: as many pages as of a page whose script does not run."""
    counts = []
    for number, text in enumerate((pages[name], pages[name].replace("<script>", '<script type="text/plain">'))):
        path = tmp_path / f"{number}.html"
        path.write_text(text, encoding="utf-8")
        pdf = tmp_path / f"{number}.pdf"
        chromium(f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={pdf}", path.as_uri())
        counts.append(len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())))
    scripted, plain = counts
    assert scripted == plain > 2
