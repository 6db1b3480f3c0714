"""AuditRuns that somebody asks for by hand."""

from __future__ import annotations

from primum.entrypoints.cli.audits import audit_run


def test_two_that_are_asked_for_at_once_have_names_of_their_own() -> None:
    bodies = [
        audit_run("oncology", "one", attack="LiRA", kind="Membership", canaries=0, shadows=64)
        for _ in range(50)
    ]
    assert len({body["metadata"]["name"] for body in bodies}) == len(bodies)
