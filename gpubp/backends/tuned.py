"""Plans that were measured on this GPU: `gpubp tune` keeps them, and products take them from then on.

They lie in one JSON file a GPU, in the folder `tuned` of the cache. It says what they were measured with: the GPU, its
driver, the compiler, and the table of plans. With any other of these they are not used, and a warning says so. Nor are
they with GPUBP_TUNED=no in the environment, which `gpubp --no-tuned` sets.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from gpubp import files
from gpubp.backends import plan_model, plans
from gpubp.backends.plans import Plan
from gpubp.errors import DataError, GpubpError, TunedPlansWarning, shown
from gpubp.result_file import ResultFormat
from gpubp.toolchain import cache

FORMAT = ResultFormat("gpubp tune", 1)
SWITCH = "GPUBP_TUNED"
"""The variable of the environment that turns tuned plans off."""


class TunedProduct(NamedTuple):
    """A product, as far as its plan goes by it.

    Attributes:
        m, n, k: its sides and depth.
        dtype: what is multiplied, of `gpubp.dtypes.ARITHMETIC`.
        form: of `gpubp.backends.plans.FORMS`.
        alignment: bytes that all rows of the operands start on multiples of.
    """

    m: int
    n: int
    k: int
    dtype: str
    form: str
    alignment: int

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k} {self.form} {self.dtype}"


@dataclass(frozen=True)
class Conditions:
    """What plans are measured with.

    Attributes:
        gpu: the name that the driver gives it.
        driver: the newest CUDA that the driver offers.
        compiler: NVRTC's versions.
        plans: the digest of the table of plans, `plans_digest`.
    """

    gpu: str
    driver: str
    compiler: str
    plans: str

    def other(self, found: Conditions) -> str:
        """Return in words what differs between these conditions and those that plans were measured with."""
        names = [each.name for each in fields(self) if getattr(self, each.name) != getattr(found, each.name)]
        return ", ".join(f"{name} was {getattr(found, name)} and is {getattr(self, name)}" for name in names)


@functools.cache
def plans_digest() -> str:
    """Return a digest of the table of plans and of what the compiler makes of them."""
    tables = [
        [repr(plan) for plan in plans.tiles_for(dtype, variant, alignment)]
        for variant in plans.TILED_BY_NUMBER
        for dtype in plans.kinds_of(variant)
        for alignment in (16, 8, 4, 2)
    ]
    text = json.dumps(tables) + plan_model.TABLE.read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(found: Mapping[TunedProduct, Plan]) -> str:
    """Return a digest of these products and their plans, in any order."""
    return hashlib.sha256("\n".join(sorted(map(repr, found.items()))).encode()).hexdigest()[:16]


def enabled() -> bool:
    """True unless the environment turns tuned plans off."""
    return os.environ.get(SWITCH, "yes") != "no"


def path_of(gpu: str) -> Path:
    """Return the file of a GPU.

    Raises:
        OSError: the user has no home folder.
    """
    return cache.directory() / "tuned" / f"{re.sub('[^A-Za-z0-9]+', '-', gpu).strip('-') or 'gpu'}.json"


def load(conditions: Conditions) -> Mapping[TunedProduct, Plan]:
    """Return the plans that were measured under these conditions; none where tuned plans are turned off or missing.

    Warns:
        TunedPlansWarning: there are some, but measured under other conditions, or in a file that cannot be read.
    """
    if not enabled():
        return {}
    try:
        path = path_of(conditions.gpu)
        if files.is_missing(path):
            return {}
        measured, found = read(path)
    except (OSError, GpubpError) as error:
        warnings.warn(f"tuned plans are not used: {error}", TunedPlansWarning, stacklevel=2)
        return {}
    if measured != conditions:
        why = f"{conditions.other(measured)}; gpubp tune measures anew"
        warnings.warn(f"the tuned plans in {path} are not used: {why}", TunedPlansWarning, stacklevel=2)
        return {}
    return found


def read(path: Path) -> tuple[Conditions, dict[TunedProduct, Plan]]:
    """Return what plans were measured with, and the plans.

    Raises:
        DataError: the file cannot be read, or is none of `gpubp tune`.
    """
    return FORMAT.read(path, _from_json)


def _from_json(text: str) -> tuple[Conditions, dict[TunedProduct, Plan]]:
    values = FORMAT.values(text)
    try:
        conditions = Conditions(**values["conditions"])
        if not all(isinstance(text, str) for text in asdict(conditions).values()):
            raise TypeError("conditions are no texts")
        found = {}
        for each in values["products"]:
            product, plan = TunedProduct(**each["product"]), Plan(**each["plan"])
            _check(product, plan)
            found[product] = plan
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DataError(f"does not describe tuned plans of this version of gpubp: {shown(error)}") from None
    return conditions, found


def _check(product: TunedProduct, plan: Plan) -> None:
    """Raise ValueError for what is no product, or a plan of another kind; ArgumentError for one that lacks the form."""
    sides = product.m, product.n, product.k, product.alignment
    if not all(isinstance(side, int) and not isinstance(side, bool) and side >= 1 for side in sides):
        raise ValueError(f"sides {sides}")
    if product.form not in plans.FORMS or product.dtype != plan.dtype:
        raise ValueError(f"a plan in {plan.dtype} for {product}")
    plans.require_form("plan.variant", plan.variant, plan.dtype, product.form)


def store(conditions: Conditions, found: Mapping[TunedProduct, Plan]) -> Path:
    """Write the plans, beside those that were measured under the same conditions before, and return the file.

    Raises:
        CheckpointError: it cannot be written.
        OSError: the user has no home folder.
    """
    path = path_of(conditions.gpu)
    cache.make_folder(path.parent)
    kept: dict[TunedProduct, Plan] = {}
    if not files.is_missing(path):
        try:
            measured, kept = read(path)
        except DataError:
            measured, kept = conditions, {}  # a damaged file is written anew
        if measured != conditions:
            kept = {}
    products = [
        {"product": product._asdict(), "plan": asdict(plan)} for product, plan in {**kept, **dict(found)}.items()
    ]
    contents: dict[str, Any] = {**FORMAT.header, "conditions": asdict(conditions), "products": products}
    files.write_bytes(path, json.dumps(contents, indent=1).encode())
    return path
