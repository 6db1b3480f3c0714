"""Who asked for a Study: put onto it at its creation, from whom the API server says it is.

The user name goes into an annotation, as it is, and into a label, as far as a label can hold it.
Whoever writes either is corrected at creation and refused later. Nothing here asks anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from primum.domain.errors import InvalidValue
from primum.resources.metadata import GROUP, REQUESTER_LABEL, requester_label
from primum_operators.admission.rules import (
    Doubling,
    Lookup,
    Match,
    Named,
    Operation,
    Policy,
    Rule,
    Setting,
)

RESOURCE = "studies"


def _noted(part: str) -> str:
    """What a part of an object's metadata says about who asked; empty where it says nothing."""
    return f"(has({part}) && '{REQUESTER_LABEL}' in {part} ? {part}['{REQUESTER_LABEL}'] : '')"


_BY_OPERATOR = "request.userInfo.username in variables.operators"
_UNCHANGED = " && ".join(
    f"{_noted(f'object.metadata.{part}')} == {_noted(f'oldObject.metadata.{part}')}"
    for part in ("annotations", "labels")
)

REQUESTERS = Policy(
    name="requesters",
    purpose="Whoever declares a Study is who asks, whatever the Study says; for good.",
    doubling=Doubling.EVERYWHERE,
    matches=(Match(GROUP, ("*",), (RESOURCE,), (Operation.CREATE, Operation.UPDATE)),),
    variables=(
        Named("asked", _noted("object.metadata.annotations")),
        Named("labelled", _noted("object.metadata.labels")),
    ),
    rules=(
        Rule(
            f"{_BY_OPERATOR} || request.operation != 'CREATE'"
            " || variables.asked == request.userInfo.username"
            " || (variables.asked == '' && variables.labelled == '')",
            f"{REQUESTER_LABEL} must be the user who declares the Study; leave it out, it is set "
            "for you",
        ),
        Rule(
            f"{_BY_OPERATOR} || request.operation != 'UPDATE' || ({_UNCHANGED})",
            f"{REQUESTER_LABEL} must stay what it was when the Study was declared; leave it out",
        ),
    ),
    settings=(Setting.OPERATORS,),
    lookup=Lookup.REQUESTER,
)


def unlike(request: Mapping[str, Any], operators: Sequence[str]) -> str:
    """What is wrong with who a new Study says that asked; empty where nothing is.

    The webhook's own look: what CEL cannot see is whether the label is that of the user.
    """
    user = str(request["userInfo"]["username"])
    if request.get("operation") != Operation.CREATE or user in operators:
        return ""
    metadata = request["object"]["metadata"]
    asked = (metadata.get("annotations") or {}).get(REQUESTER_LABEL)
    labelled = (metadata.get("labels") or {}).get(REQUESTER_LABEL)
    if (asked, labelled) == (user, requester_label(user)):
        return ""
    return f"{REQUESTER_LABEL} must be the user who declares the Study; the platform sets it"


def patch(request: Mapping[str, Any], operators: Sequence[str]) -> list[dict[str, Any]]:
    """The JSON Patch that names who asks on a new Study.

    Args:
        request: ``request`` of an ``admission.k8s.io/v1`` AdmissionReview.
        operators: User names of the platform's own service accounts, which name somebody else.

    Raises:
        InvalidValue: If the API server names nobody, or the object is none.
    """
    asked = request.get("resource") or {}
    ours = (asked.get("group"), asked.get("resource")) == (GROUP, RESOURCE)
    if not ours or request.get("subResource") or request.get("operation") != Operation.CREATE:
        return []
    user = (request.get("userInfo") or {}).get("username")
    metadata = (request.get("object") or {}).get("metadata")
    if not isinstance(user, str) or not user or not isinstance(metadata, Mapping):
        raise InvalidValue("request", "must name a user and an object", "something else")
    if user in operators:
        return []
    found: list[dict[str, Any]] = []
    for part, value in (("annotations", user), ("labels", requester_label(user))):
        if not isinstance(metadata.get(part), Mapping):
            found.append({"op": "add", "path": f"/metadata/{part}", "value": {}})
        key = REQUESTER_LABEL.replace("~", "~0").replace("/", "~1")
        found.append({"op": "add", "path": f"/metadata/{part}/{key}", "value": value})
    return found
