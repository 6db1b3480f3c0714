"""Are samples of a generator that we have never heard of attacked like ours?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("opacus")

from primum.domain.errors import InvalidValue
from primum.domain.governance.evidence import evidence_from_json
from primum.domain.study.spec import AuditSpec
from primum_pipelines import artifacts
from primum_pipelines.audits.parameters import require_asked
from primum_pipelines.audits.subject import subject_of
from primum_pipelines.audits.synthetic import DOMIAS
from primum_pipelines.steps.audit import run
from primum_pipelines.synthesis import archive

KIND = "Forest"  # Of a plug-in.
SEEING = ("DOMIAS", "SampleDistance")
ASKED = [
    *({"kind": "Membership", "attack": name, "parameters": {}} for name in SEEING),
    {"kind": "Reconstruction", "attack": "Copies", "parameters": {}},
    {"kind": "Membership", "attack": "GeneratorLoss", "parameters": {}},
    {"kind": "Membership", "attack": "LiRA", "parameters": {}},
]


@pytest.fixture(scope="module")
def copycat(trained):
    """A plug-in's kind released training records with a little noise, and a generator."""
    request = trained(audits=[AuditSpec("Membership", "LiRA", {"shadows": 4})])
    table = subject_of(request).table()
    generator = np.random.default_rng(1)
    rows = archive.unit_interval(table)[table.train]
    near = np.clip(rows + 0.002 * generator.normal(size=rows.shape), 0, 1).astype(np.float32)
    samples = replace(archive.released_form(near, table), labels=table.labels[table.train])
    left = [("Dataset", archive.to_bytes(samples)), ("Generator", b"a forest")]
    job = []
    for kind, data in left:
        made = artifacts.store(request.artifacts_uri, f"plug-in-{kind}", data, kind=kind)
        job.append({"kind": kind, "uri": made.uri, "digest": made.digest})
    plan = {**request.context["plan"], "kind": KIND}
    context = {**request.context, "plan": plan, "audits": ASKED}
    request = replace(request, context=context, inputs={"job": {"artifacts": job}})
    return {item.name: item for item in map(evidence_from_json, run(request).evidence)}


def test_its_samples_are_attacked_like_ours(copycat):
    for name in ("SampleDistance", "Copies"):
        assert copycat[name].verdict == "Fail", copycat[name].public
    assert set(copycat["DOMIAS"].restricted) >= {"auc", "tprAt", "lowerBound", "worstSubgroup"}
    told = copycat["SampleDistance"].restricted
    assert float(told["auc"]["lower"]) > 0.8
    assert told["tprAt"]["0.1"]["resolvable"] == "yes"
    assert set(told["pictures"]) == {"roc.svg"}


@pytest.mark.parametrize(
    ("attack", "rule"),
    [
        ("GeneratorLoss", "must be a generator that Synthesize wrote"),
        ("LiRA", "the Study trained no classifier"),
    ],
)
def test_what_cannot_attack_it_says_so_and_never_passes(copycat, attack, rule):
    assert copycat[attack].verdict == "Inconclusive"
    (reason,) = copycat[attack].public["reasons"]
    assert rule in reason


def test_only_kinds_that_are_known_to_make_something_else_are_refused_at_plan():
    require_asked(DOMIAS(), {}, kind=KIND)
    with pytest.raises(InvalidValue, match="It is for"):
        require_asked(DOMIAS(), {}, kind="Train")
