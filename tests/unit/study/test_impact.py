"""Does impact follow every way on from a Study that read, and no other?"""

from __future__ import annotations

import pytest

from primum.domain.study import lineage
from primum.domain.study.impact import (
    KnownStudy,
    Path,
    ReleaseFact,
    Standing,
    Traces,
    affected,
)
from primum.domain.study.lineage import RunState
from primum.domain.study.steps import ArtifactRef, StepContext, StepOutcome, StepStatus

AT = "2026-11-22T06:00:00.000000Z"


def known(name, generation=1):
    return KnownStudy(f"uid-{name}", generation, f"oncology/{name}")


def uri(name):
    return f"file:///zone/{name}/samples.npz"


def mapping(name, uid=""):
    return {
        "namespace": "oncology",
        "name": name,
        "uid": uid or f"uid-{name}",
        "generation": 1,
        "kind": "Synthesize",
    }


def context(name, step, *, made_with=(), uid=""):
    return StepContext(
        step=step,
        entry="",
        study=mapping(name, uid),
        run_id=f"run-{name}",
        outcome_id=f"outcome-{name}-{step}-{uid}",
        plan={"accesses": []},
        datasets={},
        synthetic={f"of-{item}": {"uri": uri(item), "digest": ""} for item in made_with},
        expectations=[],
        audits=[],
        tickets={},
        upstream={},
    )


def ran(name, *, made_with=(), releases=True):
    """The events of a Study that ran: it read synthetic data of others and left its own."""
    own = ArtifactRef("Dataset", uri(name), "sha256:" + "a" * 64)
    job = context(name, "job", made_with=made_with)
    done = StepOutcome(job.outcome_id, "job", StepStatus.SUCCEEDED, "Done", "", (), (), (own,))
    return [
        lineage.study_event(mapping(name), RunState.START, at=AT),
        lineage.step_started(context(name, "validate", made_with=made_with), (), at=AT),
        lineage.step_started(job, (), at=AT),
        lineage.step_ended(job, (), done, (), reservations=(), at=AT),
        lineage.study_event(
            mapping(name), RunState.COMPLETE, at=AT, outputs=(own,) if releases else ()
        ),
    ]


def traces(*events, known_studies=(), certificates=None, releases=None, declared=()):
    return Traces(
        known=known_studies,
        certificates=certificates or {},
        releases=releases or {},
        declared=declared,
        events=[event for part in events for event in part],
    )


def found(*arguments):
    return {item.study.partition("/")[2]: item for item in affected(*arguments)}


def test_a_study_that_read_is_affected_with_its_certificate_and_releases():
    release = ReleaseFact("risk", "Endpoint", Standing.STANDING)
    on_record = traces(
        ran("a"),
        certificates={"uid-a/1": "sha256:aa", "uid-b/1": "sha256:bb"},
        releases={"uid-a/1": (release,)},
    )
    (only,) = affected([known("a")], on_record)
    assert (only.path, only.source, only.generation) == (Path.READ, "", 1)
    assert (only.certificate, only.releases) == ("sha256:aa", (release,))


def test_nothing_read_means_nothing_affected():
    assert affected([], traces(ran("a"), ran("b", made_with=["a"]))) == ()


def test_what_was_made_with_released_data_is_affected_through_every_stage():
    on_record = traces(
        ran("d", made_with=["c"]),
        ran("a"),
        ran("c", made_with=["b"]),
        ran("b", made_with=["a"]),
        ran("aside"),
        ran("beyond", made_with=["aside"]),
    )
    reached = found([known("a")], on_record)
    assert list(reached) == ["a", "b", "c", "d"]
    assert [item.path for item in reached.values()] == [Path.READ, *[Path.DERIVED] * 3]
    assert [item.source for item in reached.values()] == [
        "",
        "oncology/a",
        "oncology/b",
        "oncology/c",
    ]


def test_what_was_made_with_an_artifact_that_was_never_released_is_affected_too():
    on_record = traces(ran("a", releases=False), ran("b", made_with=["a"]))
    assert list(found([known("a")], on_record)) == ["a", "b"]


def test_a_study_that_read_and_was_made_with_another_counts_as_one_that_read():
    on_record = traces(ran("a"), ran("b", made_with=["a"]))
    reached = found([known("a"), known("b")], on_record)
    assert {name: item.path for name, item in reached.items()} == {"a": Path.READ, "b": Path.READ}


def test_a_circle_ends():
    on_record = traces(ran("a", made_with=["b"]), ran("b", made_with=["a"]))
    assert list(found([known("a")], on_record)) == ["a", "b"]


def test_a_derived_study_is_named_with_what_is_on_record_about_it():
    on_record = traces(
        ran("a"),
        ran("b", made_with=["a"]),
        known_studies=[known("b")],
        certificates={"uid-b/1": "sha256:bb"},
        releases={"uid-b/1": (ReleaseFact("b", "Dataset", Standing.REVOKED),)},
    )
    derived = found([known("a")], on_record)["b"]
    assert (derived.generation, derived.certificate) == (1, "sha256:bb")
    assert derived.releases[0].standing is Standing.REVOKED


def test_a_derived_study_that_only_lineage_remembers_is_named():
    derived = found([known("a")], traces(ran("a"), ran("b", made_with=["a"])))["b"]
    assert (derived.study, derived.generation, derived.certificate) == ("oncology/b", 0, "")


@pytest.mark.parametrize("standing", list(Standing))
def test_a_declared_input_counts_without_lineage(standing):
    on_record = traces(
        known_studies=[known("b")],
        releases={"uid-a/1": (ReleaseFact("data", "Dataset", standing),)},
        declared=[(known("b"), "oncology/data"), (known("c"), "oncology/other")],
    )
    assert list(found([known("a")], on_record)) == ["a", "b"]


def test_an_audit_of_an_artifact_is_no_study_made_with_it():
    """An AuditRun runs one audit step under the name of the Study whose artifacts it attacks."""
    audit = context("b", "audit", made_with=["a"], uid="uid-of-the-audit-run")
    on_record = traces(ran("a"), [lineage.step_started(audit, (), at=AT)])
    assert list(found([known("a")], on_record)) == ["a"]


def test_events_of_another_form_are_passed_over():
    odd = [{}, {"run": 3}, {"run": {"runId": "x"}, "inputs": "none"}, {"outputs": [1]}]
    assert list(found([known("a")], traces(odd, ran("a")))) == ["a"]
