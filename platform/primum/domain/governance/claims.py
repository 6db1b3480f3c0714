"""Lineage composition of privacy claims: what a path from private data allows to be said.

``claim(artifact) = compose(all charges on paths from private data)``. One uncharged edge on any
such path voids the claim, whatever the later stages cost: synthetic data does not launder. This
module decides that and words it; it must not compute an epsilon and must not soften a Void into a
number.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from primum.domain.canonical import JSON
from primum.domain.study.plan import Plan, Treatment

STEWARDS_ZONE = "the steward's zone"
EDGES_MAX = 10_000  # Accesses and artifacts of the longest chain of Studies anybody reads.


class ClaimStatus(enum.StrEnum):
    """Whether a differential-privacy claim may be made at all."""

    VALID = "Valid"
    VOID = "Void"


@dataclass(frozen=True, slots=True)
class Edge:
    """One way that information took.

    Args:
        source: A private dataset, or an artifact.
        target: What was made with it.
        treatment: How it is answered for.
        why: What happened on it, for the certificate.
    """

    source: str
    target: str
    treatment: Treatment
    why: str

    @property
    def sentence(self) -> str:
        """The edge for people."""
        why = f" ({self.why.rstrip('.')})" if self.why else ""
        return f"{self.source} -> {self.target}{why}"

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "source": self.source,
            "target": self.target,
            "treatment": self.treatment.value,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Claim:
    """What may be said about one artifact.

    Args:
        artifact: What it is about.
        status: Valid or Void.
        charged: The charged edges on paths from private data: what a valid claim composes.
        void_edges: One sentence per edge that voids it; empty where it is valid.
    """

    artifact: str
    status: ClaimStatus
    charged: tuple[Edge, ...]
    void_edges: tuple[str, ...]

    @property
    def text(self) -> str:
        """The claim for people; names every edge that voids it."""
        if self.status is ClaimStatus.VALID:
            return (
                f"Every path from private data to {self.artifact} is charged "
                f"({len(self.charged)} charged {'edge' if len(self.charged) == 1 else 'edges'})."
            )
        named = "; ".join(self.void_edges)
        text = (
            f"No differential-privacy claim can be made about {self.artifact}: "
            f"information left private data without a charge on {named}."
        )
        if self.charged:
            text += " Its charged part covers the last stage only."
        return text

    def to_json(self) -> dict[str, JSON]:
        """Canonical form."""
        return {
            "artifact": self.artifact,
            "status": self.status.value,
            "charged": [edge.to_json() for edge in self.charged],
            "voidEdges": list(self.void_edges),
            "text": self.text,
        }


def compose(edges: Sequence[Edge], *, artifact: str, private: Iterable[str]) -> Claim:
    """The claim of an artifact over the whole lineage that led to it.

    Guarantees:
        Valid only if every edge on every path from a private source to the artifact is charged, or
        a
        listed disclosure. An Inspected edge on such a path voids too: what stays in the zone cannot
        have
        reached the artifact. A cycle is no way out: reachability is all that counts.

    Args:
        edges: The lineage, in any order, at most 10,000 edges.
        artifact: Name of the artifact.
        private: Names of the private sources.

    Returns:
        The claim; valid with no charged edge where no private source reaches the artifact.
    """
    if len(edges) > EDGES_MAX:
        return Claim(artifact, ClaimStatus.VOID, (), (f"a lineage of over {EDGES_MAX} edges",))
    forward = _reached(private, [(edge.source, edge.target) for edge in edges])
    backward = _reached([artifact], [(edge.target, edge.source) for edge in edges])
    on_path = [edge for edge in edges if edge.source in forward and edge.target in backward]
    void = [e for e in on_path if e.treatment in (Treatment.UNCHARGED, Treatment.INSPECTED)]
    charged = tuple(edge for edge in on_path if edge.treatment is Treatment.CHARGED)
    status = ClaimStatus.VOID if void else ClaimStatus.VALID
    return Claim(artifact, status, charged, tuple(dict.fromkeys(e.sentence for e in void)))


def edges_of_plan(plan: Plan, *, artifact: str) -> tuple[Edge, ...]:
    """The lineage that a plan's accesses draw.

    What is Inspected, or disclosed by another step than the job, does not reach the artifact; what
    is
    Uncharged reaches it from whichever step, because a decision taken on it shapes what is
    released.

    Args:
        plan: The plan.
        artifact: Name of what the Study makes.

    Returns:
        One edge per access.
    """
    return tuple(
        Edge(
            source=f"budget {access.budget}",
            target=artifact
            if access.step == "job" and access.treatment is not Treatment.INSPECTED
            else _target(access.treatment, artifact),
            treatment=access.treatment,
            why=access.why or access.name,
        )
        for access in plan.accesses
    )


def claim_of_plan(plan: Plan, *, artifact: str, lineage: Sequence[Edge] = ()) -> Claim:
    """The claim of what a plan makes.

    Args:
        plan: The plan; its ``void_edges`` are inherited from synthetic inputs or declared by its
            kind.
        artifact: Name of what the Study makes.
        lineage: Further edges, e.g. of the artifacts that the plan's inputs were made from.

    Returns:
        Void if any edge on a path from private data is uncharged, or the plan names a void edge.
    """
    edges = (*edges_of_plan(plan, artifact=artifact), *lineage)
    private = {f"budget {access.budget}" for access in plan.accesses}
    private |= {edge.source for edge in lineage if edge.source.startswith("budget ")}
    found = compose(edges, artifact=artifact, private=private)
    void = tuple(dict.fromkeys((*plan.void_edges, *found.void_edges)))
    status = ClaimStatus.VOID if void else ClaimStatus.VALID
    return Claim(artifact, status, found.charged, void)


def _target(treatment: Treatment, artifact: str) -> str:
    match treatment:
        case Treatment.INSPECTED:
            return STEWARDS_ZONE
        case Treatment.DISCLOSED:
            return "disclosed results"
        case _:
            return artifact


def _reached(start: Iterable[str], steps: Sequence[tuple[str, str]]) -> set[str]:
    following: Mapping[str, list[str]] = _grouped(steps)
    seen = set(start)
    frontier = list(seen)
    while frontier:
        for target in following.get(frontier.pop(), ()):
            if target not in seen:
                seen.add(target)
                frontier.append(target)
    return seen


def _grouped(steps: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for source, target in steps:
        groups.setdefault(source, []).append(target)
    return groups
