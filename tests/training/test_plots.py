import io
import math
import subprocess
import sys

import pytest
from matplotlib.image import imread

from gpubp import Network
from gpubp.chips import Roofline
from gpubp.training import plots
from gpubp.training.history import HistoryRow


def row(epoch, *, accuracy=True, validation=True, layers=3, loss=1.0, norm=1.0):
    return HistoryRow(
        epoch=epoch,
        steps=10 * epoch,
        learning_rate=0.1,
        train_loss=loss / epoch,
        train_accuracy=0.9 if accuracy else None,
        validation_loss=1.1 * loss / epoch if validation else None,
        validation_accuracy=0.85 if accuracy and validation else None,
        test_loss=1.2 * loss / epoch,
        test_accuracy=0.8 if accuracy else None,
        dead_units=0,
        gradient_norms=tuple(norm / (layer + epoch) for layer in range(layers)),
    )


@pytest.fixture
def drawn(monkeypatch):
    """Draws the curves of a history; returns the panels by title, and the picture (rows, columns, colours)."""
    from matplotlib.figure import Figure

    def draw(history, **options):
        figures = []
        real = Figure.savefig
        monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), real(self, *a, **k)))
        file = io.BytesIO()
        plots.curves(history, title="a title", out=file, **options)
        file.seek(0)
        return {ax.get_title(loc="left"): ax for ax in figures[0].axes}, imread(file)

    return draw


def lines(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def test_the_curves_show_the_numbers_of_the_history(drawn):
    history = [row(epoch) for epoch in range(1, 21)]
    panels, picture = drawn(history)
    assert list(panels) == ["Loss", "Accuracy", "Gradient norm of each layer"]
    assert "Label accuracy" in drawn(history, accuracy="label accuracy")[0]
    loss, accuracy, norms = panels.values()
    assert lines(loss)["training"] == (list(range(1, 21)), [each.train_loss for each in history])
    assert set(lines(loss)) == {"training", "validation", "test"}
    assert lines(accuracy)["test"][1] == [80.0] * 20
    assert lines(norms)["layer 2"][1] == [each.gradient_norms[1] for each in history]
    assert norms.get_yscale() == "log"
    assert all(ax.get_xlabel() == "epoch" and ax.get_ylabel() for ax in panels.values())
    assert picture.shape[1] == 1760


def test_each_line_has_a_colour_of_its_own_and_a_place_in_a_legend(drawn):
    panels, _ = drawn([row(epoch) for epoch in range(1, 5)], chosen_epoch=2)
    for ax in panels.values():
        colours = [str(line.get_color()) for line in ax.lines]
        assert len(set(colours)) == len(colours) == 4
    loss, _, norms = panels.values()
    (of_all,) = loss.figure.legends
    assert [text.get_text() for text in of_all.get_texts()] == ["training", "validation", "test", "weights taken"]
    assert [text.get_text() for text in norms.get_legend().get_texts()] == ["layer 1", "layer 2", "layer 3"]


def test_the_epoch_whose_weights_were_taken_is_marked(drawn):
    panels, _ = drawn([row(epoch) for epoch in (1, 2, 3)], chosen_epoch=2)
    assert all(list(ax.lines[-1].get_xdata()) == [2, 2] for ax in panels.values())


def test_what_is_not_there_is_not_drawn(drawn):
    panels, _ = drawn([row(epoch, accuracy=False, validation=False) for epoch in (1, 2)])
    assert list(panels) == ["Loss", "Gradient norm of each layer"]
    assert set(lines(panels["Loss"])) == {"training", "test"}


def test_a_wide_range_of_losses_gets_a_log_axis(drawn):
    wide, _ = drawn([row(epoch) for epoch in range(1, 60)])
    narrow, _ = drawn([row(epoch) for epoch in range(1, 20)])
    assert wide["Loss"].get_yscale() == "log"
    assert narrow["Loss"].get_yscale() == "linear"


@pytest.mark.parametrize("norm", [0.0, math.nan, math.inf])
def test_numbers_that_cannot_be_drawn_are_left_out(drawn, norm):
    panels, _ = drawn([row(1), row(2, loss=math.nan, norm=norm)])
    assert lines(panels["Loss"])["training"][0] == [1]
    assert lines(panels["Gradient norm of each layer"])["layer 1"][0] == [1]


def test_one_epoch_shows_as_dots(drawn):
    panels, _ = drawn([row(1)])
    assert all(line.get_marker() == "o" for ax in panels.values() for line in ax.lines)


def test_many_layers_have_a_legend_that_can_be_read(drawn):
    panels, _ = drawn([row(epoch, layers=30) for epoch in (1, 2)])
    ax = panels["Gradient norm of each layer"]
    assert len(ax.lines) == 30
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["layer 1", "layer 16", "layer 30"]


def test_architecture():
    network = Network([4, 8, 6, 3], hidden_activation=["relu", "tanh"])
    assert plots.architecture(network) == "4 → 8 → 6 → 3, relu, tanh"
    assert plots.architecture(Network([4, 3])) == "4 → 3"
    assert plots.architecture(Network([4, 8, 6, 3], dropout=0.2)) == "4 → 8 → 6 → 3, relu, dropout 0.2"
    assert plots.architecture(Network([4, 8, 6, 3], dropout=[0, 0.5])) == "4 → 8 → 6 → 3, relu, dropout 0, 0.5"
    assert plots.architecture(Network([4, 8, 8, 5, 5, 5, 3])) == "4 → 8 → 8 → 3 × 5 → 3, relu"


def test_matplotlib_is_loaded_when_a_picture_is_drawn_and_needs_no_display():
    script = (
        "import io, sys\n"
        "import gpubp.training.folder, gpubp.training.plots as plots\n"
        "from gpubp.training.history import HistoryRow\n"
        "assert 'matplotlib' not in sys.modules\n"
        "row = HistoryRow(1, 1, 0.1, 1.0, None, None, None, None, None, 0, (1.0,))\n"
        "plots.curves([row], title='', out=io.BytesIO())\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    # Nor does it need a folder for its list of fonts, or say so.
    for home in ("/tmp", "/proc/none"):
        environment = {"PATH": "", "HOME": home}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_roofline_has_its_limits_and_its_points(monkeypatch):
    from matplotlib.figure import Figure

    from gpubp.chips import Roofline

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: figures.append(self))
    limits = {"machine": Roofline(peak=10e12, bandwidth=1e12)}
    points = [plots.Point("fast", 100, 8e12), plots.Point("slow", 0.5, 0.25e12, plots.RED, "s")]
    plots.roofline(limits, points, title="a title", note="a note", out=io.BytesIO(), y_label="TFLOP/s, at most")
    (ax,) = figures[0].axes
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_ylabel()) == ("log", "log", "TFLOP/s, at most")
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines["machine"][1] == [10, 10]
    assert [y for _, y in lines["machine"]] == pytest.approx([0.5 / 8, 10, 10])
    assert lines["fast"] == [[100, 8]]
    assert lines["slow"] == [[0.5, 0.25]]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["machine", "fast", "slow"]


@pytest.mark.parametrize(
    "name", ["a$b", "$x_{$.csv", "\\frac{", "数", "\x1b[31m", "two\nlines", "x" * 200, "[/]", "\ud800"]
)
def test_names_of_files_and_networks_are_no_formulas(name):
    """Matplotlib sets what stands between two $ as mathematics, and fails where it is none."""
    plots.curves([row(1)], title=f"{name}$: 64 → 10", out=io.BytesIO())
    curve = plots.Curve(name[:30], [1, 2], [1, 2], [1, 2], [1, 2], plots.BLUE, "-", "o")
    plots.throughput(
        [plots.Panel("step", "size", "GFLOP/s", [curve], {})], title=name, note=f"{name}$ is absent", out=io.BytesIO()
    )
    plots.roofline({"a": Roofline(1e12, 1e10)}, [plots.Point(name, 1.0, 1e9)], title=name, note=name, out=io.BytesIO())
