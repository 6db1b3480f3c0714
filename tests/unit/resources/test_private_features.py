"""The block `privateFeatures` as a person writes it, and what a job kind reads of it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from primum.resources.jobs import Job


def job(**block):
    return {"kind": "PrivateFeatures", "privateFeatures": {"model": "MLP", **block}}


def test_the_kind_reads_camel_case_with_defaults():
    given = Job.model_validate(job(modelParameters={"hidden": "8"}, rows=500)).block()
    assert given == {
        "model": "MLP",
        "modelParameters": {"hidden": "8"},
        "clip": "1",
        "labelShare": "0.5",
        "rows": 500,
    }


@pytest.mark.parametrize(
    "block",
    [
        {"clip": "0"},
        {"clip": 1.0},
        {"labelShare": "1"},
        {"rows": 0},
        {"epochs": 0},
        {"noiseMultiplier": "-1"},
        {"sampleRate": "0.1"},
        {"model": ""},
    ],
    ids=str,
)
def test_what_breaks_a_rule_is_refused(block):
    with pytest.raises(ValidationError):
        Job.model_validate(job(**block))


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "PrivateFeatures"},
        {"kind": "PrivateFeatures", "synthesize": {"samples": 3}},
        {"kind": "Synthesize", "privateFeatures": {"model": "MLP"}},
        {"kind": "PrivateFeatures", "parameters": {"model": "MLP"}},
    ],
    ids=str,
)
def test_the_block_is_that_of_the_kind(given):
    with pytest.raises(ValidationError):
        Job.model_validate(given)
