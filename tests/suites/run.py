"""Runs other projects' own tests on the virtual device: `python tests/suites/run.py numba-cuda`.

Prints passed, failed by reason, and what was left out, with why. The exit code is 1 if fewer passed than the bar asks.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from runners import FAILED, PASSED, REFUSED, SKIPPED

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "suites"
PIP = (sys.executable, "-m", "pip")


@dataclass(frozen=True)
class Suite:
    """A project's tests.

    Attributes:
        kind: "unittest" or "pytest".
        modules: their names or files.
        excluded: modules that are left out, with the reason.
        tests: patterns of single tests that are left out, with the reason.
        bar: the least share of tests that pass, of those that ran.
        folder: where they run.
        most: tests of a module, evenly chosen.
        environment: variables that are set.
    """

    kind: str
    modules: Sequence[str]
    excluded: dict[str, str]
    tests: dict[str, str]
    bar: float
    folder: Path | None = None
    most: int = 100_000
    environment: dict[str, str] = field(default_factory=dict)


COLUMNS = (PASSED, FAILED, REFUSED, SKIPPED)


@dataclass
class Outcome:
    """What a module's tests did; `note` if it did not come to its end."""

    module: str
    lines: list[dict[str, str]] = field(default_factory=list)
    note: str = ""

    def __str__(self) -> str:
        count = Counter(line["outcome"] for line in self.lines)
        note = f" ({self.note})" if self.note else ""
        return "".join(f"{count[each]:7,} " for each in COLUMNS) + f" {self.module}{note}"


NEEDED = ("filecheck==1.0.6", "cffi==2.1.1")
"""What numba-cuda's tests need beside numba-cuda."""


def numba_cuda() -> Suite:
    """Return numba-cuda's tests, which its wheel has."""
    spec = importlib.util.find_spec("numba_cuda")
    if spec is None or spec.origin is None:
        raise SystemExit("numba-cuda is not installed")
    folder = Path(spec.origin).parent / "numba" / "cuda" / "tests"
    files = sorted(folder.rglob("test_*.py"))
    modules = ["numba.cuda.tests." + ".".join(path.relative_to(folder).with_suffix("").parts) for path in files]
    prefix = "numba.cuda.tests."
    excluded = {
        "cudapy.test_ipc": "memory that processes share",
        "cudapy.test_multigpu": "several GPUs",
        "cudasim.test_cudasim_issues": "tests of Numba's own simulator",
        "cudapy.test_matmul": "tests of Numba's own simulator",
        "doc_examples.test_matmul": "has no test that unittest finds",
        "benchmarks.test_kernel_launch": "a benchmark",
    }
    tests = {
        "test_struct_model_type_arr": "writes ten numbers to arrays of one, which the emulator reports",
        "test_fork": "a GPU's driver refuses processes that were forked; the virtual device serves them",
    }
    packages = CACHE / "packages"
    if not all((packages / need.partition("==")[0]).exists() for need in NEEDED):
        subprocess.run([*PIP, "install", "-q", "--upgrade", "--target", str(packages), *NEEDED], check=True)
    return Suite(
        "unittest",
        modules,
        {prefix + name: why for name, why in excluded.items()},
        tests,
        0.90,
        environment={"PYTHONPATH": str(packages)},
    )


CUPY = "14.2.0"
CUPY_FILES = [
    "core_tests/test_carray.py",
    "core_tests/test_core.py",
    "core_tests/test_dlpack.py",
    "core_tests/test_elementwise.py",
    "core_tests/test_flags.py",
    "core_tests/test_function.py",
    "core_tests/test_gufuncs.py",
    "core_tests/test_include.py",
    "core_tests/test_internal.py",
    "core_tests/test_iter.py",
    "core_tests/test_ndarray.py",
    "core_tests/test_ndarray_adv_indexing.py",
    "core_tests/test_ndarray_complex_ops.py",
    "core_tests/test_ndarray_contiguity.py",
    "core_tests/test_ndarray_conversion.py",
    "core_tests/test_ndarray_copy_and_view.py",
    "core_tests/test_ndarray_cuda_array_interface.py",
    "core_tests/test_ndarray_elementwise_op.py",
    "core_tests/test_ndarray_get.py",
    "core_tests/test_ndarray_indexing.py",
    "core_tests/test_ndarray_math.py",
    "core_tests/test_ndarray_reduction.py",
    "core_tests/test_ndarray_scatter.py",
    "core_tests/test_ndarray_ufunc.py",
    "core_tests/test_ndarray_unary_op.py",
    "core_tests/test_raw.py",
    "core_tests/test_reduction.py",
    "core_tests/test_scan.py",
    "core_tests/test_ufunc_methods.py",
    "core_tests/test_userkernel.py",
    "core_tests/fusion_tests/test_ufunc.py",
    "creation_tests/test_basic.py",
    "creation_tests/test_from_data.py",
    "creation_tests/test_matrix.py",
    "creation_tests/test_ranges.py",
    "indexing_tests/test_generate.py",
    "indexing_tests/test_indexing.py",
    "indexing_tests/test_insert.py",
    "indexing_tests/test_iterate.py",
    "logic_tests/test_comparison.py",
    "logic_tests/test_ops.py",
    "logic_tests/test_truth.py",
    "math_tests/test_arithmetic.py",
    "math_tests/test_explog.py",
    "math_tests/test_floating.py",
    "math_tests/test_hyperbolic.py",
    "math_tests/test_misc.py",
    "math_tests/test_rounding.py",
    "math_tests/test_sumprod.py",
    "math_tests/test_trigonometric.py",
    "binary_tests/test_elementwise.py",
    "cuda_tests/test_graph.py",
    "cuda_tests/test_stream.py",
]
"""Creation, indexing, ufuncs, elementwise kernels, reductions, raw kernels and modules, streams and graphs."""


def cupy() -> Suite:
    """Return CuPy's tests, which are in its source package: that is fetched and unpacked, and not built."""
    tests = CACHE / f"cupy-{CUPY}" / "tests"
    if not tests.exists():
        options = ["-q", "--no-deps", "--no-build-isolation", "--no-binary", "cupy", "-d", str(CACHE)]
        # What pip asks the package for its metadata must not look for a CUDA toolkit.
        environment = {**os.environ, "CUPY_INSTALL_USE_STUB": "1"}
        subprocess.run([*PIP, "download", *options, f"cupy=={CUPY}"], check=True, env=environment)
        with tarfile.open(CACHE / f"cupy-{CUPY}.tar.gz") as archive:
            archive.extractall(CACHE, filter="data")
    files = [f"cupy_tests/{file}" for file in CUPY_FILES]
    tests_left_out = {"test_nvcc": "calls nvcc"}
    return Suite("pytest", files, {}, tests_left_out, 0.85, tests, most=150, environment={"CUPY_TEST_GPU_LIMIT": "1"})


SUITES = {"numba-cuda": numba_cuda, "cupy": cupy}


def run(suite: Suite, module: str, folder: Path, timeout: float) -> Outcome:
    """Run a module's tests in a process of its own."""
    output = folder / f"{re.sub(r'[^A-Za-z0-9]', '_', module)}.jsonl"
    runner = [str(HERE / "runners.py"), str(output), str(suite.most), suite.kind, module]
    command = [sys.executable, "-m", "gpubp.emulator", *runner]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **suite.environment}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, (suite.environment.get("PYTHONPATH"), os.environ.get("PYTHONPATH")))
    )
    with (folder / f"{output.stem}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=suite.folder or folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            process.wait(timeout)
            note = f"died by signal {-process.returncode}" if process.returncode < 0 else ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            note = f"was ended after {timeout:.0f} s"
    lines = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    note = note or ("" if lines else "ran no test")
    if note:
        lines.append({"test": module, "outcome": FAILED, "reason": f"the module {note}"})
    done = Outcome(module, lines, note)
    print(done, flush=True)
    return done


_CHANGING = re.compile(r"0x[0-9a-f]+|\b\d[\d,.]*\b|'[^']*'|`[^`]*`|\"[^\"]*\"")


def reason_of(text: str) -> str:
    """Return a reason without what differs from test to test."""
    return _CHANGING.sub("…", text)[:110] or "no message"


def report(suite: Suite, outcomes: Sequence[Outcome]) -> bool:
    """Print what the outcomes are; returns whether enough tests passed."""
    lines = [line for outcome in outcomes for line in outcome.lines]
    counted = [line for line in lines if not any(re.search(pattern, line["test"]) for pattern in suite.tests)]
    count = Counter(line["outcome"] for line in counted)
    tried = count[PASSED] + count[FAILED]
    for title, wanted in (("Failed", FAILED), ("Refused", REFUSED), ("Skipped", SKIPPED)):
        reasons = Counter(reason_of(line["reason"]) for line in counted if line["outcome"] == wanted)
        print(f"\n{title}, by reason:")
        for reason, times in reasons.most_common():
            print(f"{times:7,}  {reason}")
    print("\nFailed tests:")
    for line in counted:
        if line["outcome"] == FAILED:
            print(f"  {line['test']}: {line['reason'][:300]}")
    print("\nLeft out:")
    for name, why in (suite.excluded | suite.tests).items():
        print(f"  {name}: {why}")
    share = count[PASSED] / tried if tried else 0.0
    rest = f"{count[REFUSED]:,} refused, {count[SKIPPED]:,} skipped"
    print(f"\n{count[PASSED]:,} of {tried:,} passed ({share:.1%}; the bar is {suite.bar:.0%}); {rest}")
    return share >= suite.bar


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", choices=list(SUITES))
    parser.add_argument("--jobs", default="auto", help="processes at once; auto: one for each core")
    parser.add_argument("--most", type=int, default=0, help="tests of a module, evenly chosen")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for a module")
    parser.add_argument("--modules", default="", help="a pattern of modules to run; all by default")
    given = parser.parse_args()
    suite = SUITES[given.suite]()
    if given.most:
        suite = replace(suite, most=given.most)
    jobs = (os.cpu_count() or 1) if given.jobs == "auto" else int(given.jobs)
    chosen = [each for each in suite.modules if each not in suite.excluded and re.search(given.modules, each)]
    print("".join(f"{each:>7} " for each in COLUMNS) + " module", flush=True)
    with tempfile.TemporaryDirectory(prefix="gpubp-suites-") as folder, ThreadPoolExecutor(jobs) as pool:
        outcomes = list(pool.map(lambda module: run(suite, module, Path(folder), given.timeout), chosen))
    sys.exit(0 if report(suite, outcomes) else 1)


if __name__ == "__main__":
    main()
