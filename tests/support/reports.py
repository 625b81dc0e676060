"""Results of parts of a report that nobody ran."""

import json

from gpubp.bench.results import BenchResult, Record
from gpubp.bench.works import STEPS, Limit, Primitive
from gpubp.chips import Roofline
from gpubp.report.results import PartResult, Report

MADE = "2026-01-02T03:04:05+00:00"
GPU = "NVIDIA H100 80GB HBM3"


def info(*gpus, works=(("cupy", "emulator"), ("numba", "emulator")), **values):
    """What `gpubp info` says of a machine with these GPUs, on which these backends run on these devices."""
    pairs = [(backend, device) for backend in ("cupy", "numba") for device in ("gpu", "emulator", "virtual")]
    backends = [
        {"backend": backend, "device": device, "works": there, "detail": "found" if there else f"no {device}",
         "remedy": "" if there else "get one"}
        for backend, device in pairs for there in [(backend, device) in works]
    ]  # fmt: skip
    return {
        "python": "3.12.1", "system": "Linux", "processor": "A <processor>", "cores": 8, "memory": 2**34,
        "driver": "13.0" if gpus else "", "gpus": list(gpus), "gpu_fault": "" if gpus else "no NVIDIA driver",
        "packages": {"gpubp": "0.1.0"}, "backends": backends, "automatic": "numpy on cpu", **values,
    }  # fmt: skip


def check(backend="cupy", device="emulator", share=0.5, failures=(), left=0):
    """A check of two cases, and of one for each of the failures: complaint and share."""
    rows = [("hidden_delta", "tiled", "float32", 2, 0, share)]
    if failures:
        worst = max((share or 9e9 for _, share in failures), default=0)
        rows.append(("update", "-", "float64", len(failures), len(failures), worst))
    names = ("primitive", "variant", "dtype", "cases", "failed", "share")
    cases = 2 + len(failures)
    return {
        "backend": backend, "device": device, "cases": cases, "chosen": cases + left, "failed": len(failures),
        "rows": [dict(zip(names, row, strict=True)) | {"worst": "a case"} for row in rows],
        "failures": [
            {"case": f"case {number}", "complaint": complaint, "command": f"gpubp check {number}", "share": share}
            for number, (complaint, share) in enumerate(failures)
        ],
    }  # fmt: skip


def train(backend="cupy", device="emulator", loss=0.25, rate=None):
    """A training whose loss on numpy is 0.25."""
    return {
        "backend": backend, "device": device, "data": "digits", "layers": "16", "epochs": 2, "loss": loss,
        "reference_loss": 0.25, "accuracy": 0.9, "matches": loss == 0.25, "examples_per_second": rate,
    }  # fmt: skip


def measured(*records, gpus=(), absent=()):
    """What a bench measured, as its file says it."""
    return BenchResult(
        made=MADE, machine=info(*gpus), threads=2, repeats=3, seconds=0.1, records=records, absent=dict(absent),
        limits={"cpu": {"float32": Roofline(1e11, 1e10)}},
    )  # fmt: skip


STEP = STEPS["tiny"]
PRODUCT = Primitive("hidden_delta", (64, 64, 64))
ON_CPU = (
    Record(PRODUCT, "numpy", (1e-5, 2e-5, 3e-5)),
    Record(STEP, "numpy", (1e-5, 2e-5, 3e-5)),
    Record(STEP, "sklearn", (4e-5, 5e-5)),
    Record(Limit("copy", 64), "limit-cpu", (1e-6,)),
)


def bench(result=None, rehearsed=()):
    """The result of a part of the bench. rehearsed: pairs of contender and fault."""
    return {
        "measured": None if result is None else json.loads(result.to_json()),
        "rehearsed": [
            {"work": PRODUCT.title, "contender": contender, "device": "virtual", "fault": fault}
            for contender, fault in rehearsed
        ],
    }


def profile():
    """A profile of one kernel."""
    return {
        "model": "A model, not a measurement.", "chip": "H100 SXM",
        "rooflines": {"float32": {"flops_per_second": 1e13, "bytes_per_second": 1e12}},
        "profiles": [
            {
                "title": "hidden_delta", "shape": [64, 64, 64], "kernels_of": "cupy tiled", "rate": "float32",
                "intensity": 5.0, "flops_per_second": 4e12, "peak_share": 0.4, "limiter": "Limited by memory.",
                "counted": "Counted at 64.", "kernels": [{"name": "hidden_delta", "figures": {"spills": "none"}}],
            }
        ],
    }  # fmt: skip


def part(result, device="emulator", status="done", **values):
    """A part that found this."""
    given = {"seconds": 12.25, "limit_seconds": 60.0} | values
    return PartResult(status, device, MADE, result=result, **given)


def report(*, machine=None, device="emulator", **parts):
    """A report of these parts; an underscore in a name stands for a hyphen."""
    found = Report(MADE, "gpubp report --out report.html", {"device": device, "commit": "0123456789abcdef"})
    for name, each in {"info": part(machine or info(), ""), **parts}.items():
        found = found.with_part(name.replace("_", "-"), each, MADE)
    return found


def usual():
    """A report of a machine without a GPU, with all parts."""
    return report(
        check_cupy=part(check()),
        check_numba=part(check("numba")),
        train_cupy=part(train()),
        train_numba=part(train("numba")),
        bench_steps=part(bench(measured(*ON_CPU[1:]), [("cupy-on-virtual", "")])),
        bench_primitives=part(bench(measured(ON_CPU[0], ON_CPU[3]))),
        bench_rungs=part(bench()),
        profile=part(profile()),
    )
