"""Plans, steps, outcomes, evidence and facts in SQL: written once, read with digests checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from primum.adapters.sql import tables
from primum.adapters.sql.engine import Database
from primum.application.ports import Clock, Dossier
from primum.domain import names
from primum.domain.canonical import JSON, canonical_json, digest_of_bytes
from primum.domain.errors import Conflict, InvalidValue, Tampered
from primum.domain.governance.evidence import Evidence, evidence_from_json
from primum.domain.study.plan import Plan, plan_from_json
from primum.domain.study.steps import StepOutcome, outcome_from_json


class SqlEvidenceStore:
    """``EvidenceStore`` on SQLite or PostgreSQL.

    Args:
        database: The database.
        clock: Stamps what is recorded; a stamp is for people and never part of a digest.
    """

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def put_plan(self, plan: Plan) -> None:
        """Store a plan once per Study generation; another content is a Conflict."""
        key = {"study_uid": plan.study_uid, "generation": plan.generation}
        name = f"plan of generation {plan.generation}"
        self._database.write(lambda c: _put_once(c, tables.plans, key, plan.to_json(), name=name))

    def plan(self, study_uid: str, generation: int) -> Plan | None:
        """The plan of a Study generation."""
        value = self._value(tables.plans, {"study_uid": study_uid, "generation": generation})
        return None if value is None else plan_from_json(value)

    def begin(self, outcome_id: str, *, study_uid: str, generation: int, step: str) -> None:
        """Note that a step begins; noting it again is a no-op."""
        row = {"study_uid": study_uid, "generation": generation, "step": step}

        def work(connection: sa.Connection) -> None:
            if _row(connection, tables.steps, {"outcome_id": outcome_id}) is None:
                begun = {"outcome_id": outcome_id, "begun": self._clock.now(), **row}
                connection.execute(sa.insert(tables.steps), begun)

        self._database.write(work)

    def begun(self, outcome_id: str) -> bool:
        """Whether a step of this id ever began."""
        key = {"outcome_id": outcome_id}
        return self._database.read(lambda c: _row(c, tables.steps, key)) is not None

    def record(
        self, outcome: StepOutcome, evidence: Sequence[Evidence], *, study_uid: str, generation: int
    ) -> None:
        """Store evidence and outcome in one transaction.

        The same again is a no-op, other content a Conflict.
        """
        if any((item.study_uid, item.generation) != (study_uid, generation) for item in evidence):
            raise InvalidValue("evidence", "must be of the step's Study", "another Study")
        study = {"study_uid": study_uid, "generation": generation}

        def work(connection: sa.Connection) -> None:
            key = {"outcome_id": outcome.outcome_id}
            more = {**study, "recorded": self._clock.now()}
            name = f"outcome {outcome.step}"
            _put_once(connection, tables.outcomes, key, outcome.to_json(), name=name, more=more)
            for item in evidence:
                _put_evidence(connection, item, study)

        self._database.write(work)

    def outcome(self, outcome_id: str) -> StepOutcome | None:
        """A step's outcome."""
        value = self._value(tables.outcomes, {"outcome_id": outcome_id})
        return None if value is None else outcome_from_json(value)

    def evidence(self, study_uid: str, generation: int) -> Sequence[Evidence]:
        """Every evidence record of a Study generation, oldest first."""
        rows = self._database.read(lambda c: _evidence(c, study_uid, generation))
        return tuple(evidence_from_json(_checked(row)) for row in rows)

    def put_fact(self, kind: str, key: str, value: Mapping[str, JSON]) -> None:
        """Store a fact once; the same again is a no-op, other content a Conflict."""
        where = {"kind": kind, "key": key}
        more = {"recorded": self._clock.now()}
        self._database.write(
            lambda c: _put_once(c, tables.facts, where, value, name=f"{kind} {key}", more=more)
        )

    def fact(self, kind: str, key: str) -> Mapping[str, JSON] | None:
        """A fact."""
        return self._value(tables.facts, {"kind": kind, "key": key})

    def facts(self, kind: str) -> Sequence[tuple[str, Mapping[str, JSON]]]:
        """Every fact of a kind, oldest first, as (key, value)."""
        table = tables.facts
        query = sa.select(table).where(table.c.kind == kind).order_by(table.c.place)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return tuple((row.key, _checked(row)) for row in rows)

    def dossier(self, study_uid: str, generation: int, *, facts: Mapping[str, str]) -> Dossier:
        """Everything about one Study generation at once, on one snapshot."""
        key = {"study_uid": study_uid, "generation": generation}

        def work(connection: sa.Connection) -> Dossier:
            row = _row(connection, tables.plans, key)
            plan = None if row is None else plan_from_json(_checked(row))
            outcomes = _outcomes(connection, plan) if plan else {}
            rows = _evidence(connection, study_uid, generation)
            evidence = tuple(evidence_from_json(_checked(row)) for row in rows)
            return Dossier(plan, outcomes, evidence, _facts(connection, facts))

        return self._database.read(work)

    def _value(self, table: sa.Table, key: Mapping[str, Any]) -> Mapping[str, JSON] | None:
        row = self._database.read(lambda connection: _row(connection, table, key))
        return None if row is None else _checked(row)


def _row(connection: sa.Connection, table: sa.Table, key: Mapping[str, Any]) -> sa.Row[Any] | None:
    condition = sa.and_(*(table.c[name] == value for name, value in key.items()))
    return connection.execute(sa.select(table).where(condition)).one_or_none()


def _evidence(connection: sa.Connection, study_uid: str, generation: int) -> Sequence[sa.Row[Any]]:
    table = tables.evidence
    mine = sa.and_(table.c.study_uid == study_uid, table.c.generation == generation)
    return connection.execute(sa.select(table).where(mine).order_by(table.c.place)).all()


def _outcomes(connection: sa.Connection, plan: Plan) -> Mapping[str, StepOutcome]:
    """Outcomes of a plan's steps, by step, in the plan's order."""
    table = tables.outcomes
    ids = {s: names.outcome_id(plan.study_uid, plan.generation, s) for s in plan.steps}
    query = sa.select(table).where(table.c.outcome_id.in_(ids.values()))
    found = {row.outcome_id: row for row in connection.execute(query)}
    return {
        step: outcome_from_json(_checked(found[name]))
        for step, name in ids.items()
        if name in found
    }


def _facts(
    connection: sa.Connection, wanted: Mapping[str, str]
) -> Mapping[str, Mapping[str, JSON]]:
    """The facts of these kinds and keys that are there, by kind."""
    table = tables.facts
    either = sa.tuple_(table.c.kind, table.c.key).in_(wanted.items())
    rows = connection.execute(sa.select(table).where(either)).all()
    return {row.kind: _checked(row) for row in rows}


def _put_once(
    connection: sa.Connection,
    table: sa.Table,
    key: Mapping[str, Any],
    value: Mapping[str, JSON],
    *,
    name: str,
    more: Mapping[str, Any] | None = None,
) -> None:
    body = canonical_json(value)
    before = _row(connection, table, key)
    if before is None:
        stored = {"digest": digest_of_bytes(body), "body": body.decode()}
        connection.execute(sa.insert(table), {**key, **(more or {}), **stored})
    elif before.body != body.decode():
        raise Conflict(f"{name} must stay as stored; found other content. Nothing was changed.")


def _put_evidence(connection: sa.Connection, item: Evidence, study: Mapping[str, Any]) -> None:
    key = {**study, "digest": item.digest}
    if _row(connection, tables.evidence, key) is None:
        body = canonical_json(item.to_json()).decode()
        row = {**key, "kind": item.kind.value, "body": body}
        connection.execute(sa.insert(tables.evidence), row)


def _checked(row: sa.Row[Any]) -> dict[str, JSON]:
    """A stored body, if it is still what its digest says."""
    if digest_of_bytes(row.body.encode()) != row.digest:
        raise Tampered(
            f"A stored record must match its digest {row.digest}; found changed content."
        )
    return dict(json.loads(row.body))
