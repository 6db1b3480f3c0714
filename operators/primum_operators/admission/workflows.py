"""Who may make the workflows that Kubeflow Pipelines runs on: Kubeflow itself, and nobody else.

What Kubeflow's workflow controller makes of a workflow may open protected data, and a pod of it
cannot be told from another's. So in governed namespaces a workflow comes from Kubeflow's API server
alone, which asks whether its caller may make runs there: only the operator may. Must not say what a
workflow may hold.
"""

from __future__ import annotations

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

_KINDS = ("workflows", "workflowtemplates", "cronworkflows")
_WRITE = (Operation.CREATE, Operation.UPDATE)

WORKFLOWS = Policy(
    name="workflows",
    purpose="Workflows of governed namespaces come from Kubeflow's API server alone.",
    matches=(Match("argoproj.io", ("*",), _KINDS, _WRITE),),
    reach=Reach.GOVERNED,
    conditions=(Named("alive", "!has(object.metadata.deletionTimestamp)"),),
    rules=(
        Rule(
            "request.userInfo.username in variables.controllers",
            "a workflow of a governed namespace must be made by Kubeflow Pipelines, for the "
            "operator; declare a Study, or run your own pipeline in a namespace of your own",
        ),
    ),
    settings=(Setting.CONTROLLERS,),
    doubling=Doubling.GOVERNED,
)
