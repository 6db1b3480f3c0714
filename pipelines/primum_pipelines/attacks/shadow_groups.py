"""Shadows in groups: trained here or by other workers of the step, with the same result.

Every group has a seed of its own that follows from the audit's, so it does not matter who trains it
or in which order. The records go to other workers once, through what they share; nothing is
written. Other workers are asked only where that saves time: the first group is trained here and
timed.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from primum.domain.canonical import JSON, canonical_json, digest_of
from primum.domain.errors import InvalidValue
from primum_pipelines.attacks.pool import Contributions, Pool
from primum_pipelines.attacks.shadow_program import Architecture, Program
from primum_pipelines.steps.records import mapping, texts

if TYPE_CHECKING:
    from primum_pipelines.fan_out import FanOut
    from primum_pipelines.optimization.written.chain import Stack

ENTRY = "primum_pipelines.attacks.shadow_groups:train_part"
_GROUP_OF_ROWS = 32  # Models of tables: calls cost more than arithmetic, so many at once.
_GROUP_OF_IMAGES = 8  # Also of federations. Arithmetic costs more than calls: many small groups.
_GROUP_ON_GPU = 64  # Calls cost more than anything.
_HELP_SECONDS_MIN = 30.0  # Of work that is left: a new worker imports its libraries for seconds.
_WEIGHT, _ABOUT = "weight.", "about"


@dataclass(slots=True, repr=False)
class Groups:
    """Shadows of one pool, trained group by group as far as anybody asks.

    Args:
        program: How they are trained.
        pool: The records.
        members: Which records each shadow has, booleans ``(M, n)``.
        seed: Of all groups.
        stack: What is trained so far, of the first models.
        group_seconds: What the last group that was trained here took; 0 before there was one.
    """

    program: Program
    pool: Pool
    members: torch.Tensor
    seed: int
    stack: Stack | None = None
    group_seconds: float = 0.0

    @property
    def trained(self) -> int:
        """How many models are."""
        return 0 if self.stack is None else len(next(iter(self.stack.values())))

    @property
    def size(self) -> int:
        """Models of one group."""
        sites = 1 if self.pool.sites is None else int(self.pool.sites.max()) + 1
        return group_of(self.pool.inputs.dim() - 1, self.program.device, sites=sites)

    def train(self, models: int, *, fan_out: FanOut) -> Stack:
        """Train at least so many models, in whole groups.

        Args:
            models: How many, at least 1 and at most all of them.
            fan_out: Who may help.

        Returns:
            All that are trained, the first models first.

        Raises:
            InvalidValue: As ``Program.train``.
            Unavailable: If who helps is lost.
        """
        parts = [] if self.stack is None else [self.stack]
        starts = list(range(self.trained, min(models, len(self.members)), self.size))
        while starts:
            if self._is_worth(len(starts), fan_out):
                parts += self._helped(starts, fan_out)
                break
            begun = time.perf_counter()
            parts.append(_trained(self, starts.pop(0)))
            self.group_seconds = time.perf_counter() - begun
        found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self.stack = found
        return found

    def _is_worth(self, groups: int, fan_out: FanOut) -> bool:
        if self.program.device.type != "cpu":
            return False  # Parts are given CPUs alone.
        if groups < 2 or fan_out.workers() < 2:  # noqa: PLR2004 - one does it all
            return False
        return groups * self.group_seconds > _HELP_SECONDS_MIN

    def _helped(self, starts: list[int], fan_out: FanOut) -> list[Stack]:
        items = [json.dumps({"start": start, "seed": self.seed}) for start in starts]
        answers = fan_out.map(ENTRY, _shared_bytes(self), items)
        if not all(answers):
            raise InvalidValue("shadow models", "must be trainable by the recipe", "some were not")
        return [_stack_of(answer) for answer in answers]


def group_of(record_axes: int, device: torch.device, *, sites: int = 1) -> int:
    """Models that are trained together: even, so that complementary halves stay together.

    Args:
        record_axes: Axes of one record; 1 for a row of a table.
        device: Where they are trained.
        sites: Of several, each model is a federation, which is trained by itself.
    """
    if device.type != "cpu":
        return _GROUP_ON_GPU
    return _GROUP_OF_ROWS if record_axes == 1 and sites == 1 else _GROUP_OF_IMAGES


def train_part(shared: bytes, item: str) -> bytes:
    """Train one group in another worker; see ``FanOut.map``."""
    from safetensors.torch import save

    told = json.loads(item)
    groups = _groups_of(shared, seed=int(told["seed"]))
    try:
        stack = _trained(groups, int(told["start"]))
    except InvalidValue:
        return b""  # What was found stays here; the rule is the caller's to say.
    data: bytes = save({name: value.contiguous() for name, value in stack.items()})
    return data


def _trained(groups: Groups, start: int) -> Stack:
    members = groups.members[start : start + groups.size]
    mark = digest_of({"seed": groups.seed, "start": start}).removeprefix("sha256:")
    return groups.program.train(groups.pool, members, seed=int(mark[:15], 16))


def _shared_bytes(groups: Groups) -> bytes:
    """Records, memberships and program as one text of bytes, for other workers of this step."""
    from safetensors.torch import save

    pool, program = groups.pool, groups.program
    about: dict[str, JSON] = {
        "parameters": dict(program.parameters),
        "model": program.architecture.model,
        "modelParameters": dict(program.architecture.parameters),
        "inputShape": list(program.architecture.input_shape),
        "classes": program.architecture.classes,
    }
    found = {f"{_WEIGHT}{name}": value for name, value in program.weights.items()}
    found |= {
        "inputs": pool.inputs,
        "labels": pool.labels,
        "members": groups.members,
        _ABOUT: torch.frombuffer(bytearray(canonical_json(about)), dtype=torch.uint8),
    }
    if pool.sites is not None:
        found["sites"] = pool.sites
    if pool.contributions is not None:
        rows = pool.contributions
        found |= {"rows": rows.inputs, "rowLabels": rows.labels, "owners": rows.owners}
    data: bytes = save({name: value.contiguous() for name, value in found.items()})
    return data


def _groups_of(shared: bytes, *, seed: int) -> Groups:
    from safetensors.torch import load

    found = load(shared)
    about = mapping(json.loads(found[_ABOUT].numpy().tobytes()))
    rows = None
    if "rows" in found:
        rows = Contributions(found["rows"], found["rowLabels"], found["owners"])
    labels = found["labels"]
    pool = Pool(
        inputs=found["inputs"],
        labels=labels,
        members=torch.zeros(len(labels), dtype=torch.bool),  # Training does not ask for them.
        duplicates=0,
        contributions=rows,
        sites=found.get("sites"),
    )
    architecture = Architecture(
        model=str(about["model"]),
        parameters=mapping(about["modelParameters"]),
        input_shape=tuple(int(length) for length in texts(about["inputShape"])),
        classes=int(str(about["classes"])),
    )
    weights = {
        name.removeprefix(_WEIGHT): value
        for name, value in found.items()
        if name.startswith(_WEIGHT)
    }
    program = Program(mapping(about["parameters"]), architecture, weights)
    return Groups(program, pool, found["members"], seed)


def _stack_of(answer: bytes) -> Stack:
    from safetensors.torch import load

    return dict(load(answer))
