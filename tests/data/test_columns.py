"""The columns of a table: whether the first line names them, which has the labels, which are the inputs."""

import random

import pytest

from gpubp.data.columns import names_columns, position


def judge(text, named=None):
    first, *rows = [line.split(",") for line in text.splitlines()]
    return names_columns(first, rows, named=named)


def digits(label_first, rows=30, pixels=40, seed=0):
    """Lines of an image set: pixels that are mostly 0, and a digit."""
    draw = random.Random(seed)
    lines = []
    for _ in range(rows):
        values = [str(draw.choice([0, 0, 0, draw.randrange(256)])) for _ in range(pixels)]
        label = str(draw.randrange(10))
        lines.append(",".join([label, *values] if label_first else [*values, label]))
    return "\n".join(lines)


PIXELS = ",".join(map(str, range(40)))
WAVES = ",".join(str(400 + 2.5 * i) for i in range(40))
ABOVE = "\n5.5,1.5,0.1\n6.5,4.5,0.2\n7.5,2.5,0.9"


@pytest.mark.parametrize(
    "text",
    [
        "sepal,petal,species\n5.1,1.4,setosa\n6.4,4.5,virginica",
        "sepal,petal,species\n,1.4,setosa\n?,4.5,virginica",  # values are missing in the first rows
        "sepal,petal,species\nNA,NA,setosa\n6.4,4.5,virginica",
        "a,b,label\n1,2,a\n3,4,b",
        "y,n,label\n1,2,y\n3,4,n",  # names that are also classes
        "label,a,b\nyes,1,2\nno,3,4",
        ",a,b,label\n0,1,2,x\n1,3,4,y",  # an index as pandas writes it
        "a,,label\n1,2,x\n3,4,y",
        "a,2,label\n1,2,x\n3,4,y",  # a name that looks like a number
        "a,0.5,0.95,b,c\n1,2,3,4,5\n6,7,8,9,1",
        "a,b\n1;5,x\n2;5,3",  # one cell below is a number
        'a,b,label\n"1.234",12%,x\n"2.345",13%,y',
        "flag,day,label\nTrue,2024-01-31,x\nFalse,2024-02-01,y",
        "0,1,label\n5.1,1.4,cat\n6.4,4.5,dog",
        "0,1,2,label\n5,1,7,cat\n6,4,9,dog",
        "0,1,2,label\n5.1,1.4,7,3\n6.4,4.5,9,4",
        "1,0,label\n5,6.5,7\n8,9.5,1",
        f"{PIXELS},label\n" + digits(label_first=False),
        f"label,{PIXELS}\n" + digits(label_first=True),
        f"{PIXELS},40\n" + digits(label_first=False),  # as pandas numbers columns
        "1990,1991,target" + ABOVE,
        "1990,1991,1992,kind\n" + "5.5,1.5,0.1,a\n6.5,4.5,0.2,b\n7.5,2.5,0.9,b\n" * 3,
        "1990,1992,target" + ABOVE,
        f"{WAVES},class\n" + digits(label_first=False),
        "a,b,label",  # no rows
    ],
)
def test_a_first_line_of_names(text):
    assert judge(text) is True


@pytest.mark.parametrize(
    "text",
    [
        "5.1,3.5,setosa\n4.9,3.0,setosa\n6.4,4.5,virginica",
        "5.1,3.5,setosa\n4.9,3.0,virginica",
        "1.5,2.5,y\n3.5,4.5,n\n1.5,0.5,y",
        "1.5,2.5,y\n3.5,4.5,n\n1.5,0.5,n",  # y does not occur again
        "1.5,2.5,Target\n3.5,4.5,Other\n1.5,0.5,Other",
        "3,7,Target\n3,4,Other\n1,9,Target",
        "1,2,y\n3,4,n\n5,6,y",
        "3,7,label\n3,4,class\n1,9,y",
        "1,2,3,y\n7,4,9,n\n5,6,2,y",  # they count up, but y occurs again
        "1,2,3,a\n" + "1,2,9,b\n9,2,3,b\n" * 3,  # they count up, but occur below
        "1.5,2.5,?\n3.5,4.5,a\n5.5,6.5,b",
        "1.5,2.5,?\n3.5,4.5,1.5\n5.5,6.5,2.5",
        "NA,2.5,a\n3.5,4.5,a\n5.5,6.5,b",
        "?,?,a\n3.5,4.5,a\n5.5,6.5,b",
        "y,1,2\nn,3,4\ny,5,6",
        "y,1.5,2\nn,3,4",
        "1,2,a\n3,4,b",
        "0,0,0\n0,1,1\n1,0,1\n1,1,0",
        "0,1\n1,3\n2,5\n3,7\n4,9\n5,11",
        "0,1,2\n3,4,5\n6,7,8",
        "10,11,12\n11,12,13\n12,13,14\n13,14,15\n14,15,16\n15,16,17",  # windows of a series
        "R,1,2,3,4\nL,5,5,5,5",
        "R,1,2,3,4\n" + "L,1,2,3,5\nR,2,2,3,4\n" * 3,
        "5.1,oops,a\n4.9,3.0,a\n6.4,4.5,b",  # a cell that is wrong
        "y,n,n\nn,y,n\ny,n,y",
        "1,2,x",
        "1,2,3",
        "0.1,0.2,0.3,0.4,0.5\n0.9,0.1,0.5,0.2,0.7\n0.6,0.5,0.4,0.3,0.2" + "\n5,4,3,2,1" * 3,
        digits(label_first=True),
        digits(label_first=False),
        digits(label_first=True, seed=3),
    ],
)
def test_a_first_line_of_values(text):
    assert judge(text) is False


@pytest.mark.parametrize(
    "text",
    [
        "1,2,y\n3,9,n\n5,5,n",
        "0,1,label\n5,3,cat\n6,4,dog",
        "5,3,x\n4,2,0\n1,1,1",
        "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8\n" + "0.9,0.1,0.5,0.2,0.7,0.3,0.3,0.3\n" * 3,
        "0.1,0.2,0.3,0.4,0.5,once\n" + "0.9,0.1,0.5,0.2,0.7,often\n" * 3,
    ],
)
def test_a_first_line_that_could_be_either(text):
    assert judge(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,1,kind\n5.1,1.4,cat\n6.4,4.5,dog", True),
        ("a,b,kind\nx,y,cat\nx,z,dog", True),
        ("1.5,2.5,kind\n3.5,4.5,n\n1.5,0.5,n", None),  # a class of the name that was given for the label column
    ],
)
def test_a_label_that_was_named_is_a_sign_of_names(text, expected):
    assert judge(text, named="kind") is expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [(3, 3), ("3", 3), ("-1", -1), ("+1", 1), (" 2 ", 2), ("007", 7), ("1.0", None), ("x1", None), ("", None)],
)
def test_what_looks_like_a_whole_number_is_a_position(label, expected):
    assert position(label) == expected
