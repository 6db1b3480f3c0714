"""The shape of an admission policy: what it looks at, what must hold, and what it needs to know.

Expressions are CEL over ``object``, ``oldObject``, ``request``, ``namespaceObject`` and
``variables``; they keep to what the API server's CEL and ours have in common. Must not hold a rule
itself.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Operation(enum.StrEnum):
    """What is done to an object."""

    CREATE = "CREATE"
    UPDATE = "UPDATE"
    CONNECT = "CONNECT"


class Reach(enum.StrEnum):
    """Where a policy holds."""

    EVERYWHERE = "Everywhere"
    GOVERNED = "Governed"  # namespaces labelled primum.dev/governed: "true"


class Doubling(enum.StrEnum):
    """For which requests the webhook evaluates a policy too.

    Pods and claims only where private data may lie, Secrets and namespaces never: an outage of the
    webhook must not stop a cluster, and contents of Secrets are nobody else's.
    """

    EVERYWHERE = "Everywhere"
    GOVERNED = "Governed"
    NOWHERE = "Nowhere"


class Setting(enum.StrEnum):
    """What a site decides and every expression may read, as ``variables.<name>``."""

    OPERATORS = "operators"  # user names of the platform's own service accounts
    CONTROLLERS = "controllers"  # user names that make pods and clusters out of what was admitted
    TRUSTED = "trusted"  # user names that may open shells, take snapshots, lift governance
    QUEUE_REQUIRED = "queueRequired"  # whether Ray jobs must name a Kueue queue


class Lookup(enum.StrEnum):
    """What the webhook looks up besides, because CEL cannot."""

    NOTHING = "Nothing"
    RESERVATION = "Reservation"  # the pod's reservation is open and of this namespace
    RELEASE = "Release"  # the Release stands, with these digests
    REQUESTER = "Requester"  # who asks is who the API server says it is


@dataclass(frozen=True, slots=True)
class Match:
    """Requests of one API group.

    Args:
        group: API group; empty for the core.
        versions: Versions, or ``*``.
        resources: Plural names, with ``/subresource`` where one is meant.
        operations: What is done.
    """

    group: str
    versions: tuple[str, ...]
    resources: tuple[str, ...]
    operations: tuple[Operation, ...]

    def covers(self, *, group: str, resource: str, subresource: str, operation: str) -> bool:
        """Whether a request is one of these."""
        named = f"{resource}/{subresource}" if subresource else resource
        return group == self.group and named in self.resources and operation in self.operations


@dataclass(frozen=True, slots=True)
class Named:
    """A named expression: a match condition, or a variable composed before the rules."""

    name: str
    expression: str


@dataclass(frozen=True, slots=True)
class Rule:
    """What must hold.

    Args:
        expression: CEL that comes to true or false.
        message: What is said where it does not hold: the rule, and the way out.
    """

    expression: str
    message: str


@dataclass(frozen=True, slots=True)
class Permission:
    """A right that whoever asks must have for each of some names.

    The API server asks its own authorizer; the webhook asks with a SubjectAccessReview.

    Args:
        verb: The verb, such as ``use``.
        group: API group of the resource.
        resource: Plural name.
        names: CEL expression that comes to the list of names, possibly with repeats.
        message: What is said where it is missing.
    """

    verb: str
    group: str
    resource: str
    names: str
    message: str

    def expression(self) -> str:
        """The rule in the API server's CEL."""
        asked = (
            f"authorizer.group('{self.group}').resource('{self.resource}')"
            f".namespace(request.namespace).name(n).check('{self.verb}').allowed()"
        )
        return f"({self.names}).all(n, {asked})"


@dataclass(frozen=True, slots=True)
class Policy:
    """One admission policy.

    Args:
        name: DNS label.
        purpose: One sentence for whoever lists it.
        matches: The requests it looks at.
        rules: What must hold of each.
        reach: In which namespaces.
        conditions: It looks only where all of these hold.
        variables: Composed values, each may use those before it.
        settings: The site's settings that it reads.
        permissions: Rights that whoever asks must have.
        doubling: Where the webhook evaluates it too.
        lookup: What the webhook looks up besides.
    """

    name: str
    purpose: str
    matches: tuple[Match, ...]
    rules: tuple[Rule, ...] = ()
    reach: Reach = Reach.EVERYWHERE
    conditions: tuple[Named, ...] = ()
    variables: tuple[Named, ...] = ()
    settings: tuple[Setting, ...] = ()
    permissions: tuple[Permission, ...] = ()
    doubling: Doubling = Doubling.GOVERNED
    lookup: Lookup = Lookup.NOTHING
