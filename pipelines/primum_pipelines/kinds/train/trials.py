"""One trial of a search: a private training at one point of the space, and its score.

Must not know how many trials there are, decide what one costs, or score a model by exact figures of
private units.
"""

from __future__ import annotations

import io
import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from primum.domain.accounting.events import Event
from primum.domain.canonical import JSON, canonical_json, decimal_text
from primum.domain.errors import InvalidValue
from primum.domain.study.plan import Treatment
from primum.domain.study.steps import WorkRequest, work_request_from_json
from primum_pipelines.datasets.access import OtherInput, open_others, open_private
from primum_pipelines.datasets.checks import require_sound
from primum_pipelines.kinds.train import fitting, sharing
from primum_pipelines.kinds.train.early_stopping import HELD_OUT
from primum_pipelines.kinds.train.sampling import rate_of, steps_of
from primum_pipelines.kinds.train.search import FIELD, Search, from_plan, placed
from primum_pipelines.kinds.train.stopping import private_score, public_score
from primum_pipelines.kinds.training import executed_event, fresh_model, model_spec, whole
from primum_pipelines.models.artifact import ModelSpec
from primum_pipelines.models.registry import model_named
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import TrainingReport
from primum_pipelines.optimization.settings import ClippingRule
from primum_pipelines.progress import keep_traceback
from primum_pipelines.steps import records

if TYPE_CHECKING:
    from torch import nn

    from primum_pipelines.datasets.table import UnitTable

PART = "primum_pipelines.kinds.train.trials:part"
"""The function that runs one trial in a worker of its own."""


@dataclass(frozen=True, slots=True, repr=False)
class Tried:
    """One trial that ran.

    Args:
        point: Its point of the space.
        parameters: The plan's parameters with the point put in.
        spec: What its model is.
        module: Its model.
        trained: What its training reported.
        event: What its training did, without the score.
        score: Its accuracy, noisy if it was taken on private units; minus infinity if its weights
            are of no use.
    """

    point: Mapping[str, JSON]
    parameters: Mapping[str, JSON]
    spec: ModelSpec
    module: nn.Module
    trained: fitting.Trained
    event: Event
    score: float


@dataclass(frozen=True, slots=True, repr=False)
class Inputs:
    """What all trials of a search see.

    Args:
        request: The step's request.
        table: The private data.
        others: The Study's public and synthetic inputs.
        sealed: Which canaries are in; the same ones in every trial. ``None`` without canaries.
    """

    request: WorkRequest
    table: UnitTable
    others: Sequence[OtherInput]
    sealed: canaries.SealedCoins | None


def inputs_of(request: WorkRequest, table: UnitTable, others: Sequence[OtherInput]) -> Inputs:
    """What the trials of a plan's search see; canaries are drawn here, once."""
    count = whole(records.plan_of(request).parameters, "canaries")
    return Inputs(request, table, others, canaries.seal(count) if count else None)


def run_trial(inputs: Inputs, wanted: Search, point: Mapping[str, JSON]) -> Tried:
    """Train at one point of the space and score what came out.

    Args:
        inputs: What all trials see.
        wanted: The search.
        point: The point.
    """
    request, table = inputs.request, inputs.table
    parameters = parameters_at(records.plan_of(request).parameters, point)
    spec = model_spec(request, parameters, table)
    module = fresh_model(spec)
    for other in inputs.others:
        fitting.fit_ordinary(module, other.table, spec, parameters=parameters)
    module.to(sharing.own_device(request))
    trained = fitting.fit_privately(
        request, parameters, module, table, spec, trial=fitting.Trial(inputs.sealed)
    )
    module.cpu()
    score = -math.inf
    if not trained.report.stopped:
        module.eval()
        score = _scorer(inputs, wanted, module, spec, parameters)(module)
    event = executed_event(trained.report, parameters)
    return Tried(point, parameters, spec, module, trained, event, score)


def parameters_at(parameters: Mapping[str, JSON], point: Mapping[str, JSON]) -> dict[str, JSON]:
    """The plan's parameters with a point of the space put in, rate and steps included.

    Raises:
        InvalidValue: If a model parameter breaks its rule.
    """
    found = placed(parameters, point)
    rate = rate_of(whole(found, "batchSize"), units=whole(found, "trainUnits"))
    steps = steps_of(whole(found, "epochs"), sample_rate=rate)
    given = records.mapping(found["modelParameters"])
    return found | {
        "sampleRate": decimal_text(rate),
        "steps": steps,
        "modelParameters": dict(model_named(str(found["model"])).check(given)),
    }


def _scorer(
    inputs: Inputs,
    wanted: Search,
    module: nn.Module,
    spec: ModelSpec,
    parameters: Mapping[str, JSON],
) -> Callable[[nn.Module], float]:
    if wanted.score != HELD_OUT:
        tables = [other.table for other in inputs.others if other.role.value == wanted.score]
        return public_score(tables, module, spec)
    if wanted.noise_multiplier is None:
        raise InvalidValue("plan.search.noiseMultiplier", "must be given with HeldOut", "none")
    return private_score(
        inputs.table,
        module,
        spec,
        expected_units=whole(records.mapping(parameters[FIELD]), "heldOutUnits"),
        noise_multiplier=float(wanted.noise_multiplier),
    )


def part(shared: bytes, item: str) -> bytes:
    """One trial of a fixed number, in a worker of its own that opens the data by the token itself.

    Args:
        shared: What ``shared_bytes`` gave.
        item: The point, as JSON.

    Returns:
        What ``tried_of`` takes.
    """
    held = json.loads(shared)
    request = work_request_from_json(held["request"])
    try:
        return _bytes_of(_opened_trial(request, str(held["coins"]).encode(), json.loads(item)))
    except Exception as error:
        # Nobody outside of this worker may read what went wrong, but for the steward.
        text = "".join(traceback.format_exception(error))
        keep_traceback(request.artifacts_uri, str(request.context["step"]), text)
        raise


def _opened_trial(request: WorkRequest, coins: bytes, point: Mapping[str, JSON]) -> Tried:
    plan = records.plan_of(request)
    (access,) = [a for a in plan.accesses if a.step == "job" and a.treatment is Treatment.CHARGED]
    table = open_private(request, access.name)
    require_sound(table)
    inputs = Inputs(
        request, table, open_others(request), canaries.unsealed(coins) if coins else None
    )
    with sharing.own_threads(request):
        wanted = from_plan(records.mapping(plan.parameters[FIELD]))
        return run_trial(inputs, wanted, point)


def shared_bytes(inputs: Inputs) -> bytes:
    """What every worker needs for a trial: the request with its tokens, and the sealed coins."""
    coins = "" if inputs.sealed is None else canaries.sealed_bytes(inputs.sealed).decode()
    return canonical_json({"request": inputs.request.to_json(), "coins": coins})


def tried_of(answer: bytes, point: Mapping[str, JSON], inputs: Inputs) -> Tried:
    """A trial that a worker ran.

    Args:
        answer: What ``part`` gave.
        point: Its point.
        inputs: What all trials see.
    """
    held: dict[str, Any] = torch.load(io.BytesIO(answer), weights_only=True, map_location="cpu")
    parameters = parameters_at(records.plan_of(inputs.request).parameters, point)
    spec = model_spec(inputs.request, parameters, inputs.table)
    module = fresh_model(spec)
    module.load_state_dict(held["state"])
    told = dict(held["report"])
    report = TrainingReport(
        **{
            **told,
            "executed": tuple((noise, rate, steps) for noise, rate, steps in told["executed"]),
            "clipping": ClippingRule(told["clipping"]),
            "iterates": tuple(told["iterates"]),
        }
    )
    trained = fitting.Trained(report, inputs.sealed)
    event = executed_event(report, parameters)
    return Tried(point, parameters, spec, module, trained, event, float(held["score"]))


def _bytes_of(tried: Tried) -> bytes:
    """Tensors, numbers and texts alone, so that nothing is unpickled freely on the other side."""
    report = tried.trained.report
    buffer = io.BytesIO()
    torch.save(
        {
            "state": tried.module.state_dict(),
            "score": tried.score,
            "report": {
                "executed": [list(run) for run in report.executed],
                "max_grad_norm": report.max_grad_norm,
                "sampling": report.sampling,
                "generator": report.generator,
                "update_sums": dict(report.update_sums),
                "presence": dict(report.presence),
                "diagnostics": {name: str(v) for name, v in report.diagnostics.items()},
                "clipping": report.clipping.value,
                "gradients": report.gradients,
                "iterates": [dict(state) for state in report.iterates],
                "stopped": report.stopped,
            },
        },
        buffer,
    )
    return buffer.getvalue()
