"""Is agreement with people who read the same cases what Cohen's table says, and kept inside?"""

from __future__ import annotations

import numpy as np
import pytest

from primum.domain.canonical import digest_of_bytes
from primum_pipelines.evaluation import predictions, readers, report
from primum_pipelines.evaluation.figures import Scored

FIRST = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
SECOND = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])


def scored(said, labels=None):
    probabilities = np.where(said[:, None] == np.arange(2), 0.8, 0.2)
    units = np.array([f"u{n}" for n in range(len(said))])
    return Scored(said if labels is None else labels, probabilities, 1, units)


def test_kappa_of_cohens_own_table_with_its_interval():
    """Observed 0.7, expected 0.5, kappa 0.4; the large-sample half width is 0.25."""
    found = readers.agreement(scored(FIRST), {"ada": SECOND})["model"]["ada"]
    assert found["rows"] == 50
    kappa = {name: float(value) for name, value in found["kappa"].items()}
    assert kappa["estimate"] == pytest.approx(0.4)
    assert kappa["lower"] < 0.25
    assert kappa["upper"] > 0.55


def test_rows_that_nobody_read_do_not_count_and_few_are_masked():
    partly = SECOND.copy()
    partly[:10] = -1
    hardly = np.full(50, -1)
    hardly[:29] = 0
    found = readers.agreement(scored(FIRST), {"ada": partly, "ben": hardly})
    assert found["model"]["ada"]["rows"] == 40
    assert found["model"]["ben"] == {"masked": "fewer than 30"}
    assert found["between"] == {"ada/ben": {"masked": "fewer than 30"}}


def test_thirty_slices_of_one_patient_are_masked():
    """Twenty-five patients with two rows each: fifty rows, but too few people."""
    said = scored(FIRST)
    owners = np.repeat([f"u{n}" for n in range(25)], 2)
    of_few = Scored(said.labels, said.probabilities, 1, owners)
    found = readers.agreement(of_few, {"ada": SECOND})
    assert found["model"]["ada"] == {"masked": "fewer than 30"}


def test_two_images_of_a_patient_are_not_two_patients():
    """Doubling every row under its own unit leaves the interval as wide as it was."""
    twice = scored(np.repeat(FIRST, 2))
    owners = np.repeat([f"u{n}" for n in range(50)], 2)
    paired = Scored(twice.labels, twice.probabilities, 1, owners)
    both = np.repeat(SECOND, 2)
    width = {
        name: float(found["kappa"]["upper"]) - float(found["kappa"]["lower"])
        for name, found in {
            "once": readers.agreement(scored(FIRST), {"a": SECOND})["model"]["a"],
            "paired": readers.agreement(paired, {"a": both})["model"]["a"],
            "alone": readers.agreement(twice, {"a": both})["model"]["a"],
        }.items()
    }
    assert width["paired"] == pytest.approx(width["once"], rel=0.1)
    assert width["alone"] < 0.85 * width["once"]


def test_studies_are_compared_by_how_they_agree_with_each_reader(tmp_path):
    stored = {}
    for name, rows in {"good": scored(SECOND, FIRST), "plain": scored(FIRST, FIRST)}.items():
        path = tmp_path / f"{name}.npz"
        said = predictions.of(rows, dataset="a", readers={"ada": SECOND})
        path.write_bytes(predictions.to_bytes(said))
        stored[name] = {"uri": path.as_uri(), "digest": digest_of_bytes(path.read_bytes())}
    (found,) = report.tests(stored, against="plain")
    pair = found["readers"]["ada"]
    assert float(pair["this"]["kappa"]["estimate"]) == pytest.approx(1)
    assert float(pair["other"]["kappa"]["estimate"]) == pytest.approx(0.4)


def test_predictions_without_readers_are_read_as_before():
    kept = predictions.from_bytes(predictions.to_bytes(predictions.of(scored(FIRST), dataset="a")))
    assert kept.readers == {}
