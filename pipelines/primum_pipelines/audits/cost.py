"""What a planned audit would cost: a short run of the same program on random numbers.

Reads a plan and public facts of datasets; opens nothing, and what it trains on is noise of the same
shape. Says that nobody knows rather than guess.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from primum import extensions
from primum.domain.canonical import JSON, decimal_text
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.study.plan import Plan, plan_from_json
from primum.domain.study.steps import WorkRequest
from primum_pipelines.audits.membership import ShadowAudit, recipe_of
from primum_pipelines.audits.subject import AuditSubject, mechanisms_of
from primum_pipelines.datasets.driver import describe
from primum_pipelines.steps import records

if TYPE_CHECKING:
    import torch

    from primum_pipelines.attacks.membership import Effort
    from primum_pipelines.attacks.shadows import Recipe
    from primum_pipelines.models.artifact import LoadedModel

GROUP = "primum.audits"
METHOD = "a short run on random numbers of the same shape, CPU seconds, scaled"
ERROR_FACTOR = 3  # Of measured estimates on one machine; see docs/audits.md.
_MODELS_TRIED = 8
_STEPS_TRIED = 3
_RECORDS_TRIED = 2000
_FLOAT_BYTES = 4
_ROWS_AT_ONCE = 4096  # As the stacked program holds at once.
_COPIES = 5  # Parameters, gradients, sums, noise, and one slot of the optimizer.


@dataclass(frozen=True, slots=True, repr=False)
class _PlannedSubject(AuditSubject):
    """A Study that was not run: its model is an untrained one."""

    planned: LoadedModel

    def model(self) -> LoadedModel:
        """The architecture, with random weights."""
        return self.planned


def estimate(payload: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    """What each audit of a plan would cost on this machine.

    Args:
        payload: ``plan``; ``datasets`` by budget with ``uri``, ``options`` and ``units``;
            ``audits`` with ``kind``, ``attack`` and ``parameters``.

    Returns:
        Per audit ``attack``, ``cpuSeconds``, ``gpuSeconds`` and ``memoryBytes`` as decimal strings,
        ``shadows`` and ``method``; only ``attack`` and ``method``, saying why, where nobody knows.
    """
    plan = plan_from_json(records.mapping(payload["plan"]))
    audits = payload["audits"]
    if isinstance(audits, str) or not isinstance(audits, list | tuple):
        raise InvalidValue("audits", "must be a list", type(audits).__name__)
    return [_one(plan, payload, records.mapping(item)) for item in audits]


def _one(plan: Plan, payload: Mapping[str, JSON], asked: Mapping[str, JSON]) -> dict[str, JSON]:
    name = str(asked["attack"])
    try:
        audit = extensions.load(GROUP, name)()
        if not isinstance(audit, ShadowAudit):
            return _unknown(name, "no shadows are trained, and no run of it is on record")
        subject, units = _planned(plan, payload)
        parameters = records.mapping(asked.get("parameters") or {})
        effort = audit.attack(subject, parameters).effort
        recipe = recipe_of(subject)
        seconds = _seconds(subject, recipe, effort, units=units)
    except (InvalidValue, NotFound) as problem:
        return _unknown(name, str(problem))
    return {
        "attack": name,
        "shadows": effort.shadows,
        "cpuSeconds": decimal_text(round(seconds, 1)),
        "gpuSeconds": "0",
        "memoryBytes": decimal_text(_memory(subject, recipe, effort, units=units)),
        "method": METHOD,
        "errorFactor": ERROR_FACTOR,
    }


def _unknown(attack: str, why: str) -> dict[str, JSON]:
    return {"attack": attack, "method": f"unknown: {why}"}


def _planned(plan: Plan, payload: Mapping[str, JSON]) -> tuple[_PlannedSubject, int]:
    from primum_pipelines.models.artifact import LoadedModel, ModelSpec
    from primum_pipelines.models.registry import build

    name = plan.mechanism.get("model")
    if not isinstance(name, str):
        raise InvalidValue("plan.mechanism.model", "must name the architecture", "nothing")
    shape, classes, units = _facts(payload)
    given = records.mapping(plan.parameters.get("modelParameters") or {})
    module = build(name, given, input_shape=shape, classes=len(classes))
    spec = ModelSpec(name, given, shape, classes, classes[-1], (), (), (), study="")
    request = WorkRequest(
        context={}, tokens={}, public_key="", artifacts_uri="", data_dirs=[], inputs={}
    )
    model = LoadedModel(module.eval(), spec)
    return _PlannedSubject(request, plan, mechanisms_of(plan), {}, model), units


def _facts(payload: Mapping[str, JSON]) -> tuple[tuple[int, ...], tuple[str, ...], int]:
    """Shape of a record, classes and units, from what drivers say in public."""
    for value in records.mapping(payload["datasets"]).values():
        dataset = records.mapping(value)
        options = records.mapping(dataset.get("options") or {})
        known = describe(str(dataset["uri"]), options)
        shape, classes = known.get("inputShape"), known.get("classes")
        if not isinstance(shape, list | tuple) or not isinstance(classes, list | tuple):
            continue
        if shape and classes:
            lengths = tuple(int(str(length)) for length in shape)
            return lengths, tuple(str(item) for item in classes), int(str(dataset["units"]))
    raise NotFound("shape and classes of the records are not known before the data is opened")


def _seconds(subject: AuditSubject, recipe: Recipe, effort: Effort, *, units: int) -> float:
    import torch

    from primum_pipelines.attacks import shadows
    from primum_pipelines.attacks.membership import builder
    from primum_pipelines.attacks.pool import Pool

    spec = subject.model().spec
    rows = min(effort.pool, units)
    tried, models = min(rows, _RECORDS_TRIED), min(effort.shadows, _MODELS_TRIED)
    generator = torch.Generator().manual_seed(0)
    pool = Pool(
        inputs=torch.rand((tried, *spec.input_shape), generator=generator) * 2 - 1,
        labels=torch.randint(len(spec.classes), (tried,), generator=generator),
        members=torch.ones(tried, dtype=torch.bool),
        duplicates=0,
    )
    fresh = builder(spec, effort.shadowing)
    had = shadows.complementary_halves(models, tried, generator=generator)

    def trained(steps: int) -> tuple[float, shadows.Stack]:
        start = time.process_time()
        short = replace(recipe, steps=steps)
        stack = shadows.train_stacked(fresh, pool, had, short, generator=generator)
        return time.process_time() - start, stack

    trained(1)  # Warm-up.
    once, _ = trained(1)
    more, stack = trained(1 + _STEPS_TRIED)
    step = max(0.0, more - once) / _STEPS_TRIED
    start = time.process_time()
    shadows.logits_of(fresh(), stack, pool.inputs)
    query = time.process_time() - start
    scale = effort.shadows / models * rows / tried
    return scale * (step * recipe.steps + query * effort.queries)


def _memory(subject: AuditSubject, recipe: Recipe, effort: Effort, *, units: int) -> int:
    """Weights of all shadows, what the stacked program holds at once, the pool and its answers."""
    import torch

    spec = subject.model().spec
    module = subject.model().module
    weights = sum(parameter.numel() for parameter in module.parameters())
    seen: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda _m, given, out: seen.append(_held(given, out)))
        for layer in module.modules()
        if not list(layer.children())
    ]
    with torch.no_grad():
        module(torch.zeros((1, *spec.input_shape)))
    for hook in hooks:
        hook.remove()
    rows = min(effort.pool, units)
    batch = max(1, math.ceil(recipe.sample_rate * rows / 2))
    at_once = max(batch, min(effort.shadows * batch, _ROWS_AT_ONCE))
    answers = effort.shadows * rows * effort.queries * len(spec.classes) * 2
    pool = rows * math.prod(spec.input_shape) * (1 + effort.queries)
    held = _COPIES * effort.shadows * weights + 2 * at_once * sum(seen) + answers + pool
    return int(held) * _FLOAT_BYTES


def _held(given: tuple[torch.Tensor, ...], out: torch.Tensor) -> int:
    return int(out.numel()) + sum(int(item.numel()) for item in given)
