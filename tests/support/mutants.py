"""What the tests of mutations share: one edit of a kernel's text, and the names of the cases that meet it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """An edit of a file, `old` to `new`, and the cases of which one must fail. `old` occurs once in the file."""

    name: str
    file: str
    old: str
    new: str
    cases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.file.split('.')[0]}: {self.name}"

    def edit(self, path: Path) -> None:
        """Make the edit in this copy of the file."""
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.file} has changed: write the mutation anew"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def case(
    primitive: str,
    variant: str = "-",
    shape: str = "33x17x21",
    option: str = "-",
    mode: str = "-",
    *,
    dtype: str = "float32",
) -> str:
    """The name of a case of the cross-check on random values."""
    return f"{primitive}:{variant}:{dtype}:{shape}:{option}:{mode}:1:random:0:0"


def dense(variant: str, shape: str = "33x17x21") -> str:
    """The name of a case of `dense_forward` that adds a bias and applies no activation."""
    return case("dense_forward", variant, shape, "identity", "bias")


STRAY_LABELS = case("output_delta", shape="32x10", option="softmax_cross_entropy+softmax+labels", mode="stray")
"""The name of a case with labels that are no class."""

STRAY = tuple(
    case("output_delta", shape="32x10", option=option, mode="stray")
    for option in ("binary_cross_entropy+sigmoid", "softmax_cross_entropy+softmax")
)
"""The names of cases with targets that are no probabilities."""
