"""What the compiler makes of every plan: the table that `gpubp.backends.plan_model` goes by.

    make profiles          writes gpubp/backends/compiled_plans.json anew

Registers of a thread, and of the main loop all instructions and those that multiply, for each form of product. They are
those of the first half of a split product, which has the plainest epilogue; by stream-K, which does not split, those of
a whole product that users run.
"""

from __future__ import annotations

import json
import sys

from gpubp.backends import instances, plan_model
from gpubp.backends.plans import FORMS, Plan, streamed_for, tiles_for
from gpubp.dtypes import ARITHMETIC, PLAIN
from gpubp.profiler import machine_code
from gpubp.toolchain import process
from gpubp.toolchain.nvrtc import compile_file

ARCH = "sm_90"
WHOLE = {"NT": ("dense_forward", "ReLU"), "NN": ("transpose_product",), "TN": ("weight_gradient",)}
"""The kernel that a plan of stream-K is measured in, with its epilogue, by the form of product."""


def all_plans() -> list[Plan]:
    """Return all plans that `plan_model.choose` chooses from, for all alignments of rows; float16 has bfloat16's."""
    kinds = [(dtype, "pipelined") for dtype in PLAIN]
    kinds += [(dtype, "tensorcore") for dtype in ("tf32", "bfloat16", "float64")]
    tables = (tiles_for, streamed_for)
    found = (table(*kind, alignment) for kind in kinds for table in tables for alignment in (16, 8, 4, 2))
    return list(dict.fromkeys(plan for tiles in found for plan in tiles))


def measured(plan: Plan, form: str) -> list[int]:
    """Return the table's entry of a plan and a form, from the compiler.

    Raises:
        ValueError: the kernel spills registers, or has no main loop.
    """
    kernel, *middle = WHOLE[form] if plan.stream_k else ("partial_product", form)
    entry = instances.cuda_entry(kernel, (ARITHMETIC[plan.dtype].storage, *middle, plan))
    compiled = compile_file(instances.KERNEL_DIRECTORY / entry.source, ARCH, name_expressions=[entry.expression])
    symbol = compiled.lowered_names[entry.expression]
    used, code = compiled.resources[symbol], machine_code.read(compiled.cubin, symbol)
    multiplies = code.main_loop.get("tensor" if plan.variant == "tensorcore" else "FMA", 0)
    if used.spills or not multiplies:
        raise ValueError(f"{entry.expression} spills registers, or has no main loop")
    return [used.registers, code.loop_instructions, multiplies]


def main() -> None:
    """Rewrite the table."""
    if not process.reproducible():
        sys.exit("the same source may give other code here: this system does not let a process fix its addresses")
    found = {}
    for plan in all_plans():
        found[plan_model.key(plan)] = {form: measured(plan, form) for form in FORMS}
        print(plan_model.key(plan), found[plan_model.key(plan)], flush=True)
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in found.items())
    text = f'{{\n"arch": "{ARCH}",\n"plans": {{\n{lines}\n}}\n}}\n'
    plan_model.TABLE.write_text(text, encoding="utf-8")
    print(f"{len(found)} plans in {plan_model.TABLE}")


if __name__ == "__main__":
    sys.exit(main())
