"""Answer an AdmissionReview: the policies' own expressions, and what CEL cannot see.

Pure but for the lookups it is given. Every doubt is a refusal: an expression that fails, an object
too large to be looked at, a lookup that does not answer. Must not change an object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from primum.adapters.kube_manifests import names
from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, PrimumError
from primum_operators.admission import requesters
from primum_operators.admission.policies import POLICIES
from primum_operators.admission.rules import Doubling, Lookup, Named, Policy, Setting
from primum_policies import cel

_UNREADABLE = "the request cannot be judged"
_HEAVY = ("data", "stringData", "binaryData")
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Lookups(Protocol):
    """What a review may ask the cluster and the ledger; whatever goes wrong must be raised."""

    def namespace_labels(self, namespace: str) -> Mapping[str, str]:
        """Labels of a namespace."""

    def reservation_open(self, namespace: str, reservation: str) -> bool:
        """Whether a reservation is Reserved or Exposed, for a Study of this namespace."""

    def workflow_launched(self, namespace: str, workflow: str, run: str) -> bool:
        """Whether a workflow is a run of Kubeflow Pipelines that the operator launched."""

    def release(self, namespace: str, name: str) -> Mapping[str, JSON] | None:
        """A Release as the API server has it."""

    def allowed(
        self,
        user: Mapping[str, JSON],
        *,
        verb: str,
        group: str,
        resource: str,
        key: tuple[str, str],
    ) -> bool:
        """Whether a user may; ``key`` is namespace and name."""


@dataclass(frozen=True, slots=True)
class SiteSettings:
    """What a site decides.

    Args:
        operators: User names of the platform's own service accounts.
        controllers: User names that make pods and clusters out of what was admitted.
        trusted: User names that may open shells, take snapshots and lift governance.
        queue: Whether Ray jobs must name a queue, ``Required`` or ``Optional``.
    """

    operators: tuple[str, ...]
    controllers: tuple[str, ...]
    trusted: tuple[str, ...] = ()
    queue: str = "Optional"

    def value(self, setting: Setting) -> object:
        """A setting as expressions read it."""
        if setting is Setting.QUEUE_REQUIRED:
            return self.queue != "Optional"
        return list(getattr(self, setting.value))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is refused."""

    policy: str
    message: str


def review(
    request: Mapping[str, Any],
    *,
    place: Doubling,
    settings: SiteSettings,
    lookups: Lookups,
) -> Refusal | None:
    """Judge one admission request.

    Args:
        request: ``request`` of an ``admission.k8s.io/v1`` AdmissionReview.
        place: Which webhook was called: that of governed namespaces, or that of all.
        settings: The site's settings.
        lookups: What is known besides.

    Returns:
        The first refusal, or ``None``. Policies that do not look at such requests say nothing.
    """
    for policy in applying(request, place):
        refusal = judge(policy, request, settings=settings, lookups=lookups)
        if refusal is not None:
            return refusal
    return None


def applying(request: Mapping[str, Any], place: Doubling) -> Iterator[Policy]:
    """The policies doubled in a place that look at such a request."""
    asked = request.get("resource") or {}
    for policy in POLICIES:
        if policy.doubling is place:
            for match in policy.matches:
                if match.covers(
                    group=str(asked.get("group", "")),
                    resource=str(asked.get("resource", "")),
                    subresource=str(request.get("subResource") or ""),
                    operation=str(request.get("operation", "")),
                ):
                    yield policy
                    break


def judge(
    policy: Policy, request: Mapping[str, Any], *, settings: SiteSettings, lookups: Lookups
) -> Refusal | None:
    """What one policy says of a request, in the order in which an API server evaluates it."""
    try:
        facts = _Facts(policy, request, settings, lookups)
        if not all(facts.holds(item.expression) for item in policy.conditions):
            return None
        for item in policy.variables:
            facts.compose(item)
        broken = next((rule for rule in policy.rules if not facts.holds(rule.expression)), None)
        message = broken.message if broken else _missing(policy, request, facts, lookups)
        if not message and policy.lookup is Lookup.REQUESTER:
            message = requesters.unlike(request, settings.operators)
    except (cel.RuleFailed, PrimumError) as fault:
        # Our own messages quote configuration at most; a foreign fault says its type and no more.
        return Refusal(policy.name, f"{_UNREADABLE}: {fault}")
    except Exception as fault:  # noqa: BLE001 - any doubt is a refusal
        return Refusal(policy.name, f"{_UNREADABLE}: {type(fault).__name__}")
    return Refusal(policy.name, message) if message else None


class _Facts:
    """What expressions see of one request, handed to the engine once."""

    def __init__(
        self,
        policy: Policy,
        request: Mapping[str, Any],
        settings: SiteSettings,
        lookups: Lookups,
    ) -> None:
        namespace: Mapping[str, str] = {}
        asked = _asked(request)
        if any("namespaceObject" in item.expression for item in policy.variables):
            namespace = lookups.namespace_labels(str(asked["namespace"]))
        facts = {
            "object": cel.cel_object("object", _looked_at(request.get("object"))),
            "oldObject": cel.cel_object("oldObject", _looked_at(request.get("oldObject"))),
            "request": cel.cel_object("request", asked),
            "namespaceObject": {"metadata": {"labels": dict(namespace)}},
        }
        self._variables: dict[str, Any] = {
            item.value: settings.value(item) for item in policy.settings
        }
        self._prepared = cel.Prepared(facts | {"variables": self._variables})
        self._fresh = True

    def value(self, expression: str) -> Any:
        """What an expression comes to."""
        if not self._fresh and "variables." in expression:
            self._prepared.put("variables", self._variables)
            self._fresh = True
        return cel.value_of(expression, self._prepared, variables=cel.ADMISSION_VARIABLES)

    def holds(self, expression: str) -> bool:
        """Whether an expression comes to true; anything but true or false is a fault."""
        found = self.value(expression)
        if not isinstance(found, bool):
            raise cel.RuleFailed("a rule must come to true or false")
        return found

    def compose(self, item: Named) -> None:
        """Compose a variable for whatever comes after it."""
        self._variables[item.name] = self.value(item.expression)
        self._fresh = False


def _missing(policy: Policy, request: Mapping[str, Any], facts: _Facts, lookups: Lookups) -> str:
    """What the lookups find wrong, or nothing."""
    namespace = str(request.get("namespace", ""))
    for permission in policy.permissions:
        for name in sorted(set(facts.value(permission.names))):
            if not lookups.allowed(
                request["userInfo"],
                verb=permission.verb,
                group=permission.group,
                resource=permission.resource,
                key=(namespace, name),
            ):
                return permission.message
    if policy.lookup is Lookup.RESERVATION:
        return _reservation(namespace, request["object"], lookups)
    if policy.lookup is Lookup.RELEASE:
        return _release(namespace, request["object"], lookups)
    return ""


def _reservation(namespace: str, pod: Mapping[str, Any], lookups: Lookups) -> str:
    labels = pod["metadata"].get("labels") or {}
    if not {names.RESERVATION, names.INSPECTION} & set(labels):
        return ""
    workflow = _workflow_of(pod)
    run = str(labels.get(names.RUN, ""))
    if workflow and not lookups.workflow_launched(namespace, workflow, run):
        return (
            "a pod of a workflow that opens protected data must be of a run that the operator "
            "launched; declare a Study instead"
        )
    reservation = labels.get(names.RESERVATION)
    if reservation is None or lookups.reservation_open(namespace, str(reservation)):
        return ""
    return (
        f"{names.RESERVATION} must name an open reservation of a Study of this namespace; "
        "the operator sets it"
    )


def _workflow_of(pod: Mapping[str, Any]) -> str:
    """The workflow that controls a pod; empty where none does."""
    for owner in pod["metadata"].get("ownerReferences") or ():
        group = str(owner.get("apiVersion", "")).partition("/")[0]
        if owner.get("controller") and (group, owner.get("kind")) == ("argoproj.io", "Workflow"):
            return str(owner["name"])
    return ""


def _release(namespace: str, service: Mapping[str, Any], lookups: Lookups) -> str:
    metadata = service["metadata"]
    name = str(metadata["labels"][names.RELEASE])
    release = lookups.release(namespace, name)
    if release is None:
        return f"{names.RELEASE} must name a Release of this namespace"
    spec: Any = release["spec"]
    if spec.get("revocation"):
        return "a Release that was revoked must not be served"
    if spec.get("kind") != "Endpoint" or spec["claim"].get("standing") != "Valid":
        return "an InferenceService must serve a Release of kind Endpoint whose claim is Valid"
    said = metadata["annotations"]
    for part, key in (
        ("artifact", names.ARTIFACT_DIGEST),
        ("certificate", names.CERTIFICATE_DIGEST),
    ):
        if said[key] != spec[part]["digest"]:
            return f"{key} must be the digest of the Release's {part}"
    return ""


def _asked(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request without its objects, with empty words where the API server leaves them out."""
    empty: dict[str, Any] = {
        "name": "",
        "namespace": "",
        "operation": "",
        "subResource": "",
        "resource": {},
    }
    user = request["userInfo"]
    if not user.get("username"):
        raise InvalidValue("request.userInfo.username", "must be set by the API server", "nothing")
    asked = {key: request.get(key) or nothing for key, nothing in empty.items()}
    asked["userInfo"] = {"username": user["username"], "groups": list(user.get("groups") or ())}
    return asked


def _looked_at(found: Any) -> Any:
    """An object without what no rule reads: contents, and who wrote which field."""
    if not isinstance(found, Mapping):
        return None
    slim = {key: value for key, value in found.items() if key not in _HEAVY}
    if isinstance(slim.get("metadata"), Mapping):
        metadata = {k: v for k, v in slim["metadata"].items() if k != "managedFields"}
        if isinstance(metadata.get("annotations"), Mapping):
            annotations = metadata["annotations"]
            metadata["annotations"] = {k: v for k, v in annotations.items() if k != _APPLIED}
        slim["metadata"] = metadata
    return slim
