"""Who takes part: this project's backends and the libraries beside which they are measured."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from gpubp import backends
from gpubp.backends import EMULATED, detection
from gpubp.backends.plans import THREAD_VARIANTS
from gpubp.bench.timing import Runner
from gpubp.bench.works import Primitive, SharedStep, TrainingStep, Work
from gpubp.costs import PRIMITIVES, PRODUCTS
from gpubp.dtypes import NAMES, PLAIN
from gpubp.errors import ArgumentError, unknown_name


@dataclass(frozen=True)
class Contender:
    """One that computes the same as the others.

    Attributes:
        key: its name on the command line and in files.
        title: its name for readers.
        device: "cpu" or "gpu".
        home: module and function that makes its runner, with `settings` as keywords.
        backend: this project's, or "".
        needs: modules, each with the command that brings it.
        primitives: those that it computes.
        steps: True if it trains.
        dtypes: the kinds of arithmetic that it has.
        compiles_long: True if it takes part in primitives only when it is named.
    """

    key: str
    title: str
    device: str
    home: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    backend: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    primitives: tuple[str, ...] = PRIMITIVES
    steps: bool = True
    dtypes: tuple[str, ...] = PLAIN
    compiles_long: bool = False

    def takes(self, work: Work) -> bool:
        """True if the contender can do this work."""
        if work.dtype not in self.dtypes:
            return False
        if isinstance(work, SharedStep):
            return bool(self.backend) and self.steps
        return (
            self.steps
            if isinstance(work, TrainingStep)
            else isinstance(work, Primitive) and work.name in self.primitives
        )

    def missing(self) -> str:
        """Return why the contender cannot take part on this machine; "" if it can."""
        if self.backend:
            found = detection.probe(self.backend, self.device)
            return "" if found.works else str(found)
        if self.device == "gpu" and (fault := detection.driver().fault):
            return fault
        for module, remedy in self.needs.items():
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed; {remedy}"
        return ""

    def make(self, work: Work, threads: int) -> Runner:
        """Return a runner of the work. Errors of a peer's library are raised as they are."""
        module, function = self.home.split(":")
        maker: Callable[..., Runner] = getattr(import_module(f"gpubp.bench.{module}"), function)
        return maker(work, threads, **self.settings)


def _own(backend: str, device: str, variant: str | None = None) -> Contender:
    """Return one of this project's backends; its products take the variant, or what the plan decides if it is None."""
    name = f"{backend} {variant}" if variant else backend
    settings = {"backend": backend, "device": device, "variant": variant}
    return Contender(
        name.replace(" ", "-"),
        name,
        device,
        "own:make",
        settings,
        backend,
        primitives=PRODUCTS if variant else PRIMITIVES,
        dtypes=NAMES if backend == "cupy" and not variant else PLAIN,
    )


TORCH = {"torch": "pip install torch"}
CUPY = {"cupy": "pip install 'gpubp[cuda13]'"}

_PEERS = (
    Contender("torch", "PyTorch eager", "cpu", "peers.torch_peer:make", {"mode": "eager"}, needs=TORCH),
    Contender(
        "torch-compiled", "PyTorch compiled", "cpu", "peers.torch_peer:make", {"mode": "compiled"}, needs=TORCH,
        primitives=tuple(name for name in PRIMITIVES if name != "update"), compiles_long=True,
    ),
    Contender("jax", "JAX", "cpu", "peers.jax_peer:make", needs={"jax": "pip install jax"}),
    Contender(
        "sklearn", "scikit-learn", "cpu", "peers.sklearn_peer:make", needs={"sklearn": "pip install scikit-learn"},
        primitives=(),
    ),
    Contender("cublas", "cuBLAS", "gpu", "peers.cuda_peer:make", needs=CUPY, primitives=PRODUCTS, steps=False),
    Contender(
        "cublaslt", "cuBLASLt", "gpu", "peers.cuda_peer:make", {"fused": True},
        needs=CUPY | {"nvmath": "pip install 'nvmath-python[cu13]'"},
        primitives=("dense_forward", "hidden_delta", "weight_gradient"), steps=False,
    ),
    Contender("torch-graph", "PyTorch graph", "gpu", "peers.torch_peer:make", {"mode": "graph"}, needs=TORCH),
)  # fmt: skip

CONTENDERS = {
    each.key: each
    for each in (
        _own("numpy", "cpu"),
        _own("cpu", "cpu"),
        _own("cupy", "gpu"),
        Contender(
            "cupy-graph", "cupy graph", "gpu", "own:make", {"backend": "cupy", "device": "gpu", "captured": True},
            "cupy", primitives=(), dtypes=NAMES,
        ),
        _own("numba", "gpu"),
        *(_own(backend, "gpu", variant) for backend in ("cupy", "numba") for variant in THREAD_VARIANTS),
        *_PEERS,
    )
}  # fmt: skip
"""Everyone, by key."""

LIMITS = {
    "limit-cpu": Contender("limit-cpu", "BLAS", "cpu", "peaks:on_cpu", primitives=(), steps=False),
    "limit-gpu": Contender(
        "limit-gpu", "cuBLAS", "gpu", "peaks:on_gpu", needs=CUPY, primitives=(), steps=False,
        dtypes=(*PLAIN, "float16", "bfloat16"),
    ),
}  # fmt: skip
"""Who measures the limits of each device."""

EVERYONE = CONTENDERS | LIMITS
"""Who can have times in a result."""


def on_device(contender: Contender, device: str) -> Contender:
    """Return a contender of a GPU as it is on a device that is emulated, where nothing is measured."""
    settings = {**contender.settings, "device": device}
    return replace(contender, key=f"{contender.key}-on-{device}", device=device, settings=settings)


REHEARSED = {
    each.key: each
    for contender in CONTENDERS.values()
    for device in EMULATED
    if contender.backend and contender.device == "gpu"
    for each in [on_device(contender, device)]
}
"""Who rehearses for a GPU (`gpubp.bench.rehearsal`); no result of a bench has times of these."""


def choose(names: Sequence[str] = (), variants: Sequence[str] = ()) -> list[Contender]:
    """Return the contenders of a run, in the order of `CONTENDERS`.

    Args:
        names: only these.
        variants: the rungs that products on a GPU take besides what the plan decides.

    Raises:
        ArgumentError: a name is unknown, or no contender is one of this project's backends.
    """
    for name in names:
        if name not in CONTENDERS:
            raise unknown_name("contender", name, CONTENDERS)
    for variant in variants:
        if variant not in THREAD_VARIANTS:
            raise unknown_name("variant", variant, THREAD_VARIANTS)
    asked = {*names, *(f"{each.backend}-{rung}" for each in CONTENDERS.values() for rung in variants if each.backend)}
    usual = {key for key, each in CONTENDERS.items() if not each.settings.get("variant")}
    found = [each for key, each in CONTENDERS.items() if key in asked or (not names and key in usual)]
    if not any(each.backend for each in found):
        own = ", ".join(backends.BACKENDS)
        raise ArgumentError("contender", ", ".join(names), f"given with one of this project's besides: {own}")
    return found
