"""Plans, steps, outcomes, evidence and facts in SQL: written once, read with digests checked."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from primum.adapters.sql import tables
from primum.adapters.sql.engine import Database
from primum.application.ports import Clock, Dossier
from primum.domain import names
from primum.domain.canonical import JSON, canonical_json, digest_of_bytes
from primum.domain.errors import Conflict, InvalidValue, Tampered
from primum.domain.governance.evidence import Evidence, evidence_from_json
from primum.domain.study.plan import Plan, plan_from_json
from primum.domain.study.steps import StepOutcome, outcome_from_json

Key = TypeVar("Key")
Value = TypeVar("Value")
_PLANS_KNOWN = 20_000  # Some megabytes of names; forgetting them costs a statement each.
_FACTS_KEPT, _BODY_KEPT_MAX = 1000, 4096  # Some megabytes at most.
_PLAN, _OUTCOME, _EVIDENCE, _FACT = "Plan", "Outcome", "Evidence", "Fact"


def _part(part: str, table: sa.Table, *, name: str = "", place: str = "") -> sa.Select[Any]:
    """Rows of one table among those of others."""
    return sa.select(
        sa.literal_column(f"'{part}'").label("part"),
        (table.c[name] if name else sa.literal_column("''")).label("name"),
        (table.c[place] if place else sa.literal_column("0")).label("place"),
        table.c.digest,
        table.c.body,
    )


def _of_study(table: sa.Table) -> sa.ColumnElement[bool]:
    return sa.and_(
        table.c.study_uid == sa.bindparam("study_uid"),
        table.c.generation == sa.bindparam("generation"),
    )


# Built once: building a statement costs more than running it. One statement is one snapshot, and
# one question to a server that may be far away.
_DOSSIER = sa.union_all(
    _part(_PLAN, tables.plans).where(_of_study(tables.plans)),
    _part(_OUTCOME, tables.outcomes, name="outcome_id").where(
        tables.outcomes.c.outcome_id.in_(sa.bindparam("ids", expanding=True))
    ),
    _part(_EVIDENCE, tables.evidence, place="place").where(_of_study(tables.evidence)),
    _part(_FACT, tables.facts, name="kind").where(
        sa.tuple_(tables.facts.c.kind, tables.facts.c.key).in_(
            sa.bindparam("facts", expanding=True)
        )
    ),
).order_by("place")
_EVIDENCE_OF = (
    sa.select(tables.evidence).where(_of_study(tables.evidence)).order_by(tables.evidence.c.place)
)
_FACTS_OF_KIND = (
    sa.select(tables.facts)
    .where(tables.facts.c.kind == sa.bindparam("kind"))
    .order_by(tables.facts.c.place)
)


class SqlEvidenceStore:
    """``EvidenceStore`` on SQLite or PostgreSQL.

    Args:
        database: The database.
        clock: Stamps what is recorded; a stamp is for people and never part of a digest.
    """

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        # Which outcomes a plan may have: it never changes once it is there.
        self._steps: dict[tuple[str, int], tuple[str, ...]] = {}
        self._facts: dict[tuple[str, str], str] = {}

    def put_plan(self, plan: Plan) -> None:
        """Store a plan once per Study generation; another content is a Conflict."""
        key = {"study_uid": plan.study_uid, "generation": plan.generation}
        name = f"plan of generation {plan.generation}"
        self._database.write(lambda c: _put_once(c, tables.plans, key, plan.to_json(), name=name))
        self._know(plan)

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
        return self._database.ask(lambda c: _row(c, tables.steps, key)) is not None

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
        rows = self._all(_EVIDENCE_OF, {"study_uid": study_uid, "generation": generation})
        return tuple(evidence_from_json(_checked(row)) for row in rows)

    def put_fact(self, kind: str, key: str, value: Mapping[str, JSON]) -> None:
        """Store a fact once; the same again is a no-op, other content a Conflict."""
        where = {"kind": kind, "key": key}
        more = {"recorded": self._clock.now()}
        self._database.write(
            lambda c: _put_once(c, tables.facts, where, value, name=f"{kind} {key}", more=more)
        )

    def fact(self, kind: str, key: str) -> Mapping[str, JSON] | None:
        """A fact; one that was read is not asked for again, since it never changes."""
        body = self._facts.get((kind, key))
        if body is None:
            row = self._database.ask(lambda c: _row(c, tables.facts, {"kind": kind, "key": key}))
            if row is None:
                return None
            value = _checked(row)
            if len(row.body) <= _BODY_KEPT_MAX:
                _keep(self._facts, (kind, key), row.body, most=_FACTS_KEPT)
            return value
        return dict(json.loads(body))

    def facts(self, kind: str) -> Sequence[tuple[str, Mapping[str, JSON]]]:
        """Every fact of a kind, oldest first, as (key, value)."""
        rows = self._all(_FACTS_OF_KIND, {"kind": kind})
        return tuple((row.key, _checked(row)) for row in rows)

    def dossier(self, study_uid: str, generation: int, *, facts: Mapping[str, str]) -> Dossier:
        """Everything about one Study generation at once, on one snapshot."""
        named = {"study_uid": study_uid, "generation": generation, "facts": [*facts.items()]}
        steps = self._steps.get((study_uid, generation), ())
        while True:
            ids = {s: names.outcome_id(study_uid, generation, s) for s in steps}
            rows = self._all(_DOSSIER, named | {"ids": [*ids.values()]})
            plan = next((_plan(row) for row in rows if row.part == _PLAN), None)
            if plan is None or set(plan.steps) <= set(steps):
                return _dossier(plan, rows, ids)
            steps = plan.steps  # Of a plan that was not known: once more, with its outcomes.
            self._know(plan)

    def _all(self, statement: sa.Executable, named: Mapping[str, Any]) -> Sequence[sa.Row[Any]]:
        return self._database.ask(lambda connection: connection.execute(statement, named).all())

    def _know(self, plan: Plan) -> None:
        key = (plan.study_uid, plan.generation)
        _keep(self._steps, key, tuple(plan.steps), most=_PLANS_KNOWN)

    def _value(self, table: sa.Table, key: Mapping[str, Any]) -> Mapping[str, JSON] | None:
        row = self._database.ask(lambda connection: _row(connection, table, key))
        return None if row is None else _checked(row)


def _keep(known: dict[Key, Value], key: Key, value: Value, *, most: int) -> None:
    """Keep what never changes; where there is too much of it, begin anew."""
    if len(known) >= most:
        known.clear()
    known[key] = value


def _row(connection: sa.Connection, table: sa.Table, key: Mapping[str, Any]) -> sa.Row[Any] | None:
    return connection.execute(_by_key(table, tuple(key)), key).one_or_none()


@functools.cache
def _insert_unless_there(table: sa.Table, dialect: str) -> sa.Insert:
    """Insert a row, or nothing where one of its key is there; how many is ``rowcount``."""
    made = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    return made.on_conflict_do_nothing().inline().execution_options(preserve_rowcount=True)


@functools.cache
def _by_key(table: sa.Table, columns: tuple[str, ...]) -> sa.Select[Any]:
    """One row of a table; built once, which costs more than running it."""
    return sa.select(table).where(*(table.c[name] == sa.bindparam(name) for name in columns))


def _plan(row: sa.Row[Any]) -> Plan:
    return plan_from_json(_checked(row))


def _dossier(plan: Plan | None, rows: Sequence[sa.Row[Any]], ids: Mapping[str, str]) -> Dossier:
    """What the rows of one statement say; outcomes by step, in the plan's order."""
    bodies = {(row.part, row.name): _checked(row) for row in rows if row.part in (_OUTCOME, _FACT)}
    steps = plan.steps if plan is not None else ()
    return Dossier(
        plan=plan,
        outcomes={
            step: outcome_from_json(bodies[_OUTCOME, ids[step]])
            for step in steps
            if (_OUTCOME, ids[step]) in bodies
        },
        evidence=tuple(evidence_from_json(_checked(row)) for row in rows if row.part == _EVIDENCE),
        facts={name: body for (part, name), body in bodies.items() if part == _FACT},
    )


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
    stored = {"digest": digest_of_bytes(body), "body": body.decode()}
    row = {**key, **(more or {}), **stored}
    if connection.execute(_insert_unless_there(table, connection.dialect.name), row).rowcount:
        return
    before = _row(connection, table, key)
    if before is None or before.body != body.decode():
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
