"""What a certificate says beside its claim: how it was released, what nobody's privacy paid for.

Pure parts of the statement. Nothing here is argued away: what may be learned without a charge is
always listed, and so is every input that was taken to be public.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from primum.domain.canonical import JSON
from primum.domain.study.plan import DatasetFacts, Plan
from primum.domain.study.spec import DataRole, StudySpec

_VERDICT_BITS = ("DataValidated", "Audited", "GatesPassed")
_PUBLIC_INPUTS = "publicInputs"  # Of a plan's parameters, where a kind reads such inputs.


def release_model(study: StudySpec, plan: Plan, *, artifact_kind: str) -> dict[str, JSON]:
    """What an attacker is given: the trust model, the outputs, and how they can be asked.

    Args:
        study: What was asked for.
        plan: What was declared.
        artifact_kind: ``Model`` or ``Dataset``.
    """
    return {
        "trust": "Federated" if study.job_kind == "Federate" else "Central",
        "outputs": _weights(plan) if artifact_kind == "Model" else "final samples only",
        "interactive": "no",
        "data": "static",
    }


def _weights(plan: Plan) -> str:
    """What is seen of a training: each is covered by the plan's events, and named here."""
    found = []
    answers, search = plan.parameters.get("answers"), plan.parameters.get("search")
    if isinstance(answers, Mapping) and "abstainBelow" in answers:
        found.append("iterates of the same run")
    if isinstance(search, Mapping):
        found.append("which point of the space was best, with its score")
        if search.get("trials") is not None:
            found.append("scores of the other trials")
    if "earlyStopping" in plan.parameters:
        found.append("after how many steps it stopped")
    return f"final weights and {', '.join(found)}" if found else "final weights only"


def other_inputs(study: StudySpec, plan: Plan) -> list[JSON]:
    """Every input beside the private ones: public data by address, synthetic data by Release.

    Whether public data is nobody's private data is the platform engineer's word, or the driver's
    that recognizes a published set; a reader of the certificate sees what was taken to be so.
    """
    named = plan.parameters.get(_PUBLIC_INPUTS, ())
    found: list[JSON] = [
        {"role": DataRole.PUBLIC.value, "uri": item["uri"], "options": item.get("options", {})}
        for item in (named if isinstance(named, list | tuple) else ())
        if isinstance(item, Mapping)
    ]
    found += [
        {"role": item.role.value, "release": item.release}
        for item in study.inputs
        if item.role is DataRole.SYNTHETIC
    ]
    return found


def unprotected_quantities(budgets: Sequence[DatasetFacts]) -> list[JSON]:
    """What anyone may learn without a charge; always listed, never argued away."""
    found: list[JSON] = [
        {"quantity": bit, "why": "one bit: a verdict that shaped whether this was released"}
        for bit in _VERDICT_BITS
    ]
    for facts in budgets:
        name = facts.budget
        where = f" in blocks {', '.join(facts.blocks)}" if facts.blocks else ""
        units = f"{facts.units} units of budget {name}{where}"
        found.append({"quantity": units, "why": "declared public by its steward"})
        options = sorted(str(option) for option in facts.dataset.options)
        if options:
            text = f"dataset options of budget {name}: {', '.join(options)}"
            found.append({"quantity": text, "why": "configuration anyone may see"})
        found += [
            {"quantity": f"{disclosure} on budget {name}", "why": "allowed by its disclosures"}
            for disclosure in facts.disclosures
        ]
    found.append({"quantity": "class list and feature names", "why": "part of the artifact's form"})
    found.append({"quantity": "architecture and hyper-parameters", "why": "part of the plan"})
    return found
