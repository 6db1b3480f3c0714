"""Which program trains the shadows of a Study, and what of its recipe no shadow repeats. Light.

What the plan leaves to the run comes from the record that the job left of it; an attacker is taken
to know it, as evidence says it in public:

* Of a search, shadows are trained at the winner's point. That it won is not repeated.
* Of a training that a rule ended, shadows run as many steps, on the planned schedule. When to end
  is not decided anew: who sees the model knows how long it was trained, and shadows of that length
  attack as well as shadows that each stop by themselves (decision 0037 has figures). How the end
  was chosen is public, or a mechanism of its own that the plan charges.
* Of a federation, shadows are federations of the same sites, by the Study's own sites and server,
  with half of every site's records. Records of the site that reveals most are attacked.

What is not repeated are choices by noisy or public scores. They are part of the event that the
claim is about, so a bound covers them; an attack that repeated them could find a little more. A
Pass does not need the best attack: it says that the lower bound is at most the claim, that the
sample sizes could have shown more, and that the low tail is within its bound. So it stands where
the released model's own recipe was followed, and what was left out is said. Where the record is
missing, shadows are of another recipe than the model, and a Pass becomes Inconclusive.

Must not decide how shadows are trained; says only what plan and record say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue
from primum_pipelines.audits.subject import FEDERATE, SEARCH
from primum_pipelines.kinds.train import run_record
from primum_pipelines.kinds.train.early_stopping import FIELD as STOPPING
from primum_pipelines.kinds.train.search import from_plan

if TYPE_CHECKING:
    import torch

    from primum_pipelines.attacks.membership import Shadowing
    from primum_pipelines.attacks.shadow_program import Program
    from primum_pipelines.audits.subject import AuditSubject
    from primum_pipelines.kinds.train.run_record import RunRecord

TRAIN = "Train"
_LEFT_TO_THE_RUN = (SEARCH, STOPPING)
_NOT_REPEATED: Mapping[str, str] = {
    SEARCH: "the choice among trials, which the claim covers",
    STOPPING: "the choice of when to end, which the claim covers or needs no charge",
    FEDERATE: "records of the other sites, which are trained on and not attacked",
}
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
    """What shadows are told: the Study's own parameters, with what its run decided.

    Without a record of the run they are those of the plan.

    Raises:
        InvalidValue: If the plan does not say how it trains.
        NotFound: If it is of a federation and does not let audits open every site.
        Tampered: If the record of the run does not fit the plan.
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
    if subject.plan.kind == FEDERATE:
        from primum_pipelines.attacks.federated_shadows import FEDERATED

        order: dict[str, JSON] = {FEDERATED: list(subject.site_order())}
        return {**_UNSTATED, **charged, **stated, **order}
    if subject.plan.kind != TRAIN:  # Of several mechanisms, the one that reveals most.
        stated = {n: v for n, v in stated.items() if n in ("learningRate", "positive", "model")}
        return {**_UNSTATED, **charged, **stated}
    found = {**_UNSTATED, **charged, **stated}
    ran = recorded(subject)
    if ran is not None and ran.chosen:
        from primum_pipelines.kinds.train.trials import parameters_at

        found = parameters_at(found, ran.chosen)
    if ran is not None and STOPPING in stated:
        found[run_record.EXECUTED] = ran.steps
    return {name: value for name, value in found.items() if name not in _LEFT_TO_THE_RUN}


def recorded(subject: AuditSubject) -> RunRecord | None:
    """What the job recorded of its run; ``None`` where the plan left nothing, or before the job.

    Raises:
        NotFound: If the record is gone.
        Tampered: If it is not what was recorded, or does not fit the plan.
    """
    stated = subject.plan.parameters
    asked = any(name in stated for name in _LEFT_TO_THE_RUN)
    if not asked or run_record.ARTIFACT_KIND not in subject.artifacts:
        return None
    search = stated.get(SEARCH)
    space = from_plan(search).space if isinstance(search, Mapping) else ()
    return run_record.from_json(
        subject.artifact_json(run_record.ARTIFACT_KIND),
        space=frozenset(item.parameter for item in space),
        steps_planned=int(str(stated["steps"])),
    )


def unlike(subject: AuditSubject) -> tuple[str, ...]:
    """What of the Study's recipe its shadows do not do: an attack by them is weaker than it seems.

    Returns:
        In the Study's words; empty where shadows train as the Study's model was trained.
    """
    if subject.plan.kind == FEDERATE:
        return ()
    if subject.plan.kind != TRAIN:
        return (f"job kind {subject.plan.kind}",)
    if recorded(subject) is not None:
        return ()
    return tuple(name for name in _LEFT_TO_THE_RUN if name in subject.plan.parameters)


def not_repeated(subject: AuditSubject) -> tuple[str, ...]:
    """What shadows that follow the recipe leave out all the same, in words for the record."""
    known = {*subject.plan.parameters, subject.plan.kind}
    return tuple(words for name, words in _NOT_REPEATED.items() if name in known)


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
    from primum_pipelines.kinds.training import fresh_model

    parameters, spec = parameters_of(subject), subject.model().spec
    architecture = architecture_of(spec, shadowing)
    other = replace(spec, model=architecture.model, parameters=architecture.parameters)
    module = fresh_model(other)
    for table in subject.other_tables():
        fitting.fit_ordinary(module, table, other, parameters=parameters)
    weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
    return Program(parameters, architecture, weights, device_of(subject))


def device_of(subject: AuditSubject) -> torch.device:
    """Where shadows are trained: where this worker computes; a federation always on the CPU.

    Raises:
        InvalidValue: If a GPU was asked for and this process sees none.
    """
    import torch

    from primum_pipelines.kinds.train.sharing import own_device

    return torch.device("cpu") if subject.plan.kind == FEDERATE else own_device(subject.request)
