"""The model of a step on several GPUs: by hand, at its limits, and shown as a model."""

import itertools
import json
import re
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from gpubp import backends, chips
from gpubp.bench import own
from gpubp.bench.works import STEPS, TrainingStep
from gpubp.chips import Link
from gpubp.cli import app
from gpubp.distributed.ranks import ALONE
from gpubp.profiler import step_model
from gpubp.profiler.step_model import NCCL_BASE, all_reduce_seconds, compute_seconds, gradient_bytes, modelled

H100 = chips.get("H100")
LINK = Link("a link", 1e9, 1e-6, None, "invented")


def profile(*words, code=0):
    result = CliRunner().invoke(app, ["profile", "step", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


# --- the all-reduce ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nbytes", "ranks", "expected"),
    [
        (10**9, 1, 0.0),
        (10**9, 2, 1.0 + 2e-6 + NCCL_BASE),  # two steps of half of it
        (10**9, 4, 1.5 + 6e-6 + NCCL_BASE),  # six steps of a quarter
        (8000, 8, 14 * 1000 / 1e9 + 14e-6 + NCCL_BASE),
    ],
)
def test_a_ring_by_hand(nbytes, ranks, expected):
    assert all_reduce_seconds(nbytes, ranks, LINK) == pytest.approx(expected, rel=1e-12)


def test_many_gpus_need_twice_the_bytes_over_the_bandwidth_and_their_steps():
    found = all_reduce_seconds(10**12, 1024, LINK)
    assert found == pytest.approx(2e12 / 1e9, rel=2e-3)
    for few, many in itertools.pairwise([1, 2, 3, 8, 64, 1024]):
        assert all_reduce_seconds(10**6, few, LINK) < all_reduce_seconds(10**6, many, LINK)


@pytest.mark.parametrize("dtype", ["float32", "float64", "tf32", "bfloat16", "float16"])
def test_the_gradient_is_what_a_network_adds_up(dtype):
    """In float32 where the products have 16 bits."""
    step = replace(STEPS["medium"], dtype=dtype)
    network = own._trainer(step, backends.get("numpy").for_precision(dtype), ALONE).network
    assert str(network.gradient.dtype) == ("float64" if dtype == "float64" else "float32")
    assert gradient_bytes(step) == network.gradient.nbytes


# --- a step -----------------------------------------------------------------------------------------------------------
def test_one_gpu_has_no_link():
    alone, *_ = modelled(STEPS["large"], [1], H100)
    assert (alone.link, alone.all_reduce, alone.share, alone.speed_up) == (None, 0, 0, 1)
    assert alone.seconds == compute_seconds(STEPS["large"], H100, alone=True)
    assert len(modelled(STEPS["large"], [1], H100)) == 2  # one for each kind of scaling


def test_the_parts_of_a_step_are_added_up():
    """Nothing overlaps: the gradient is added up when the backward pass is done."""
    step = TrainingStep("mine", (1024, 1024), 512)
    base = compute_seconds(step, H100, alone=True)
    found = {(each.kind, each.work.ranks, each.link and each.link.name): each for each in modelled(step, [4], H100)}
    ring = 1.5 * 4 * (1024 * 1024 + 1024) / 450e9 + 6 * 3.4e-6 + NCCL_BASE
    strong, weak = found["strong", 4, "NVLink 4"], found["weak", 4, "NVLink 4"]
    assert strong.all_reduce == weak.all_reduce == pytest.approx(ring, rel=1e-12)
    assert strong.compute == compute_seconds(replace(step, rows=128), H100, alone=False)
    assert weak.compute == compute_seconds(step, H100, alone=False)
    assert strong.seconds == strong.compute + ring
    assert strong.speed_up == pytest.approx(base / strong.seconds)
    assert weak.speed_up == pytest.approx(4 * base / weak.seconds)
    assert weak.efficiency == pytest.approx(base / weak.seconds)
    assert (strong.work.step.rows, weak.work.step.rows) == (512, 2048)


def test_the_rank_with_the_most_rows_counts():
    step = replace(STEPS["large"], rows=9)
    two = next(each for each in modelled(step, [2], H100) if each.work.ranks == 2)
    assert two.work.share.rows == 5


def test_a_link_joins_no_more_gpus_than_its_board_holds():
    names = {(each.work.ranks, each.link and each.link.name) for each in modelled(STEPS["large"], [8, 16], H100)}
    assert (8, "NVLink 4") in names
    assert (16, "NVLink 4") not in names
    assert (16, "InfiniBand NDR") in names


@pytest.mark.parametrize("gpu", chips.known().values(), ids=lambda gpu: gpu.key)
def test_no_chip_is_faster_than_its_roofline(gpu):
    for name, step in STEPS.items():
        least = sum(cost.least_seconds(gpu.roofline(cost.rate)) for cost in step.costs)
        found = compute_seconds(step, gpu, alone=True)
        assert least <= found
        assert found < 2 * least or name not in ("large", "huge")


def test_a_large_product_takes_what_the_profile_says():
    """`gpubp profile dense_forward --shape 4096x4096x4096` says at most 90 % of the peak rate."""
    step = TrainingStep("mine", (4096, 4096), 4096)
    (name, shape), cost = step.primitives()[0], step.costs[0]
    found = step_model._seconds(step_model.Workload(name, shape, "float32"), cost, H100)
    assert cost.flops / found / H100.rates["float32"] == pytest.approx(0.9, abs=0.04)


def test_several_gpus_do_not_fold_the_update():
    step = STEPS["large"]
    assert {name for name, _ in step.primitives()} >= {"weight_step"}
    assert "weight_step" not in {name for name, _ in step.primitives(alone=False)}
    parameters = sum(n * (m + 1) for m, n in itertools.pairwise(step.sizes))
    assert dict(step.primitives(alone=False))["update"] == (parameters,)


# --- shown ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", ["60", "80", "120"])
def test_it_is_said_to_be_a_model(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    out = profile("--network", "huge", "--ranks", "2", "--chip", "A100").stdout
    assert "A model, not a measurement" in out
    assert out.count("modelled step of huge") == 2
    for words in ("NVLink 3", "PCIe 4.0 x16", "300 GB/s", "speed-up"):
        assert words in out
    assert json.loads(profile("--json").stdout)["note"].startswith("A model, not a measurement")


def test_json_holds_what_is_shown():
    values = json.loads(
        profile("--network", "wide", "--ranks", "4", "--ranks", "2", "--dtype", "bf16", "--json").stdout
    )
    found = modelled(replace(STEPS["wide"], dtype="bfloat16"), [2, 4], H100)
    assert values["steps"] == [each.to_dict() for each in found]
    assert [each["gpus"] for each in values["steps"]] == [1, 2, 2, 2, 4, 4, 4] * 2
    assert all(each["link"] is None or each["link"]["source"] for each in values["steps"])


@pytest.mark.parametrize(("network", "gpus"), [("large@1", {1}), ("large@5", {1, 2, 4}), ("large@8", {1, 2, 4, 8})])
def test_no_more_gpus_than_rows_unless_they_are_asked_for(network, gpus):
    values = json.loads(profile("--network", network, "--json").stdout)
    assert {each["gpus"] for each in values["steps"]} == gpus


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ranks", "0"), "--ranks was 0; it must be a whole number ≥ 1"),
        (("--ranks", "600"), "--ranks was 600; it must be ≤ 512, the rows of large's batch"),
        (("--network", "hug"), "--network was 'hug'; .*did you mean 'huge'?"),
        (("--chip", "T4", "--dtype", "bf16"), "--dtype was 'bfloat16'; it must be float32 or float64 on Tesla T4"),
        (("--chip", "T4", "--dtype", "fp16"), "--dtype was 'float16'; it must be float32 or float64 on Tesla T4"),
        (("--shape", "4x4x4"), "--shape was given; it must be left out of the model of a step"),
        (("--compare",), "--compare was given; it must be left out"),
        (("--html", "x.html"), "--html was given; it must be left out"),
    ],
)
def test_what_a_model_cannot_be_asked(words, message):
    result = profile(*words, code=2)
    assert result.stdout == ""
    assert re.search(message, result.stderr)


def test_a_primitive_is_not_shared():
    result = CliRunner().invoke(app, ["profile", "update", "--ranks", "2"])
    assert result.exit_code == 2
    assert "--ranks was given; it must be left out, or given with step" in result.stderr


def test_a_chip_without_links_is_told(tmp_path):
    text = chips.TABLE.read_text()
    start = text.index("[T4]")
    lines = [line for line in text[start : text.index("\n#", start)].splitlines() if not line.startswith("links")]
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    result = profile("--chip", str(tmp_path / "mine.toml"), code=2)
    assert "--chip T4 names no links to other chips; it must name some" in result.stderr
