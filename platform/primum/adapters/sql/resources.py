"""Declared resources in SQL: the embedded profile's API server, level-based like the real one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from primum.adapters.sql import tables
from primum.adapters.sql.engine import Database
from primum.application.ports import ApplyChange, Clock
from primum.domain.canonical import JSON, canonical_json
from primum.domain.errors import Conflict, NotFound
from primum.domain.names import ResourceKey
from primum.resources.stored import StoredResource

Answer = TypeVar("Answer")
VERSION_COUNTER = "resource_version"


class SqlResourceStore:
    """``ResourceStore`` on SQLite or PostgreSQL.

    Args:
        database: The database.
        clock: Stamps creation and deletion.
    """

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def apply(
        self,
        key: ResourceKey,
        spec: Mapping[str, JSON],
        *,
        labels: Mapping[str, str],
        owner: str = "",
    ) -> tuple[StoredResource, ApplyChange]:
        """Create or replace a spec; the generation moves only when the spec does.

        Raises:
            Conflict: If the resource is being deleted.
        """
        wanted = {"spec": _text(spec), "labels": _text(labels)}
        if owner:
            wanted["owner"] = owner

        def work(connection: sa.Connection, version: int) -> ApplyChange:
            row = _row(connection, key)
            if row is None:
                self._insert(connection, key, wanted, version=version)
                return ApplyChange.CREATED
            if row.deleting:
                raise Conflict(f"{key} must not be in deletion to be applied; found it is.")
            if all(getattr(row, name) == value for name, value in wanted.items()):
                return ApplyChange.UNCHANGED
            generation = row.generation + (row.spec != wanted["spec"])
            _update(connection, key, {**wanted, "generation": generation}, version=version)
            return ApplyChange.CONFIGURED

        def applied(connection: sa.Connection, version: int) -> tuple[StoredResource, ApplyChange]:
            change = work(connection, version)
            return _resource(_present(connection, key)), change

        return self._write(applied)

    def _insert(
        self,
        connection: sa.Connection,
        key: ResourceKey,
        wanted: Mapping[str, Any],
        *,
        version: int,
    ) -> None:
        row = {
            "uid": str(uuid.uuid4()),
            "generation": 1,
            "resource_version": version,
            "created": self._clock.now(),
            "status": "{}",
            "owner": "",
            "deleting": "",
        }
        connection.execute(sa.insert(tables.resources), {**_named(key), **row, **wanted})

    def get(self, key: ResourceKey) -> StoredResource | None:
        """One resource."""
        row = self._database.read(lambda connection: _row(connection, key))
        return None if row is None else _resource(row)

    def list(self, kind: str, namespace: str = "", *, name: str = "") -> Sequence[StoredResource]:
        """Resources of a kind, in one namespace or all, of one name or all; by name."""
        table = tables.resources
        query = sa.select(table).where(table.c.kind == kind)
        if namespace:
            query = query.where(table.c.namespace == namespace)
        if name:
            query = query.where(table.c.name == name)
        query = query.order_by(table.c.namespace, table.c.name)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return tuple(_resource(row) for row in rows)

    def set_status(self, key: ResourceKey, uid: str, status: Mapping[str, JSON]) -> None:
        """Replace the status of the resource with this uid; a no-op where it is gone."""
        text = _text(status)
        seen = self._database.read(lambda connection: _row(connection, key))
        if seen is None or seen.uid != uid or seen.status == text:
            return  # The usual case of a level-based loop: no write lock for it.

        def work(connection: sa.Connection, version: int) -> None:
            row = _row(connection, key)
            if row is not None and row.uid == uid:
                _update(connection, key, {"status": text}, version=version)

        self._write(work)

    def request_deletion(self, key: ResourceKey) -> StoredResource:
        """Mark for deletion; marking twice keeps the first time.

        Raises:
            NotFound: If it does not exist.
        """

        def work(connection: sa.Connection, version: int) -> StoredResource:
            row = _row(connection, key)
            if row is None:
                raise NotFound(f"{key} must exist to be deleted; found none.")
            if not row.deleting:
                _update(connection, key, {"deleting": self._clock.now()}, version=version)
            return _resource(_present(connection, key))

        return self._write(work)

    def remove(self, key: ResourceKey, uid: str) -> None:
        """Remove the resource with this uid."""

        def work(connection: sa.Connection, _version: int) -> None:
            named = _is(key)
            gone = sa.delete(tables.resources).where(named, tables.resources.c.uid == uid)
            connection.execute(gone)

        self._write(work)

    def _write(self, work: Callable[[sa.Connection, int], Answer]) -> Answer:
        """Work with the next resource version; writers queue on the counter."""

        def counted(connection: sa.Connection) -> Answer:
            table = tables.counters
            condition = table.c.name == VERSION_COUNTER
            query = sa.select(table.c.value).where(condition).with_for_update()
            version = connection.execute(query).scalar_one() + 1
            connection.execute(sa.update(table).where(condition).values(value=version))
            return work(connection, version)

        return self._database.write(counted)


def _named(key: ResourceKey) -> dict[str, str]:
    return {"kind": key.kind, "namespace": key.namespace, "name": key.name}


def _is(key: ResourceKey) -> sa.ColumnElement[bool]:
    columns = tables.resources.c
    return sa.and_(*(columns[name] == value for name, value in _named(key).items()))


def _row(connection: sa.Connection, key: ResourceKey) -> sa.Row[Any] | None:
    return connection.execute(sa.select(tables.resources).where(_is(key))).one_or_none()


def _present(connection: sa.Connection, key: ResourceKey) -> sa.Row[Any]:
    return connection.execute(sa.select(tables.resources).where(_is(key))).one()


def _update(
    connection: sa.Connection, key: ResourceKey, values: Mapping[str, Any], *, version: int
) -> None:
    changed = sa.update(tables.resources).where(_is(key))
    connection.execute(changed.values(**values, resource_version=version))


def _text(value: JSON) -> str:
    return canonical_json(value).decode()


def _resource(row: sa.Row[Any]) -> StoredResource:
    return StoredResource(
        key=ResourceKey(row.kind, row.namespace, row.name),
        uid=row.uid,
        generation=row.generation,
        resource_version=row.resource_version,
        created=row.created,
        spec=json.loads(row.spec),
        status=json.loads(row.status),
        labels=json.loads(row.labels),
        owner=row.owner,
        deleting=row.deleting,
    )
