"""Damaged files of chips: refused in one short line, or a chip that plans and profiles can reckon with."""

import math
import tomllib

import tomli_w
from damage import damaged_text, damaged_tree, fuzz

from gpubp import chips
from gpubp.profiler.occupancy import occupancy, waves

TABLES = tomllib.loads(chips.TABLE.read_text())
LIMITS = {name: value for name, value in TABLES["architectures"]["sm_75"].items() if name != "example"}
GOOD = {"T4": {**TABLES["T4"], "multiprocessor": LIMITS}}


def use(chip):
    """Reckon with the chip's figures."""
    assert all(each.isprintable() for each in (chip.key, chip.name, chip.source, *chip.devices))
    found = occupancy(chip.multiprocessor, threads=128, registers=32, shared_bytes=1024)
    assert 0 <= found.share <= 1 or found.warps > found.most_warps
    waves(chip, found, blocks=1000)
    limits = chip.roofline("float32")
    assert math.isfinite(limits.ridge)
    assert math.isfinite(limits.attainable(2.0))
    assert chip.for_plans().has_tensor_cores in (True, False)


def test_damaged_text(tmp_path):
    good = tomli_w.dumps(GOOD), tomli_w.dumps({"H100": TABLES["H100"]})

    def attempt(rng):
        (tmp_path / "chip.toml").write_bytes(damaged_text(rng, *good))
        use(chips.read(tmp_path / "chip.toml"))

    fuzz(attempt)


def test_values_of_other_types(tmp_path):
    def attempt(rng):
        try:
            text = tomli_w.dumps(damaged_tree(rng, GOOD)).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError, AttributeError, RecursionError):  # TOML cannot say it
            return
        (tmp_path / "chip.toml").write_bytes(text)
        use(chips.read(tmp_path / "chip.toml"))

    fuzz(attempt)
