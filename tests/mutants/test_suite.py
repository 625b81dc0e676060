"""The cases that a mutant is tried on: of many, those in which everything occurs that tells them apart."""

from dataclasses import fields, replace

import pytest
from suite import ENOUGH_CASES, cost, various

from gpubp.crosscheck.cases import PRODUCTS, Case, covering_cases


@pytest.mark.parametrize("primitive", ["prepare_update", "update", "output_delta", "cast"])
def test_every_value_occurs_in_the_cases_of_an_instance(primitive):
    """Whatever sizes a kernel is given: cases that differ in these alone do not crowd out a mode."""
    of_all = covering_cases(primitive, (), stores_halves=True)
    for sizes in ({case: (number,) for number, case in enumerate(of_all)}, dict.fromkeys(of_all, (1,))):
        chosen = various(sizes)
        assert len(chosen) == len(set(chosen)) < len(of_all)
        for each in fields(Case):
            values = {getattr(case, each.name) for case in of_all}
            assert {getattr(case, each.name) for case in chosen} == values, each.name


def test_a_mode_of_each_primitive_occurs():
    """Primitives that launch the same kernel may call what they ask by the same name."""
    alike = [Case("prepare_update", "-", "float16", (1,), mode="grown", scale=scale) for scale in (1.0, 1e-4)]
    of_all = [replace(each, offset=offset, seed=seed) for each in alike for offset in (0, 1) for seed in range(8)]
    of_all += [Case("update", "-", "float16", (5,), mode=mode) for mode in ("late", "grown")]
    assert len(of_all) > ENOUGH_CASES
    chosen = various({case: (number,) for number, case in enumerate(of_all)})
    assert {(case.primitive, case.mode) for case in chosen} == {(case.primitive, case.mode) for case in of_all}


def test_enough_cases_are_the_cheapest_of_each_size_and_kind():
    of_all = covering_cases(PRODUCTS[0], ("naive",))
    sizes = {case: case.shape for case in of_all}
    chosen = various(sizes)
    assert ENOUGH_CASES <= len(chosen) < 2 * ENOUGH_CASES < len(of_all)
    assert [cost(case) for case in chosen] == sorted(map(cost, chosen))
    assert set(sizes.values()) == {sizes[case] for case in chosen}
    few = of_all[: ENOUGH_CASES - 1]
    assert sorted(few, key=cost) == various({case: case.shape for case in few})
