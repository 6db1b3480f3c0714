"""Who may act as the accounts under which steps make RayJobs: pods of runs, and nobody else.

What those accounts make may open protected data, so a pod under one of them is as good as the right
itself. Must not say what they may make: that is the policy of Ray's own kinds.
"""

from __future__ import annotations

from primum.adapters.kube_manifests import names
from primum_operators.admission.rules import (
    Doubling,
    Match,
    Named,
    Operation,
    Policy,
    Reach,
    Rule,
    Setting,
)

_CREATE = (Operation.CREATE,)
_NAMES = "[" + ", ".join(f"'{name}'" for name in names.LAUNCHERS) + "]"
_MADE = (
    "request.userInfo.username in variables.operators"
    " || request.userInfo.username in variables.controllers"
)

BY_LAUNCHER = (
    f"{_NAMES}.exists(a, request.userInfo.username == "
    "'system:serviceaccount:' + request.namespace + ':' + a)"
)
"""Whether a step's process asks, in its own namespace."""


def runs_as_launcher(spec: str) -> str:
    """Whether a pod spec runs under one of the accounts; old clients name it in another field."""
    return (
        f"(has({spec}.serviceAccountName) && {spec}.serviceAccountName in {_NAMES})"
        f" || (has({spec}.serviceAccount) && {spec}.serviceAccount in {_NAMES})"
    )


LAUNCHER_PODS = Policy(
    name="launcher-pods",
    purpose="Only pods of runs act as the accounts under which steps make RayJobs.",
    matches=(Match("", ("v1",), ("pods",), _CREATE),),
    reach=Reach.GOVERNED,
    variables=(Named("launcher", runs_as_launcher("object.spec")),),
    rules=(
        Rule(
            f"!variables.launcher || {_MADE}",
            f"a pod that runs as one of {', '.join(names.LAUNCHERS)} must be made by the operator, "
            "or by a controller from what the operator made; name another service account",
        ),
    ),
    settings=(Setting.OPERATORS, Setting.CONTROLLERS),
)

LAUNCHER_TOKENS = Policy(
    name="launcher-tokens",
    purpose="Tokens of those accounts go to the nodes that their pods are on, and nowhere else.",
    matches=(Match("", ("v1",), ("serviceaccounts/token",), _CREATE),),
    reach=Reach.GOVERNED,
    rules=(
        Rule(
            f"!(request.name in {_NAMES}) || 'system:nodes' in request.userInfo.groups",
            f"a token of {' and '.join(names.LAUNCHERS)} must be asked for by a node, for a pod",
        ),
    ),
    # Nodes renew tokens of every pod this way: an outage of the webhook must not stop them.
    doubling=Doubling.NOWHERE,
)
