"""What a withdrawal came too late for: from the Studies that read, along lineage, to releases.

Pure. A Study is affected if it may have read a withdrawn unit, or was made with what an affected
one left. That is a statement about ways information can have taken, not about what a model holds of
one person. It must err towards naming too many, and it must not say that anything was unlearned.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from primum.domain.canonical import JSON
from primum.domain.study.lineage import study_run_id

_AUDIT_JOB = ".pipeline.audit"  # An audit looks at artifacts and releases nothing.


class Path(enum.StrEnum):
    """How a unit can have reached a Study."""

    READ = "Read"
    DERIVED = "Derived"


class Standing(enum.StrEnum):
    """What has become of a release."""

    STANDING = "Standing"
    REVOKED = "Revoked"
    DELETED = "Deleted"


@dataclass(frozen=True, slots=True)
class KnownStudy:
    """A Study generation; ``study`` is ``namespace/name``."""

    uid: str
    generation: int
    study: str

    @property
    def key(self) -> str:
        """How its facts are stored."""
        return f"{self.uid}/{self.generation}"

    @property
    def run(self) -> str:
        """Its run in lineage."""
        return study_run_id({"uid": self.uid, "generation": self.generation})


@dataclass(frozen=True, slots=True)
class ReleaseFact:
    """A release: its name, kind (Endpoint or Dataset), and what has become of it."""

    name: str
    kind: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class Traces:
    """What is on record.

    Args:
        known: Every Study generation that has a name here, in any order.
        certificates: Digest of the certificate of a generation, by its key.
        releases: What a generation released, by its key.
        declared: Which generation says that it uses which release, as ``namespace/name``.
        events: Lineage events in order.
    """

    known: Sequence[KnownStudy]
    certificates: Mapping[str, str]
    releases: Mapping[str, tuple[ReleaseFact, ...]]
    declared: Sequence[tuple[KnownStudy, str]]
    events: Sequence[Mapping[str, JSON]]


@dataclass(frozen=True, slots=True)
class AffectedStudy:
    """A Study that a withdrawn unit can have reached.

    Args:
        study: ``namespace/name``.
        generation: Its generation; 0 where only lineage knows of it.
        path: Whether it read the unit's data, or was made with what another left.
        source: The Study that it was made with; empty where it read.
        certificate: Digest of its certificate, or empty.
        releases: What it released.
    """

    study: str
    generation: int
    path: Path
    source: str
    certificate: str
    releases: tuple[ReleaseFact, ...]


@dataclass(frozen=True, slots=True)
class _Node:
    """A Study in the graph: its run, and its name for people."""

    run: str
    study: str


def affected(read: Sequence[KnownStudy], traces: Traces) -> tuple[AffectedStudy, ...]:
    """Every Study that is reached, those that read first, then by distance.

    Args:
        read: Studies that may have read a withdrawn unit.
        traces: What is on record.
    """
    by_run = {item.run: item for item in (*traces.known, *read)}
    following = _following(traces, by_run)
    found: dict[str, AffectedStudy] = {}
    waiting = [(_Node(item.run, item.study), "") for item in read]
    for node, source in waiting:  # Grows as it goes: a breadth-first walk.
        if node.run in found:
            continue
        found[node.run] = _affected(node, source, by_run.get(node.run), traces)
        waiting += [(after, node.study) for after in following.get(node.run, ())]
    return tuple(found.values())


def _affected(node: _Node, source: str, known: KnownStudy | None, traces: Traces) -> AffectedStudy:
    key = known.key if known else ""
    return AffectedStudy(
        study=node.study,
        generation=known.generation if known else 0,
        path=Path.DERIVED if source else Path.READ,
        source=source,
        certificate=traces.certificates.get(key, ""),
        releases=traces.releases.get(key, ()),
    )


def _following(traces: Traces, by_run: Mapping[str, KnownStudy]) -> dict[str, list[_Node]]:
    """Which Studies were made with what a run left: by what they read, and by what they declare."""
    makers: dict[tuple[str, str], str] = {}
    readers: list[tuple[_Node, tuple[str, str]]] = []
    for event in traces.events:
        node = _root(event)
        if node is None:
            continue
        makers.update(dict.fromkeys(_names(event, "outputs"), node.run))
        if not _text(event, "job", "name").endswith(_AUDIT_JOB):
            readers += [(node, item) for item in _names(event, "inputs")]
    edges = [(makers[item], node) for node, item in readers if item in makers]
    released = {
        f"{_namespace(item.study)}/{release.name}": item.run
        for item in by_run.values()
        for release in traces.releases.get(item.key, ())
    }
    edges += [
        (released[name], _Node(item.run, item.study))
        for item, name in traces.declared
        if name in released
    ]
    found: dict[str, list[_Node]] = {}
    for maker, node in edges:
        if maker != node.run and node not in found.setdefault(maker, []):
            found[maker].append(node)
    return found


def _namespace(study: str) -> str:
    return study.partition("/")[0]


def _root(event: Mapping[str, JSON]) -> _Node | None:
    """The Study that an event belongs to: its parents' root, or itself."""
    parent = _part(_part(_part(event, "run"), "facets"), "parent")
    root = _part(parent, "root") or event
    run = _text(root, "run", "runId")
    space, name = _text(root, "job", "namespace"), _text(root, "job", "name")
    return _Node(run, f"{space.removeprefix('primum/')}/{name}") if run else None


def _names(event: Mapping[str, JSON], side: str) -> Iterator[tuple[str, str]]:
    items = event.get(side)
    for item in items if isinstance(items, list | tuple) else ():
        if isinstance(item, Mapping):
            yield str(item.get("namespace", "")), str(item.get("name", ""))


def _part(value: Mapping[str, JSON], name: str) -> Mapping[str, JSON]:
    found = value.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(value: Mapping[str, JSON], part: str, name: str) -> str:
    return str(_part(value, part).get(name, ""))
