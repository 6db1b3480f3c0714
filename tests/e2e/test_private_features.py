"""Private features as a person has them: the table is released once, and read for free."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import numpy as np
import pytest
from command_line import EXAMPLES
from places import Place, cleared, free_port

from primum_pipelines.synthesis import archive

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

FOLDER = EXAMPLES / "private-features"
TABLE, MODEL = "oncology/biopsy-features", "oncology/biopsy-model"
TAUGHT = """
apiVersion: primum.dev/v1alpha1
kind: Study
metadata: {name: void-teacher, namespace: oncology}
spec:
  purpose: Learn an extractor from what nobody was charged for
  data:
    - {role: Private, budget: wisconsin}
    - {role: Synthetic, release: void-biopsies}
  privacy: {epsilon: "0.5", delta: "1e-5"}
  job:
    kind: PrivateFeatures
    privateFeatures: {model: MLP, epochs: 2}
  audits: [{kind: Membership, attack: SampleDistance}]
  policy: clinical-default
  release: {dataset: taught}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    ports = {"PRIMUM_API_PORT": str(free_port()), "PRIMUM_SERVING_PORT": str(free_port())}
    with cleared(Place(folder / ".primum", folder / "unused.yaml", ports)) as found:
        yield found


def spent(place):
    """Epsilon that all Studies of the account have spent, as the ledger says it."""
    (account,) = place.stores().ledger.accounts()
    return Decimal(account.epsilon_spent)


def test_the_table_is_released_once_and_read_as_often_as_anybody_likes(place):
    done = place.run("apply", "-f", FOLDER / "budget.yaml", "-f", FOLDER / "study.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PrivateFeatures (experimental) of MLP, 463 rows" in done.stdout
    assert "463 noisy rows released" in done.stdout
    assert "mechanism self test, one run canary" in done.stdout
    cost = spent(place)
    assert 0 < cost <= 8
    where = re.search(r"^Dataset +(\S+)", done.stdout, re.MULTILINE).group(1)
    (file,) = [item for item in _files(place, where) if item.suffix == ".npz"]
    table = archive.from_bytes(file.read_bytes())
    assert table.features.shape == (463, 32)
    assert np.isfinite(table.features).all()

    certificate = place.home / "certificates" / "biopsy-features-1.json"
    assert place.run("certificate", "verify", certificate).returncode == 0
    told = place.run("describe", "study", "biopsy-features").stdout
    assert "experimental" in told

    read = place.run("apply", "-f", FOLDER / "model.yaml")
    assert read.returncode == 0, read.stdout + read.stderr
    assert "on public and released data alone, no charge" in read.stdout
    assert spent(place) == cost


def _files(place, where):
    from pathlib import Path

    found = Path(where)
    return [item for item in found.rglob("*") if item.is_file()] if found.is_dir() else [found]


def test_an_extractor_that_would_learn_from_a_void_release_is_refused_at_plan(place):
    """The release is published under a policy that says what it is; here it may go no further."""
    laundered = (EXAMPLES / "breast-cancer" / "laundered.yaml").read_text().split("---")
    void = place.home.parent / "void.yaml"
    void.write_text("---".join(laundered[:2]))
    done = place.run("apply", "-f", void)
    assert done.returncode == 0, done.stdout + done.stderr
    before = spent(place)
    asked = place.home.parent / "taught.yaml"
    asked.write_text(TAUGHT)
    refused = place.run("apply", "-f", asked)
    assert refused.returncode != 0
    assert "must have a claim that covers what it was made from" in refused.stdout
    assert "generator trained on wisconsin without a charge" in refused.stdout
    assert spent(place) == before


def test_the_wire_form_of_the_plan_is_what_was_charged(place):
    stored = place.run("get", "study", "biopsy-features", "-o", "json")
    assert stored.returncode == 0, stored.stderr
    status = json.dumps(json.loads(stored.stdout))
    assert "noisy rows released" in status
