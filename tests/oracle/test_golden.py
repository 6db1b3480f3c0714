"""Every golden value of the theory reference, within its own tolerance.

The file travels with the shared assets, not with the repository: set PRIMUM_TEST_ASSETS to their
folder.
"""

from __future__ import annotations

import json
import os
import pathlib

import pytest

from primum.domain.risk import catalogue

ASSETS = os.environ.get("PRIMUM_TEST_ASSETS", "")
GOLDEN = pathlib.Path(ASSETS) / "golden" / "theory.json" if ASSETS else None


def load_cases():
    if GOLDEN is None or not GOLDEN.is_file():
        return []
    return json.loads(GOLDEN.read_text())["cases"]


CASES = load_cases()
SLOW = ("calibrate.", "idp.", "group.poisson_composed")  # Many or large loss distributions.
pytestmark = pytest.mark.skipif(
    not CASES, reason="PRIMUM_TEST_ASSETS does not name a folder with golden/theory.json"
)


def agrees(found, expected, case):  # noqa: PLR0911
    """The comparison that the golden file states."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(agrees(found[key], expected[key], case) for key in expected)
        )
    if isinstance(expected, list):
        return len(found) == len(expected) and all(
            agrees(a, b, case) for a, b in zip(found, expected, strict=True)
        )
    if not isinstance(expected, float):
        if isinstance(expected, int) and isinstance(found, float):
            return found == expected
        return found == expected
    if not isinstance(found, int | float):
        return False
    if abs(found - expected) <= case.get("abs_tol", 0.0):
        return True
    if "accept_up_to_factor" in case:
        low = expected * (1 - case.get("max_relative_undershoot", case["rel_tol"]))
        return low <= found <= expected * case["accept_up_to_factor"]
    return abs(found - expected) <= case["rel_tol"] * abs(expected)


def as_parameter(case):
    marks = [pytest.mark.slow] if case["quantity"].startswith(SLOW) else []
    return pytest.param(case, id=case["id"], marks=marks)


@pytest.mark.parametrize("case", [as_parameter(case) for case in CASES])
def test_golden_value(case):
    found = catalogue.evaluate(case["quantity"], case["inputs"])
    assert agrees(found, case["expected"], case), (found, case["expected"])


def test_every_quantity_of_the_file_is_in_the_catalogue_and_none_else():
    assert {case["quantity"] for case in CASES} == set(catalogue.quantities())
