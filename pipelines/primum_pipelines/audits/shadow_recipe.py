"""Which program trains the shadows of a Study, and what of its recipe no shadow can follow. Light.

Must not decide how shadows are trained; says only what the plan says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum_pipelines.audits.subject import SEARCH

if TYPE_CHECKING:
    from primum_pipelines.attacks.membership import Shadowing
    from primum_pipelines.attacks.shadow_program import Program
    from primum_pipelines.audits.subject import AuditSubject

TRAIN = "Train"
_UNFOLLOWED = (SEARCH, "earlyStopping")  # What was run is not in the plan.
# What plans of other kinds, and of earlier versions, do not state.
_UNSTATED: Mapping[str, JSON] = {
    "algorithm": "DPSGD",
    "optimizer": "SGD",
    "momentum": "0",
    "gradients": "Auto",
    "clipping": "Flat",
    "schedule": "Constant",
    "warmUp": "0",
    "averaging": "0",
    "weightDecay": "0",
    "biasAware": "0",
    "loss": "CrossEntropy",
    "trainable": "All",
    "precision": "Float32",
    "trainUnits": 1,
}


def parameters_of(subject: AuditSubject) -> Mapping[str, JSON]:
    """What shadows are told: the Study's own parameters.

    Raises:
        InvalidValue: If the plan does not say how it trains.
    """
    stated = subject.plan.parameters
    if "learningRate" not in stated:
        raise InvalidValue("plan.parameters.learningRate", "must be stated for shadows", "nothing")
    mechanism = subject.released_by()
    charged: dict[str, JSON] = {
        "noiseMultiplier": decimal_text(mechanism.noise_multiplier),
        "sampleRate": decimal_text(mechanism.sample_rate),
        "steps": mechanism.steps,
        "maxGradNorm": decimal_text(mechanism.max_grad_norm),
    }
    if subject.plan.kind != TRAIN:  # Of several sites, the one that reveals most.
        stated = {n: v for n, v in stated.items() if n in ("learningRate", "positive", "model")}
    return {**_UNSTATED, **charged, **stated}


def unlike(subject: AuditSubject) -> tuple[str, ...]:
    """What of the Study's recipe its shadows do not do: an attack by them is weaker than it seems.

    Returns:
        In the Study's words; empty where shadows train as the Study did.
    """
    if subject.plan.kind != TRAIN:
        return (f"job kind {subject.plan.kind}",)
    return tuple(name for name in _UNFOLLOWED if name in subject.plan.parameters)


def program_of(subject: AuditSubject, shadowing: Shadowing) -> Program:
    """How shadows are trained: from the Study's initial weights, by the Study's recipe.

    Args:
        subject: The Study.
        shadowing: Whether the attacker knows the architecture; of another one, everything else of
            the recipe is the same.

    Raises:
        InvalidValue: If the plan does not say how it trains.
        NotFound: If a public or released input is gone.
        Tampered: If one is not what was released.
    """
    from primum_pipelines.attacks.membership import architecture_of
    from primum_pipelines.attacks.shadow_program import Program
    from primum_pipelines.kinds.train import fitting
    from primum_pipelines.kinds.train.sharing import own_device
    from primum_pipelines.kinds.training import fresh_model

    parameters, spec = parameters_of(subject), subject.model().spec
    architecture = architecture_of(spec, shadowing)
    other = replace(spec, model=architecture.model, parameters=architecture.parameters)
    module = fresh_model(other)
    for table in subject.other_tables():
        fitting.fit_ordinary(module, table, other, parameters=parameters)
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return Program(parameters, architecture, weights, own_device(subject.request))
