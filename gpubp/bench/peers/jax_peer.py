"""JAX as a contender: each primitive, and the whole step, one compiled function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpubp.bench import runners
from gpubp.bench.runners import Arrays, Stepper
from gpubp.bench.timing import Runner
from gpubp.bench.works import OPTIMIZER, Primitive, TrainingStep, Work
from gpubp.kernels.control import Control
from gpubp.nn import optimizers


def make(work: Work, threads: int = 1) -> Runner:
    """Return a runner. XLA takes as many threads as the process has cores, which `worker` limits."""
    jax.config.update("jax_enable_x64", True)  # for int64 labels too; arrays keep the dtypes that they come in
    if isinstance(work, TrainingStep):
        return runners.of_step(lambda: _stepper(work))
    assert isinstance(work, Primitive)
    return _primitive(work)


# --- primitives -------------------------------------------------------------------------------------------------------
def _output_delta(x: Arrays) -> Arrays:
    z, y = x["output"], x["y"]
    logarithms = jax.nn.log_softmax(z)
    loss = -jnp.take_along_axis(logarithms, y[:, None], axis=1).mean()
    delta = (jnp.exp(logarithms) - jax.nn.one_hot(y, z.shape[1], dtype=z.dtype)) / len(z)
    return {"delta": delta, "loss": loss}


def _update(x: Arrays) -> Arrays:
    rule: Any = optimizers.get(OPTIMIZER)
    step = x["control"][Control.STEP] + 1 - x["control"][Control.SKIPPED]
    mean = rule.beta1 * x["mean"] + (1 - rule.beta1) * x["g"]
    square = rule.beta2 * x["square"] + (1 - rule.beta2) * x["g"] ** 2
    # the corrections are made in float64, and then join the arrays' arithmetic
    rate = (x["control"][Control.LEARNING_RATE] / (1 - rule.beta1**step)).astype(mean.dtype)
    root = jnp.sqrt(square / (1 - rule.beta2**step).astype(mean.dtype))
    return {"w": x["w"] - rate * mean / (root + rule.epsilon), "mean": mean, "square": square}


FUNCTIONS: dict[str, Callable[[Arrays], Arrays]] = {
    "dense_forward": lambda x: {"a": jax.nn.relu(x["a_prev"] @ x["w"].T + x["b"])},
    "softmax": lambda x: {"a": jax.nn.softmax(x["z"])},
    "output_delta": _output_delta,
    "hidden_delta": lambda x: {"delta": (x["delta_next"] @ x["w_next"]) * (x["saved"] > 0)},
    "transpose_product": lambda x: {"product": x["delta_next"] @ x["w_next"]},
    "hadamard_derivative": lambda x: {"delta": x["product"] * (x["saved"] > 0)},
    "weight_gradient": lambda x: {"gradient": x["delta"].T @ x["a_prev"]},
    "weight_step": lambda x: {
        "w": x["w"] - x["control"][Control.LEARNING_RATE].astype(x["w"].dtype) * (x["delta"].T @ x["a_prev"])
    },
    "bias_gradient": lambda x: {"gradient": x["delta"].sum(0)},
    "update": _update,
}


def _primitive(work: Primitive) -> Runner:
    problem = runners.problem_of(work)
    compiled = jax.jit(FUNCTIONS[work.name])

    def call(arrays: Arrays) -> Arrays:
        found = jax.block_until_ready(compiled(arrays))
        return {name: value for name, value in found.items() if name in problem.outputs}

    def place(host: np.ndarray) -> jax.Array:
        return jax.device_put(host.copy())

    return runners.of_primitive(problem, place, lambda arrays: partial(call, arrays), np.asarray)


# --- a training step --------------------------------------------------------------------------------------------------
def _stepper(work: TrainingStep) -> Stepper:
    """Return a stepper. The memory of the old weights goes to the new ones."""

    def loss_of(weights: list, x: jax.Array, y: jax.Array) -> jax.Array:
        for layer, (w, b) in enumerate(weights):
            x = (jax.nn.relu(x) if layer else x) @ w.T + b
        if work.regression:
            return 0.5 * ((x - y) ** 2).sum() / work.rows
        return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], axis=1).mean()

    def updated(weights: list, x: jax.Array, y: jax.Array) -> tuple[jax.Array, list]:
        loss, gradients = jax.value_and_grad(loss_of)(weights, x, y)
        return loss, jax.tree.map(lambda w, g: w - work.learning_rate * g, weights, gradients)

    compiled = jax.jit(updated, donate_argnums=0)
    weights = jax.device_put(work.weights())
    x, y = jax.device_put(work.batch())
    last = jnp.zeros(())

    def step() -> None:
        nonlocal last, weights
        last, weights = compiled(weights, x, y)
        last.block_until_ready()

    return Stepper(step, lambda: float(last))
