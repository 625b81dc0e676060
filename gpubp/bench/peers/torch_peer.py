"""PyTorch as a contender: eager, compiled, and on a GPU as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from gpubp.bench import runners
from gpubp.bench.runners import Arrays, Stepper
from gpubp.bench.timing import Call, Runner
from gpubp.bench.works import OPTIMIZER, Primitive, TrainingStep, Work
from gpubp.kernels.control import Control
from gpubp.nn import optimizers

GRAPH_WARM_UP = 3
"""Calls on a stream of their own before a graph is recorded, as PyTorch's documentation asks."""


def make(work: Work, threads: int = 1, mode: str = "eager") -> Runner:
    """Return a runner.

    Args:
        mode: "eager" or "compiled" on the CPU, "graph" on a GPU.
    """
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    if mode == "compiled":
        torch._dynamo.reset()  # what an earlier work compiled would count against the limit of recompilations
    if isinstance(work, TrainingStep):
        return runners.of_step(lambda: _stepper(work, mode), _elapsed if mode == "graph" else None)
    assert isinstance(work, Primitive)
    return _primitive(work, mode)


# --- primitives -------------------------------------------------------------------------------------------------------
def _dense_forward(x: Arrays) -> Arrays:
    return {"a": torch.relu(torch.nn.functional.linear(x["a_prev"], x["w"], x["b"]))}


def _softmax(x: Arrays) -> Arrays:
    return {"a": torch.softmax(x["z"], 1)}


def _output_delta(x: Arrays) -> Arrays:
    z, y = x["output"], x["y"]
    logarithms = torch.log_softmax(z, 1)
    torch.nn.functional.nll_loss(logarithms, y)
    delta = torch.exp(logarithms)
    delta.scatter_add_(1, y[:, None], torch.full_like(delta[:, :1], -1))
    return {"delta": delta.mul_(1 / len(z))}


def _hidden_delta(x: Arrays) -> Arrays:
    product = x["delta_next"] @ x["w_next"]
    return {"delta": torch.ops.aten.threshold_backward(product, x["saved"], 0)}


def _transpose_product(x: Arrays) -> Arrays:
    return {"product": x["delta_next"] @ x["w_next"]}


def _hadamard_derivative(x: Arrays) -> Arrays:
    return {"delta": torch.ops.aten.threshold_backward(x["product"], x["saved"], 0)}


def _weight_gradient(x: Arrays) -> Arrays:
    return {"gradient": x["delta"].T @ x["a_prev"]}


def _weight_step(x: Arrays) -> Arrays:
    return {"w": x["w"].addmm_(x["delta"].T, x["a_prev"], alpha=-x["rate"])}


def _bias_gradient(x: Arrays) -> Arrays:
    return {"gradient": x["delta"].sum(0)}


FUNCTIONS: dict[str, Callable[[Arrays], Arrays]] = {
    "dense_forward": _dense_forward,
    "softmax": _softmax,
    "output_delta": _output_delta,
    "hidden_delta": _hidden_delta,
    "transpose_product": _transpose_product,
    "hadamard_derivative": _hadamard_derivative,
    "weight_gradient": _weight_gradient,
    "weight_step": _weight_step,
    "bias_gradient": _bias_gradient,
}


def _primitive(work: Primitive, mode: str) -> Runner:
    device = "cuda" if mode == "graph" else "cpu"
    problem = runners.problem_of(work)

    def place(host: Any) -> torch.Tensor:
        return torch.tensor(host, device=device)

    def bind(arrays: Arrays) -> Callable[[], Arrays]:
        if work.name == "update":
            call, changed = _update(problem.started["control"], arrays, mode)
        else:
            # a number of the call, and no array
            rate = float(problem.inputs["control"][Control.LEARNING_RATE]) if work.name == "weight_step" else 0.0
            function, changed = FUNCTIONS[work.name], [arrays[name] for name in problem.started]
            call = partial(torch.compile(function) if mode == "compiled" else function, {**arrays, "rate": rate})
        call = torch.no_grad()(call)
        return _recorded(call, changed) if mode == "graph" else call

    def fetch(tensor: torch.Tensor) -> Any:
        return tensor.cpu().numpy()

    if mode != "graph":
        return runners.of_primitive(problem, place, bind, fetch)
    source, out = torch.zeros(2, runners.FLUSHED_BYTES // 2 // 4, device=device)
    flush = runners.flush_of(lambda: out.copy_(source))
    return runners.of_primitive(problem, place, bind, fetch, elapsed=_elapsed, flush=flush)


def _update(control: Any, x: Arrays, mode: str) -> tuple[Callable[[], Arrays], list[torch.Tensor]]:
    """Return torch.optim.Adam's fused step, from the problem's averages and step; and the tensors that it changes."""
    rule: Any = optimizers.get(OPTIMIZER)
    w = x["w"]
    w.grad = x["g"]
    adam = torch.optim.Adam(
        [w],
        lr=float(control[Control.LEARNING_RATE]),
        betas=(rule.beta1, rule.beta2),
        eps=rule.epsilon,
        fused=True,
        capturable=mode == "graph",
    )
    step = torch.tensor(float(control[Control.STEP] - control[Control.SKIPPED]), dtype=torch.float32, device=w.device)
    adam.state[w] = {"step": step, "exp_avg": x["mean"], "exp_avg_sq": x["square"]}
    outputs = {name: x[name] for name in ("w", "mean", "square")}

    def call() -> Arrays:
        adam.step()
        return outputs

    return call, [step, *outputs.values()]


# --- a training step --------------------------------------------------------------------------------------------------
def _stepper(work: TrainingStep, mode: str) -> Stepper:
    """Return a stepper of linear layers with ReLU, PyTorch's loss and torch.optim.SGD.

    With mode "compiled", the forward pass and the loss are compiled, and with them their backward pass.
    """
    device = "cuda" if mode == "graph" else "cpu"
    layers: list[torch.nn.Module] = []
    for w, b in work.weights():
        linear = torch.nn.Linear(w.shape[1], w.shape[0], device=device)
        linear.weight.data, linear.bias.data = torch.tensor(w, device=device), torch.tensor(b, device=device)
        layers += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1])
    optimizer = torch.optim.SGD(net.parameters(), lr=work.learning_rate)
    x, y = (torch.tensor(part, device=device) for part in work.batch())
    last = torch.zeros((), device=device)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if work.regression:
            return 0.5 * torch.nn.functional.mse_loss(net(x), y, reduction="sum") / work.rows
        return torch.nn.functional.cross_entropy(net(x), y)

    if mode == "compiled":
        loss_of = torch.compile(loss_of)

    def step() -> torch.Tensor:
        nonlocal last
        optimizer.zero_grad(set_to_none=True)
        last = loss_of(x, y)
        last.backward()
        optimizer.step()
        return last

    if mode != "graph":
        return Stepper(step, lambda: float(last.detach()))
    replay = _recorded(step, list(net.parameters()))
    return Stepper(replay, lambda: float(last.detach()))


# --- on a GPU ---------------------------------------------------------------------------------------------------------
def _recorded(function: Callable[[], Any], changed: Sequence[torch.Tensor]) -> Callable[[], Any]:
    """Return the function as a CUDA graph: calling it replays what the function did, and gives the same tensors.

    Args:
        changed: the tensors that it changes; they are left as they were.
    """
    kept = [tensor.detach().clone() for tensor in changed]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(GRAPH_WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    with torch.no_grad():
        for tensor, value in zip(changed, kept, strict=True):
            tensor.copy_(value)

    def replay() -> Any:
        graph.replay()
        return result

    return replay


def _elapsed(work: Call) -> float:
    """Return the seconds between two events on the current stream, around `work`."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
