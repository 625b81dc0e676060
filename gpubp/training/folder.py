"""Runs with a folder: from a user's settings to a trained model, its history, its configuration and its curves."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from gpubp import files
from gpubp.distributed.ranks import ALONE, Ranks
from gpubp.dtypes import long_name
from gpubp.errors import ArgumentError, CheckpointError, listed, shown
from gpubp.training import plots
from gpubp.training.checkpoint import CHECKPOINT_FILE, Checkpoint
from gpubp.training.fingerprints import is_fingerprint
from gpubp.training.from_settings import lasting, load_data, make_network, require_present, training_config
from gpubp.training.history import ACCURACY, HISTORY_FILE
from gpubp.training.judgement import Judgement
from gpubp.training.loop import Listener, Result, Run, signals_heard
from gpubp.training.model import RUN_FILE
from gpubp.training.settings import TABLE, Settings, tidy_name

CONFIG_FILE = "config.toml"
CURVES_FILE = "curves.png"
PREDICTIONS_FILE = "predictions.png"
FILES = (RUN_FILE, HISTORY_FILE, CURVES_FILE, PREDICTIONS_FILE, CONFIG_FILE, CHECKPOINT_FILE)
"""The files in the folder of a finished run."""

MAY_CHANGE = ("epochs", "backend", "device", "stream", "data")
"""The settings that a run may be resumed with in place of its own. The data's fingerprint must be that of its own."""

NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""The errors of a file system without locks, as on some clusters: there one can train all the same."""


def start(settings: Settings, out: str | Path | None, listener: Listener, ranks: Ranks = ALONE) -> tuple[Result, Path]:
    """Train in a new folder, and return the result and the folder. Write nothing before everything is checked.

    out: the folder, which must be new, or hold no more than a run leaves that was killed before its first checkpoint;
        None takes runs/DATA-TIME.
    ranks: as for `fit`.

    Raises ArgumentError, DataError, BackendError and CheckpointError for what is wrong; Interrupted and Aborted as
    `fit`.
    """
    folder = ranks.from_first(_default_folder(settings) if out is None else Path(out))
    with ranks.agreed():
        if ranks.first:
            _check_new(folder)
            files.check_folder("--out", folder)
        run = _make_run(settings, folder, listener, ranks)
    run.require_alike()
    with ExitStack() as held:
        with ranks.agreed():
            if ranks.first:
                _make_folder(folder)
                held.enter_context(_alone_in(folder))
                _check_new(folder)  # again: another process may have trained here meanwhile
                _remove_leftovers(folder)
                _write_config(run)
        return _train(run), folder


def resume(
    folder: str | Path,
    given: Mapping[str, Any],
    listener: Listener,
    *,
    reschedule: bool = False,
    ranks: Ranks = ALONE,
) -> tuple[Result, Path]:
    """Continue the run in a folder, and return its result and the folder. Raises what `start` raises.

    given: settings by name; they must be those of the run, but for those of `MAY_CHANGE`.
    reschedule, ranks: as for `fit`. There may be another number of ranks than the run had before.
    """
    folder = Path(folder)
    with ranks.agreed():
        run = _run_to_resume(folder, given, listener, ranks)
    with ExitStack() as held:
        with ranks.agreed():
            if ranks.first:
                held.enter_context(_alone_in(folder))
            run.load(reschedule=reschedule)
        run.require_alike()
        with ranks.agreed():  # once all have read
            if ranks.first:
                _remove_leftovers(folder)
                _write_config(run, _execution_of(folder))
        return _train(run), folder


def _run_to_resume(folder: Path, given: Mapping[str, Any], listener: Listener, ranks: Ranks) -> Run:
    """Return the run in a folder, not loaded yet."""
    try:
        checkpoint = Checkpoint.read(folder)
    except CheckpointError as error:
        if _holds_a_killed_start(folder):
            raise CheckpointError(f"{error}; it was stopped before that: start again with --out {folder}") from error
        raise
    saved = Settings.from_mapping(checkpoint.settings, str(folder / CHECKPOINT_FILE))
    files.check_folder("--resume", folder)
    if "data" not in given:
        require_present(saved.data)
    run = _make_run(_merged(saved, given, checkpoint.epoch), folder, listener, ranks)
    if "data" in given and not is_fingerprint(checkpoint.data, run.dataset, run.data_fingerprint):
        raise ArgumentError("--data", given["data"], f"left out, or another place of the run's own data, {saved.data}")
    return run


def _train(run: Run) -> Result:
    with signals_heard(run):  # one that comes while the curves are drawn lets the run end
        result = run.train()
        if run.ranks.first:
            _keep_pictures(run, result)
    return result


def _keep_pictures(run: Run, result: Result) -> None:
    judged = run.judge() if result.row.is_finite else None
    if judged is not None:
        run.listener.judged(judged)
    try:
        _draw_curves(run, result)
        if judged is not None:
            _draw_predictions(run, judged)
    except CheckpointError as error:  # the model, the history and the checkpoint are there
        run.listener.warning(f"{error}; gpubp train --resume {run.folder} draws the pictures")


def _draw_predictions(run: Run, judged: Judgement) -> None:
    assert run.folder is not None
    picture = io.BytesIO()
    plots.predictions(judged, title=f"{run.dataset.name}, {judged.what}: {len(judged.y):,} examples", out=picture)
    files.write_bytes(run.folder / PREDICTIONS_FILE, picture.getvalue())


def _draw_curves(run: Run, result: Result) -> None:
    assert run.folder is not None
    picture = io.BytesIO()
    plots.curves(
        result.history,
        title=f"{run.dataset.name}: {plots.architecture(run.network)}",
        out=picture,
        loss=run.network.loss.name.replace("_", " "),
        accuracy=ACCURACY[run.model.task],
        chosen_epoch=result.row.epoch if result.row is not result.history[-1] else None,
    )
    files.write_bytes(run.folder / CURVES_FILE, picture.getvalue())


def _make_run(settings: Settings, folder: Path, listener: Listener, ranks: Ranks) -> Run:
    config = training_config(settings)
    settings = replace(settings, data=lasting(settings.data))
    dataset = load_data(settings)
    network = make_network(settings, dataset)
    # A run that is resumed continues on what it began on, whatever "auto" would choose then.
    settings = replace(settings, backend=network.backend.name, device=network.backend.device)
    origin = {name: getattr(settings, name) for name in ("data", "task", "test_fraction", "seed", *TABLE)}
    origin["label"] = settings.label if dataset.label is None else dataset.label
    if dataset.weight_column is not None:
        origin["weight_column"] = dataset.weight_column
    chosen = settings.chosen()
    return Run(
        network, dataset, config, folder=folder, listener=listener, settings=chosen, origin=origin, ranks=ranks,
        stream=settings.stream,
    )  # fmt: skip


def _same(name: str, value: Any, before: Any) -> bool:
    """Return whether two values of a setting mean the same: a kind of arithmetic has two names."""
    if name in ("dtype", "precision") and isinstance(value, str) and isinstance(before, str):
        return long_name(tidy_name(value)) == long_name(tidy_name(before))
    return value == before


def _merged(saved: Settings, given: Mapping[str, Any], epochs_done: int) -> Settings:
    """Return the run's settings with what may change. Raises ArgumentError if another setting is not the run's."""
    for name, value in given.items():
        before = getattr(saved, name)
        if name not in MAY_CHANGE and not _same(name, value, before):
            was = "its default" if before is None else repr(before)
            raise ArgumentError(_option(name), value, f"left out, or {was} as in the run that is resumed")
    merged = replace(saved, **{name: given[name] for name in MAY_CHANGE if name in given})
    if "backend" in given and "device" not in given:
        merged = replace(merged, device=None)
    if merged.epochs < epochs_done:
        raise ArgumentError("--epochs", merged.epochs, f"at least {epochs_done}, which the run has done already")
    return merged


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


# --- the folder -------------------------------------------------------------------------------------------------------
def _default_folder(settings: Settings) -> Path:
    name = f"{shown(Path(settings.data).stem) or 'data'}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = Path("runs") / name
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder


def _check_new(folder: Path) -> None:
    """Raise ArgumentError if something is there already, unless it is a folder with a killed start or with nothing."""
    if files.is_missing(folder):
        return
    try:
        held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else None
    except OSError as error:
        raise CheckpointError(f"cannot look into {folder}: {error.strerror}") from error
    if held == [] or _holds_a_killed_start(folder):
        return
    hint = "--resume continues a run"
    if held is not None and CHECKPOINT_FILE not in held:
        hint = f"it holds {listed(held, 90)}; {hint}"
    raise ArgumentError("--out", str(folder), "a new or an empty folder", hint)


def _holds_a_killed_start(folder: Path) -> bool:
    """True if a folder holds nothing but what a run leaves that was killed before its first checkpoint."""
    try:
        held = {path.name for path in folder.iterdir()}
        others = held - {path.name for path in _leftovers(folder)}
    except OSError:
        return False
    return bool(held) and (not others or (others == {CONFIG_FILE} and _is_own_config(folder)))


def _is_own_config(folder: Path) -> bool:
    """True if the folder's settings are those that a run wrote, and not somebody's for a run to come."""
    try:
        found = files.read_toml(folder / CONFIG_FILE)
    except (OSError, ValueError):
        return False
    return isinstance(found.get("versions"), dict) and "gpubp" in found["versions"]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder}: {error.strerror}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let one process at a time train in a folder. However the process ends, its lock ends with it."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CheckpointError(f"cannot open the folder {folder}: {error.strerror}") from error
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise CheckpointError(f"another process is training in {folder}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise CheckpointError(f"cannot lock the folder {folder}: {error.strerror}") from error


def _execution(run: Run, before: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the bits of the run depend on besides its settings and versions, and from which epoch on.

    before: the same, as it was when the run was stopped: kept under "earlier" if another GPU, other plans or another
        number of ranks go on.
    """
    backend = run.network.backend
    ranks = {} if run.ranks.alone else {"ranks": run.ranks.count}
    now = {"backend": backend.name, "device": backend.device, **ranks, **backend.provenance}
    known = {name: value for name, value in before.items() if name not in ("from_epoch", "earlier")}
    earlier = before.get("earlier", [])
    if known == now:
        return {"from_epoch": before.get("from_epoch", 0), **now} | ({"earlier": earlier} if earlier else {})
    if known:
        earlier = [*earlier, {"from_epoch": before.get("from_epoch", 0), **known}]
    return {"from_epoch": run.epoch, **now} | ({"earlier": earlier} if earlier else {})


def _execution_of(folder: Path) -> Mapping[str, Any]:
    """Return what the folder's configuration has of it; nothing from an earlier version, or if it cannot be read."""
    try:
        found = files.read_toml(folder / CONFIG_FILE).get("execution", {})
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) and isinstance(found.get("earlier", []), list) else {}


def _write_config(run: Run, before: Mapping[str, Any] | None = None) -> None:
    """Write the settings, what the settings that were left open came to, and what computes: see `_execution`."""
    assert run.folder is not None
    network = run.network
    contents = {
        "settings": run.settings,
        "resolved": {
            "sizes": list(network.sizes),
            "activations": [activation.name for activation in network.activations[1:]],
            "loss": network.loss.name,
            "parameters": network.parameter_count,
            "training_examples": run.rows,
            "validation_examples": len(run.parts["validation"].inputs),
            "test_examples": len(run.parts["test"].inputs),
            "streamed": run.streamed,
            **({} if run.class_weight is None else {"class_weights": run.class_weight.tolist()}),
            "optimizer": _without_none(run.trainer.optimizer.config()),
        },
        "execution": _execution(run, before or {}),
        "versions": {
            "gpubp": version("gpubp"),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }
    files.write_bytes(run.folder / CONFIG_FILE, tomli_w.dumps(contents).encode())


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if value is not None
    }


def _leftovers(folder: Path) -> Iterator[Path]:
    """Yield the half-written files that a killed process left behind."""
    for name in FILES:
        yield from folder.glob(f".{name}.*")


def _remove_leftovers(folder: Path) -> None:
    for path in _leftovers(folder):
        path.unlink(missing_ok=True)
