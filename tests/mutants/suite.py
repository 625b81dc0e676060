"""Which cases of the cross-check a mutant is tried on.

A case launches kernels, and each launch runs an instance of a kernel: the kernel for one dtype, one activation, one
tile. An edit is compiled once for an instance, and then run on that instance's cases. There are more than five hundred
instances; most differ in what an edit has nothing to do with. So a few are chosen in which everything that tells
instances apart still occurs: each kernel with each dtype, each function, and each rung of the ladder; and each tile
with each dtype and each form of a product (in Python each by itself).
"""

from __future__ import annotations

import ast
import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpubp.kernels
from gpubp.backends.base import FORMS
from gpubp.backends.gpu_backend import Launch
from gpubp.backends.instances import SOURCES, MapOf, Word
from gpubp.backends.plans import Plan
from gpubp.crosscheck import problems, runner
from gpubp.crosscheck.buffers import placed
from gpubp.crosscheck.cases import Case, Selection
from gpubp.crosscheck.check_command import choose

KERNELS = Path(gpubp.kernels.__path__[0])
"""The folder with the kernels' sources: cuda/ and numba/."""

ENOUGH_CASES = 20
"""Cases of an instance that a mutant is tried on; more if what tells its cases apart does not all occur in so few."""


@dataclass(eq=False)
class Instance:
    """An instance of a kernel, with the cases that launch it, the smallest first.

    Attributes:
        arch: of the emulated device, as in its cases.
        launch: one launch of it, without its arrays.
        ptx: of the kernel as it is, without what says where it comes from. "": not compiled yet.
        lines: the file and line of each instruction.
    """

    backend: str
    arch: str
    launch: Launch
    cases: list[Case] = field(default_factory=list)
    ptx: str = ""
    lines: frozenset[tuple[str, int]] = frozenset()

    @property
    def files(self) -> frozenset[str]:
        """Return the file of its kernel and all that it includes or imports, such as "cuda/forms.cuh"."""
        stem = SOURCES.get(self.launch.kernel, self.launch.kernel)
        return reached(f"cuda/{stem}.cu" if self.backend == "cupy" else f"numba/{stem}.py")

    @property
    def name(self) -> str:
        """Return the kernel's name and what it was made for."""
        on_chip = self.arch and f" on {self.arch}"
        return f"{self.launch.kernel}<{', '.join(map(_short, self.launch.template))}>{on_chip}"


@functools.cache
def reached(file: str) -> frozenset[str]:
    """Return a kernel's file and all that it includes or imports."""
    text = (KERNELS / file).read_text(encoding="utf-8")
    if file.startswith("cuda/"):
        found = {f"cuda/{name}" for name in re.findall(r'^#include "([^"]+)"', text, re.M)}
    else:
        found = {f"numba/{name}.py" for name in _imported(ast.parse(text))}
    return frozenset({file}.union(*map(reached, found)))


def _imported(tree: ast.Module) -> Iterator[str]:
    """Yield the modules of `gpubp.kernels.numba` that a module imports something from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "gpubp.kernels.numba":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpubp.kernels.numba."):
            yield str(node.module).rpartition(".")[2]


def _short(x: Any) -> str:
    if isinstance(x, Word):
        return f"{x.dtype} by {x.nbytes} bytes"
    if isinstance(x, MapOf):
        return f"{x.dtype} by the copy engine"
    if isinstance(x, Plan):
        return f"{x.variant} {x.tile_m}x{x.tile_n}x{x.tile_k}/{x.vector}{' streamed' if x.stream_k else ''}"
    return str(getattr(x, "name", x))


def cost(case: Case) -> int:
    """Return about how many multiply-adds or elements a case has."""
    return math.prod(case.shape)


def by_chip(make: Callable[[], Any]) -> Callable[[str], Any]:
    """Return what gives the backend for an architecture of the emulated device, "" for the usual one: made once."""

    @functools.cache
    def backend(arch: str) -> Any:
        with runner.on_chip(arch):
            return make()

    return backend


def launches_of(backend: Any, case: Case) -> list[Launch]:
    """Return what a case launches on a backend, without a launch."""
    noted: list[Launch] = []
    backend._launch = noted.append
    try:
        problem = problem_of(case)
        arrays = {name: each.array for name, each in placed(backend, problem, case).items()}
        with runner.on_chip(case.arch), runner.plans_of(backend, case):
            problem.run(backend, arrays)
    finally:
        del backend._launch
    return noted


problem_of = functools.cache(problems.make)


def remember_problems() -> None:
    """Let the runner of cases make each problem, and what must come of it, once."""
    runner.problems = SimpleNamespace(make=problem_of)  # type: ignore[assignment]


def instances_of(backend: Callable[[str], Any]) -> list[Instance]:
    """Return the instances that mutants are tried on, of the cases that `gpubp check` runs."""
    everything: dict[str, Instance] = {}
    sizes: dict[str, dict[Case, tuple[int, ...]]] = {}
    for case in choose(Selection(), backend(""), ()):
        for launch in launches_of(backend(case.arch), case):
            instance = Instance(backend("").name, case.arch, _plain(launch))
            everything.setdefault(instance.name, instance)
            sizes.setdefault(instance.name, {})[case] = launch.sizes
    for instance in everything.values():
        instance.cases = various(sizes[instance.name])
    return list(_chosen(sorted(everything.values(), key=_compiles_long)))


def _compiles_long(instance: Instance) -> tuple[bool, int]:
    """What instances are sorted by, to be chosen from: those last that Numba compiles for seconds; many cases first."""
    long = instance.backend == "numba" and "pipelined" in instance.name
    return long, -len(instance.cases)


def various(sizes: Mapping[Case, tuple[int, ...]]) -> list[Case]:
    """Return about `ENOUGH_CASES`, by their cost: cheap ones in which each value of what tells the cases apart occurs,
    and then the cheapest of all sizes that the kernel is given, and of each option, mode and kind of values.
    """
    seen: set[tuple[Any, ...]] = set()
    chosen = []
    by_cost = sorted(sizes, key=cost)
    for case in by_cost:
        values = _values(case)
        if not values <= seen:
            seen |= values
            chosen.append(case)
    alike: Counter[tuple[Any, ...]] = Counter()
    ranks = {}
    for case in chosen + [case for case in by_cost if case not in chosen]:
        size, kind = (case.primitive, sizes[case]), (case.primitive, case.option, case.mode, case.values)
        ranks[case] = -1 if case in chosen else 1 + alike[kind] if alike[size] else 0
        alike.update((size, kind))
    count = max(ENOUGH_CASES, len(chosen))
    return sorted(sorted(ranks, key=lambda case: (ranks[case], cost(case)))[:count], key=cost)


def _values(case: Case) -> set[tuple[Any, ...]]:
    """Return what tells a case from others, each by itself; options and modes are a primitive's own."""
    own = {("option", case.primitive, case.option), ("mode", case.primitive, case.mode)}
    return own | {(each.name, getattr(case, each.name)) for each in fields(case)}


def _plain(launch: Launch) -> Launch:
    """Return a launch without what makes no other instance: its arrays, but for which are there, and how many parts or
    blocks split the depth.
    """
    template = tuple(
        replace(each, split_k=1, stream_k=min(each.stream_k, 1)) if isinstance(each, Plan) else each
        for each in launch.template
    )
    arrays = tuple(None if each is None else True for each in launch.arrays)
    return launch._replace(template=template, arrays=arrays, working=(), stored=())


def _chosen(instances: Sequence[Instance]) -> Iterator[Instance]:
    seen: set[tuple[Any, ...]] = set()
    for instance in instances:
        features = {(instance.arch, *feature) for feature in _features(instance)}
        if not features <= seen:
            seen |= features
            yield instance


_FORM = {
    "dense_forward": "NT",
    "dense_forward_dropout": "NT",
    "hidden_delta": "NN",
    "hidden_delta_dropout": "NN",
    "transpose_product": "NN",
    "layer_gradient": "TN",
    "layer_step": "TN",
    "weight_gradient": "TN",
    "weight_step": "TN",
}


def _features(instance: Instance) -> set[tuple[Any, ...]]:
    """Return what tells an instance from others, alone or in pairs that matter."""
    kernel, template = instance.launch.kernel, instance.launch.template
    found: set[tuple[Any, ...]] = set()
    for part in template:
        if isinstance(part, Plan):
            form = _FORM.get(kernel) or next(each for each in template if each in FORMS)
            tile = _short(part)
            if instance.backend == "cupy":
                found |= {(kernel, part.variant), (form, template[0], tile)}
            else:  # whose functions are put together from parts that know nothing of each other, and compile slowly
                found |= {(part.variant, form), (part.variant, template[0]), (tile,)}
        else:
            found.add((kernel, _short(part)))
    if not any(isinstance(part, Plan) for part in template):
        found |= {(case.primitive, case.option, case.mode) for case in instance.cases}
    return found
