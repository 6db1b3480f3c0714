"""Is what is said of a quote in words that people use?"""

from __future__ import annotations

import pytest

from primum.entrypoints.cli.quoting import how_often


@pytest.mark.parametrize(
    ("times", "refusal", "said"),
    [
        (0, "too little left", "No"),
        (3, "a quota is used up", "Not now"),
        (1, "", "once"),
        (4, "", "4 times"),
        (1000, "", "at least 1000 times"),
    ],
)
def test_how_often_a_study_fits(times, refusal, said):
    assert how_often(times, refusal) == said
