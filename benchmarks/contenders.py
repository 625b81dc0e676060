"""The libraries that train the same network, each in its own best reasonable form and in a process of its own.

As a program, `python contenders.py NAME CASE THREADS`, it is one contender's process. It makes the network, prints
"ready" or why it cannot, and then answers one line on its input with one line of JSON:

    time SECONDS    as many steps as fit: the seconds of one
    losses STEPS    from the first weights again: the loss before each of so many steps
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from networks import CASES, Case


@dataclass(frozen=True)
class Contender:
    """One library's training step on one case; `loss` gives the last step's, as it was before the update."""

    step: Callable[[], None]
    loss: Callable[[], float]


def gpubp(case: Case, threads: int) -> Contender:
    """This project's `numpy` backend."""
    from gpubp.network import Network
    from gpubp.optimizers import SGD

    net = Network(case.sizes, loss=case.loss, backend="numpy")
    net.optimizer = SGD(learning_rate=case.learning_rate)
    named = {}
    for layer, (w, b) in enumerate(case.weights(), start=1):
        named |= {f"layer{layer}.weight": w, f"layer{layer}.bias": b}
    net.set_weights(named)
    x, y = case.batch()
    return Contender(lambda: net.train_step(x, y), net.last_loss)


def torch_eager(case: Case, threads: int, compiled: bool = False) -> Contender:
    """PyTorch: Linear and ReLU, its losses, torch.optim.SGD."""
    import torch

    torch.set_num_threads(threads)
    layers: list[torch.nn.Module] = []
    for w, b in case.weights():
        linear = torch.nn.Linear(w.shape[1], w.shape[0])
        linear.weight.data, linear.bias.data = torch.from_numpy(w), torch.from_numpy(b)
        layers += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=case.learning_rate)
    x, y = (torch.from_numpy(part) for part in case.batch())
    last = torch.zeros(())

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if case.regression:
            return 0.5 * torch.nn.functional.mse_loss(net(x), y, reduction="sum") / case.rows
        return torch.nn.functional.cross_entropy(net(x), y)

    if compiled:
        loss_of = torch.compile(loss_of)

    def step() -> None:
        nonlocal last
        optimizer.zero_grad(set_to_none=True)
        last = loss_of(x, y)
        last.backward()
        optimizer.step()

    return Contender(step, lambda: float(last.detach()))


def torch_compiled(case: Case, threads: int) -> Contender:
    """PyTorch with forward pass and loss compiled, and so their backward pass."""
    return torch_eager(case, threads, compiled=True)


def jax(case: Case, threads: int) -> Contender:
    """JAX: the whole step one compiled function that gives the old weights' memory to the new ones."""
    import jax

    def loss_of(weights: list, x: jax.Array, y: jax.Array) -> jax.Array:
        for layer, (w, b) in enumerate(weights):
            x = (jax.nn.relu(x) if layer else x) @ w.T + b
        if case.regression:
            return 0.5 * ((x - y) ** 2).sum() / case.rows
        return -jax.numpy.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1).mean()

    def updated(weights: list, x: jax.Array, y: jax.Array) -> tuple[jax.Array, list]:
        loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
        return loss, jax.tree.map(lambda w, g: w - case.learning_rate * g, weights, gradients)

    compiled = jax.jit(updated, donate_argnums=0)
    weights = jax.device_put(case.weights())
    x, y = jax.device_put(case.batch())
    last = jax.numpy.zeros(())

    def step() -> None:
        nonlocal last, weights
        last, weights = compiled(weights, x, y)
        last.block_until_ready()

    return Contender(step, lambda: float(last))


def sklearn(case: Case, threads: int) -> Contender:
    """scikit-learn's MLPRegressor or MLPClassifier, one `partial_fit` a step."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    kind = MLPRegressor if case.regression else MLPClassifier
    model = kind(
        hidden_layer_sizes=case.sizes[1:-1],
        solver="sgd",
        alpha=0,
        batch_size=case.rows,
        learning_rate_init=case.learning_rate,
        momentum=0,
        nesterovs_momentum=False,
        shuffle=False,
    )
    x, y = case.batch()
    every_class = {} if case.regression else {"classes": np.arange(case.sizes[-1])}
    model.partial_fit(x, y, **every_class)
    for own_w, own_b, (w, b) in zip(model.coefs_, model.intercepts_, case.weights(), strict=True):
        own_w[...], own_b[...] = w.T, b
    # its squared error is a mean over the outputs too
    scale = case.sizes[-1] if case.regression else 1
    return Contender(lambda: model.partial_fit(x, y), lambda: scale * float(model.loss_))


def sgemm(case: Case, threads: int) -> Contender:
    """No network: the product of two 2048 × 2048 matrices, the rate that the machine's BLAS reaches."""
    from scipy.linalg import blas

    a, c = np.random.default_rng(0).standard_normal((2, SGEMM_SIDE, SGEMM_SIDE), dtype=np.float32)

    def step() -> None:
        blas.sgemm(1.0, a.T, a.T, 0.0, c.T, overwrite_c=True)

    return Contender(step, lambda: float("nan"))


SGEMM_SIDE = 2048

CONTENDERS: dict[str, tuple[str, Callable[[Case, int], Contender]]] = {
    "gpubp": ("scipy", gpubp),
    "PyTorch eager": ("torch", torch_eager),
    "PyTorch compiled": ("torch", torch_compiled),
    "JAX": ("jax", jax),
    "scikit-learn": ("sklearn", sklearn),
    "sgemm": ("scipy", sgemm),
}
"""Every contender by its name: the module that it needs, and what makes it."""


def seconds_of_a_step(step: Callable[[], None], budget: float) -> float:
    """The mean over as many steps as fit into `budget` seconds, at least one; one more before warms the caches."""
    start = time.perf_counter()
    step()
    count = max(1, int(budget / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        step()
    return (time.perf_counter() - start) / count


def losses(make: Callable[[], Contender], steps: int) -> list[float]:
    """The loss before each of the first steps."""
    contender = make()
    found = []
    for _ in range(steps):
        contender.step()
        found.append(contender.loss())
    return found


def main() -> None:
    name, case, threads = sys.argv[1], CASES[sys.argv[2]], int(sys.argv[3])
    module, make = CONTENDERS[name]
    if importlib.util.find_spec(module) is None:
        print(f"{module} is not installed", flush=True)
        return
    try:
        contender = make(case, threads)
        for _ in range(3):
            contender.step()
    except Exception as error:  # whatever a peer's library raises is its row's answer, not this program's end
        print(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", flush=True)
        return
    print("ready", flush=True)
    for line in sys.stdin:
        command, value = line.split()
        if command == "time":
            answer: object = seconds_of_a_step(contender.step, float(value))
        else:
            answer = losses(lambda: make(case, threads), int(value))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
