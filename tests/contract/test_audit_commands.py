"""primum audit history, primum audit shadows and primum revoke, as people of different roles."""

from __future__ import annotations

import pytest
from command_line import CommandLine

from primum.adapters import identity
from primum.application.audit_history import AuditResult, release_subject
from primum.domain import names
from primum.domain.governance.evidence import Evidence, EvidenceKind, Verdict
from primum.domain.names import ResourceKey
from primum.domain.study.steps import StepOutcome, StepStatus
from primum.entrypoints import bootstrap, settings
from primum.resources.status import conditions_of

DIGEST = "sha256:" + "0" * 64
RELEASE = ResourceKey("Release", "oncology", "malignancy")
SPEC = {
    "kind": "Endpoint",
    "endpoint": "malignancy",
    "artifact": {"kind": "Model", "uri": "file:///m", "digest": DIGEST},
    "certificate": {"uri": "file:///c", "digest": DIGEST},
    "claim": {
        "standing": "Valid",
        "epsilon": "2",
        "delta": "1e-5",
        "unit": "Patient",
        "neighbors": "AddOrRemoveOne",
        "voidEdges": [],
    },
    "study": {"name": "malignancy", "uid": "study-1", "generation": 1},
}
FIGURE = "0.612"


class Place:
    """A home folder with one release, audited once."""

    def __init__(self, folder, capsys):
        self.home, self._capsys = folder / "home", capsys
        self.settings = settings.from_environment({"PRIMUM_HOME": str(self.home)})
        bootstrap.prepare_home(self.settings)
        self.stores = bootstrap.stores(self.settings)
        self.stores.resources.apply(RELEASE, SPEC, labels={})
        self._audited()

    def _audited(self):
        area = {"estimate": "0.7", "lower": FIGURE, "upper": "0.8"}
        found = Evidence(
            kind=EvidenceKind.MEMBERSHIP,
            name="LiRA",
            study_uid="run-1",
            generation=1,
            subject=DIGEST,
            verdict=Verdict.PASS,
            public={},
            restricted={"auc": area},
        )
        outcome = StepOutcome(
            outcome_id=names.outcome_id("run-1", 1, "audit"),
            step="audit",
            status=StepStatus.SUCCEEDED,
            reason="StepSucceeded",
            message="",
            receipts=(),
            evidence=(found.digest,),
            artifacts=(),
            body_seconds="3",
        )
        self.stores.evidence.record(outcome, (found,), study_uid="run-1", generation=1)
        result = AuditResult(
            uid="run-1",
            generation=1,
            run="malignancy-202603010300-0",
            attack="LiRA",
            settings=DIGEST,
            causes=("Schedule",),
            verdict="Pass",
            reason="AuditsPassed",
            comparison="Worse",
            before="",
            model=DIGEST,
            seconds="3",
            at="2026-03-01T03:07:00.000000Z",
        )
        subject = release_subject("oncology", "malignancy")
        self.stores.evidence.put_fact(f"AuditResult {subject}", "run-1/1", result.to_json())
        missed = {
            "number": 1,
            "release": "r",
            "causes": [],
            "due": "2026-02-22T03:00:00Z",
            "until": "2026-02-22T03:00:00Z",
            "missed": 2,
            "lastMissed": "2026-02-22T03:00:00Z",
            "state": {},
            "runs": [],
            "at": "2026-02-23T00:00:00Z",
        }
        self.stores.evidence.put_fact("AuditSet oncology/malignancy", "000000001", missed)

    def __call__(self, *words, role=None):
        more = {}
        if role is not None:
            more["PRIMUM_TOKEN"] = identity.issue(self.home, name="ada", roles=[role])
        return CommandLine(self.home)(*words, capsys=self._capsys, **more)


@pytest.fixture
def place(tmp_path, capsys):
    return Place(tmp_path, capsys)


def test_everybody_sees_verdicts_comparisons_and_what_was_missed(place):
    done = place("audit", "history", "malignancy", role=identity.Role.SCIENTIST)
    assert done.code == 0
    line = next(line for line in done.out.splitlines() if "LiRA" in line)
    assert line.split() == [
        "2026-03-01",
        "03:07",
        "UTC",
        "LiRA",
        "Schedule",
        "Pass",
        "Worse",
        "malignancy-202603010300-0",
    ]
    assert "missed: 2 due times up to 2026-02-22 03:00 UTC" in done.out


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_figures_are_for_stewards_and_auditors(place, output):
    def shown(role):
        return place("audit", "history", "malignancy", "-o", output, role=role).out

    assert FIGURE not in shown(identity.Role.SCIENTIST)
    assert FIGURE not in shown(identity.Role.COMPLIANCE)
    assert FIGURE in shown(identity.Role.AUDITOR)
    assert FIGURE in shown(identity.Role.STEWARD)


def test_a_release_that_does_not_exist_has_no_history(place):
    assert place("audit", "history", "nothing").code == 4


def test_only_a_steward_has_shadows_kept(place):
    assert place("audit", "shadows", "--keep", "1", role=identity.Role.AUDITOR).code == 3
    assert "none are kept" in place("audit", "shadows").out
    assert "kept up to 8 MiB" in place("audit", "shadows", "--keep", "8").out
    assert "none are kept" in place("audit", "shadows", "--keep", "0").out


def test_only_compliance_revokes_and_it_is_for_good(place):
    words = ("revoke", "malignancy", "--reason", "a complaint")
    assert place(*words, role=identity.Role.AUDITOR).code == 3
    assert "revocation" not in place.stores.resources.get(RELEASE).spec
    done = place(*words, role=identity.Role.COMPLIANCE)
    assert done.code == 0
    assert "REVOKED Release oncology/malignancy by ada: a complaint" in done.err
    stored = place.stores.resources.get(RELEASE)
    assert stored.spec["revocation"] == {"reason": "a complaint"}
    (ready,) = conditions_of(stored.status)
    assert (ready.status, ready.reason) == ("False", "Revoked")
    again = place("revoke", "malignancy", "--reason", "another", role=identity.Role.COMPLIANCE)
    assert again.code == 0
    assert place.stores.resources.get(RELEASE).spec["revocation"] == {"reason": "a complaint"}


@pytest.mark.parametrize(
    ("words", "code"), [(("nothing", "--reason", "x"), 4), (("malignancy", "--reason", " "), 2)]
)
def test_revoking_says_what_is_wrong(place, words, code):
    assert place("revoke", *words).code == code
