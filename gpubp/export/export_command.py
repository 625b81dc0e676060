"""`gpubp export`: writes a model for another library, and says how it is used there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpubp import files
from gpubp.errors import listed, unknown_name
from gpubp.export import onnx_export, sklearn_export, torch_export
from gpubp.training.model import Model


@dataclass(frozen=True)
class Exported:
    """A file's contents, the program that uses it, and what there is to know of it."""

    contents: bytes
    program: str
    notes: tuple[str, ...] = ()


def run(model: Path, to: str, out: Path | None, force: bool) -> tuple[Path, Exported]:
    """Write the model in a file or a run's folder for another library. Return the file, and what was written.

    Args:
        to: "torch", "onnx" or "sklearn".
        out: the file; None takes model.safetensors, .onnx or .pkl with the library's name, in this folder.
        force: replace a file that is there.

    Raises:
        ArgumentError: an argument is wrong, or the library has nothing like the model.
        BackendError: a package that the export needs is not installed.
        CheckpointError: the model cannot be read, or the file not written.
    """
    if to not in FORMATS:
        raise unknown_name("--to", to, FORMATS)
    suffix, made = FORMATS[to]
    out = Path(f"model-{to}{suffix}") if out is None else out
    files.check_path("--out", out, suffix, replace=force)
    loaded = Model.load(model, "numpy")
    exported = made(loaded, out)
    files.write_bytes(out, exported.contents)
    precision = loaded.network.precision_name
    if precision is not None:
        note = f"the model computes in {precision}, its export in {loaded.network.dtype}: predictions differ a little"
        exported = Exported(exported.contents, exported.program, (*exported.notes, note))
    return out, exported


def _inputs_note(model: Model) -> tuple[str, ...]:
    """Return what to know of the inputs of a library without tables."""
    if model.preparation is None:
        return ()
    names = listed(model.feature_names)
    return (f"its inputs are what the table's columns become, {names}; --to onnx takes the columns themselves",)


def _torch(model: Model, out: Path) -> Exported:
    contents, modules = torch_export.contents(model)
    note = "all is float64, the inputs too: in float32 the scaling loses digits of inputs far from 0"
    return Exported(contents, torch_export.program(modules, str(out)), (note, *_inputs_note(model)))


def _onnx(model: Model, out: Path) -> Exported:
    kinds = onnx_export.columns_of(model)
    lines, given = [], '{"x": x.astype(float)}'
    if kinds:
        lines.append("columns = {" + ", ".join(f"{name!r}: {kind.__name__}" for name, kind in kinds.items()) + "}")
        texts = ", ".join(f"{name!r}: str" for name, kind in kinds.items() if kind is str)
        if texts:
            # where pandas guesses, numbers with a gap are floats: 100 becomes 100.0, another text
            lines.append("# texts of the table are as its file has them, without spaces around:")
            lines.append(f"# table = pandas.read_csv(path, dtype={{{texts}}})")
        # a gap that pandas has found is NaN among numbers, and "" among texts
        cells = 'table[[name]].fillna("" if kind is str else float("nan")).to_numpy(kind)'
        given = f"{{name: {cells} for name, kind in columns.items()}}"
    program = ["import onnxruntime", "", *lines, f"session = onnxruntime.InferenceSession({str(out)!r})"]
    return Exported(onnx_export.contents(model), "\n".join([*program, f"outputs = session.run(None, {given})"]))


def _sklearn(model: Model, out: Path) -> Exported:
    program = f"import pickle\n\nwith open({str(out)!r}, 'rb') as file:\n    model = pickle.load(file)"
    note = "reading a pickle runs what is in it: read no other than your own"
    return Exported(sklearn_export.contents(model), program, (note, *_inputs_note(model)))


FORMATS: dict[str, tuple[str, Callable[[Model, Path], Exported]]] = {
    "torch": (".safetensors", _torch),
    "onnx": (".onnx", _onnx),
    "sklearn": (".pkl", _sklearn),
}
"""The suffix of each library's file, and what makes it."""
