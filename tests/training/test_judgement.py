"""Figures of predictions, against what can be counted by hand."""

import io

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from gpubp.terminal import PlainConsole
from gpubp.training import plots
from gpubp.training.display import ConfusionTable, judgement_tables
from gpubp.training.judgement import ClassFigures, Judgement

Y = np.array([0, 0, 0, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 1, 0, 0])


def classes(names=("a", "b", "c", "d"), weight=None, y=Y, predicted=PREDICTED):
    return Judgement("the test part", "classification", names, y, predicted, weight)


def shown(*renderables, width=80):
    console = PlainConsole(file=io.StringIO(), width=width)
    console.print(*renderables)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_the_confusion_matrix_and_the_figures_of_classes():
    judged = classes()
    assert judged.confusion.tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert judged.classes() == [
        ClassFigures("a", 3, 2 / 3, 0.5),
        ClassFigures("b", 2, 0.5, 0.5),
        ClassFigures("c", 1, 0.0, None),
        ClassFigures("d", 0, None, None),
    ]


def test_shares_are_weighted_and_counts_are_not():
    judged = classes(weight=np.array([1, 0, 3, 1, 1, 2.0]))
    assert judged.confusion.sum() == 6
    a = judged.classes()[0]
    assert (a.examples, a.recall, a.precision) == (3, 1 / 4, 1 / 4)


def test_the_mistakes_of_very_many_classes_need_no_matrix(monkeypatch):
    monkeypatch.delattr(Judgement, "confusion")
    names = tuple(f"c{i}" for i in range(100_000))
    judged = classes(names, y=np.array([5, 99_999, 99_999, 5]), predicted=np.array([5, 0, 0, 7]))
    assert judged.mistakes(9) == [(99_999, 0, 2), (5, 7, 1)]
    assert judged.mistakes(1) == [(99_999, 0, 2)]
    assert shown(ConfusionTable(judged))[2] == ["c99999", "c0", "2"]


def test_figures_of_labels():
    y, predicted = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 1], [0, 1], [0, 0]])
    judged = Judgement("all", "multilabel", ("wet", "cold"), y, predicted)
    assert judged.classes() == [ClassFigures("wet", 2, 0.5, 1.0), ClassFigures("cold", 1, 1.0, 0.5)]
    assert len(judgement_tables(judged)) == 1


@pytest.mark.parametrize("weight", [None, np.array([1.0, 1, 2])])
def test_errors_of_values(weight):
    y, predicted = np.array([[1.0, 5], [2, 5], [4, 5]]), np.array([[1.0, 6], [3, 6], [2, 6]])
    first, constant = Judgement("all", "regression", (), y, predicted, weight).outputs()
    square, absolute, spread = (5 / 3, 1, 14 / 9) if weight is None else (9 / 4, 5 / 4, 27 / 16)
    assert first.root_mean_square == pytest.approx(square**0.5)
    assert first.mean_absolute == pytest.approx(absolute)
    assert first.r2 == pytest.approx(1 - square / spread)
    assert (constant.root_mean_square, constant.mean_absolute, constant.r2) == (1, 1, None)


def test_the_matrix_is_shown_where_it_fits_and_else_what_is_mistaken_most_often():
    lines = shown(ConfusionTable(classes()))
    assert lines[0] == ["is", "\\", "taken", "for", "a", "b", "c", "d"]
    assert lines[2] == ["a", "2", "1", "·", "·"]
    names = tuple(f"class {i}" for i in range(40))
    y = np.repeat(np.arange(40), 5)
    predicted = y.copy()
    predicted[:4], predicted[17] = 7, 5
    lines = shown(ConfusionTable(classes(names, y=y, predicted=predicted)))
    assert lines[0] == ["is", "taken", "for", "examples"]
    assert lines[2:] == [["class", "0", "class", "7", "4"], ["class", "3", "class", "5", "1"]]
    wide = shown(ConfusionTable(classes(names, y=y, predicted=predicted)), width=500)
    assert len(wide) == 42
    for width in (20, 30, 40, 60):
        console = Console(file=io.StringIO(), width=width)
        console.print(ConfusionTable(classes()))
        assert max(map(len, console.file.getvalue().splitlines())) <= width


@pytest.fixture
def drawn(monkeypatch):
    """Draws predictions; returns the figure and the picture."""
    from matplotlib.figure import Figure

    figures = []
    real = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), real(self, *a, **k)))

    def draw(judged):
        file = io.BytesIO()
        plots.predictions(judged, title="a title", out=file)
        file.seek(0)
        return figures[-1], imread(file)

    return draw


def test_the_picture_of_classes_has_the_counts_and_the_shares(drawn):
    figure, picture = drawn(classes(names=("$a", "[b]", "數", "d" * 90)))
    matrix, bars = figure.axes
    assert {(text.get_position(), text.get_text()) for text in matrix.texts} == {
        ((0, 0), "2"), ((1, 0), "1"), ((0, 1), "1"), ((1, 1), "1"), ((0, 2), "1")
    }  # fmt: skip
    assert np.asarray(matrix.images[0].get_array())[0].tolist() == [2 / 3, 1 / 3, 0, 0]
    assert [round(bar.get_width(), 1) for bar in bars.patches] == [66.7, 50, 0, 0, 50, 50, 0, 0]
    assert picture.shape[1] == 1760


def test_of_many_classes_the_worst_have_a_bar(drawn):
    y = np.arange(300) % 60
    predicted = np.where(y == 59, 3, y)
    figure, _ = drawn(classes(tuple(f"c{i}" for i in range(60)), y=y, predicted=predicted))
    matrix, bars = figure.axes
    assert not matrix.texts
    names = [text.get_text() for text in bars.get_yticklabels()]
    assert len(names) == 40
    assert names[-1] == "c59"
    assert "the 40 of 60 classes with the lowest recall" in figure.texts[-1].get_text() + str(figure._supxlabel)


@pytest.mark.parametrize(("outputs", "rows"), [(1, 10), (8, 12_000)])
def test_the_picture_of_values_has_the_predicted_over_the_true_ones(drawn, outputs, rows):
    y = np.random.default_rng(0).normal(size=(rows, outputs))
    figure, _ = drawn(Judgement("all", "regression", (), y, y + 1))
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert len(panels) == min(outputs, 6)
    step = 1 if rows == 10 else 3
    points = np.asarray(panels[0].collections[0].get_offsets())
    np.testing.assert_array_equal(points, np.stack([y[::step, 0], y[::step, 0] + 1], 1))
    assert "RMSE 1, MAE 1" in panels[0].get_title(loc="left")
    told = str(figure._supxlabel and figure._supxlabel.get_text())
    assert ("every 3th example" in told) == (step == 3)


def test_of_labels_there_are_bars_alone(drawn):
    y = np.eye(2)[[0, 1, 1]]
    figure, _ = drawn(Judgement("all", "multilabel", ("wet", "cold"), y, y))
    assert len(figure.axes) == 1
