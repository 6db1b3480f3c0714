"""DP-SGD (Abadi et al. 2016, algorithm 1) with Poisson sampling over units.

Per step: every unit takes part independently with probability q; the gradient of each unit,
however many rows it has, is clipped to C in L2; the clipped gradients are summed;
N(0, (sigma C)^2) is added once; the sum is divided by the public constant q x expected_units, never
by the realized batch size. Must not look at the data in any other way: no batch statistics, no
data-dependent learning rate, and no end before the planned steps but by the task's stopping rule.

With individual filters every unit that is still in is charged in every step by the norm of its
gradient at that step's model, drawn or not, so each step computes the gradients of all of them:
about 1/q times the work. The number of steps is the planned one, whoever is left: stopping when the
last unit has gone would tell when that was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from primum.domain.canonical import decimal_text
from primum.domain.errors import InvalidValue, Unavailable
from primum_pipelines.models.registry import refuse_batch_statistics
from primum_pipelines.optimization.algorithm import TrainingReport, TrainingTask

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from primum_pipelines.optimization.clipping import Clipped
    from primum_pipelines.optimization.descent import Mover
    from primum_pipelines.optimization.gradients.contributions import UnitGradients
    from primum_pipelines.optimization.gradients.segments import Segments
    from primum_pipelines.optimization.individual_filter import RenyiFilter
    from primum_pipelines.optimization.randomness import RandomSource
    from primum_pipelines.optimization.virtual_batches import VirtualBatch

_TINY = 1e-12
_LOST_PARTS_MOST = 2  # A model that made less than half of its steps is of no use.


class DPSGD:
    """The reviewed algorithm.

    Guarantees:
        What ``fit`` reports is a ``Repeated(SubsampledGaussian(sigma, q), steps)`` event on the
        units of the task under add-or-remove-one, whatever the loss is, as long as the loss of a
        row depends on this row and the parameters alone. With individual filters, and beyond the
        steps of the bound, it is an ``IndividuallyFiltered`` event with the bound
        ``Repeated(SubsampledGaussian(sigma, q), bound_steps)``. Clipping rule, gradient mode,
        augmentations and everything in ``Descent`` leave that as it is, and so does a group of
        workers: the event is on the units of all of them.
    """

    name = "DPSGD"
    reviewed = True
    announces = True
    reads = frozenset(
        {
            "averaging",
            "augmentation",
            "biasAware",
            "clipping",
            "earlyStopping",
            "ensemble",
            "gradients",
            "individualFilter",
            "langevin",
            "momentum",
            "optimizer",
            "precision",
            "rowsAtOnce",
            "schedule",
            "units",
            "warmUp",
            "weightDecay",
            "workers",
        }
    )

    def fit(self, task: TrainingTask) -> TrainingReport:
        """Train ``task.module`` in place.

        Returns:
            What was really done, with the noisy sums per parameter.

        Raises:
            InvalidValue: If the mechanism, the optimizer, the module or the loss breaks a rule.
        """
        _check(task)
        run = _Run(task)
        run.resume()
        while run.steps < task.mechanism.steps and not run.ended:
            run.step()
        return run.finish()


class _Run:
    """The state of one training: the noisy sums so far and the number of steps really taken."""

    def __init__(self, task: TrainingTask) -> None:
        import torch

        from primum_pipelines.datasets.units import one_row_each
        from primum_pipelines.optimization.distributed import Alone, begin
        from primum_pipelines.optimization.gradients.engine import engine_of
        from primum_pipelines.optimization.noisy_sums import NoisySums
        from primum_pipelines.optimization.presence import Presence
        from primum_pipelines.optimization.randomness import random_source
        from primum_pipelines.optimization.virtual_batches import PartSize

        self._task = task
        self._source = random_source(None if task.seed is None else task.seed + 1)
        self._noise = random_source(task.seed)
        self._named = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        self._units = one_row_each(len(task.inputs[0])) if task.units is None else task.units
        self._group = task.group or Alone()
        self._place = self._group.place(self._units.count)
        begin(self._group, task.module)
        self._dtype = next(iter(self._named.values())).dtype
        self._engine = engine_of(task.module, task.gradients, task.precision)
        mechanism = task.mechanism
        self._sums = NoisySums(
            {name: parameter.detach() for name, parameter in self._named.items()},
            noise_multiplier=mechanism.noise_multiplier,
            max_grad_norm=mechanism.max_grad_norm,
            source=self._noise,
        )
        self._mover = _mover(task, self._named, source=self._noise)
        self._size = PartSize(task.inputs[0].device, rows_max=task.rows_at_once)
        self._filter = _unit_filters(task, units=self._units.count)
        self._audited_steps = (
            mechanism.steps if mechanism.individual is None else mechanism.individual.bound_steps
        )
        self._checked = False
        wanted = self._named if task.reported_sums is None else task.reported_sums
        self.update_sums = {
            name: torch.zeros_like(p) for name, p in self._named.items() if name in wanted
        }
        self._presence = Presence(
            {} if task.reported_sums is None else self.update_sums,
            noise_multiplier=mechanism.noise_multiplier,
            sample_rate=mechanism.sample_rate,
            max_grad_norm=mechanism.max_grad_norm,
        )
        self.steps = 0
        self.stopped = ""
        self._enough = self._cut_off = False
        self._kept_until = self._lost = 0
        self.units_seen = 0
        self.units_shortened = 0
        self._figures = [0, 0, 0]  # Seen, shortened and dropped units of all workers.

    def resume(self) -> None:
        """Go on from a checkpoint, if there is one; steps that it may have lost are executed."""
        from primum_pipelines.optimization.checkpoints import standing
        from primum_pipelines.optimization.distributed import require_same

        kept = self._task.checkpoints
        found = None if kept is None else standing(kept.path, key=kept.training.key)
        told = None if kept is None else kept.training.executed
        if found is None and told:
            raise InvalidValue("checkpoint", "must be there to go on from", "none of this training")
        mark = [-1, -1] if found is None else [found.done, found.begun]
        require_same(self._group, mark, what="checkpoint")
        if found is None:
            return
        if found.workers != self._group.count:
            raise InvalidValue(
                "checkpoint", f"must be of {self._group.count} workers", found.workers
            )
        state = found.state
        if int(state["units"]) != self._place.total:
            raise InvalidValue("checkpoint", "must be of the units that there are", "of others")
        executed = found.begun if told is None else max(found.done, told)
        self._task.module.load_state_dict(state["model"])
        self._mover.restore(state["mover"], executed=executed)
        for name, total in self.update_sums.items():
            total.copy_(state["sums"][name])
        self._presence.restore(state["presence"])
        if self._filter is not None:
            own = slice(self._place.first, self._place.first + self._place.own)
            self._filter.restore({name: rows[own] for name, rows in state["filter"].items()})
            self._filter.forfeit(executed - found.done)
        if self._task.stopping is not None:
            self._task.stopping.restore(state["stopping"])
        self._figures = list(state["seen"])
        if self._group.rank == 0:  # Counts of all workers: one of them goes on with them.
            self.units_seen, self.units_shortened, _ = self._figures
        self.steps = self._kept_until = executed
        self._lost = int(state["lost"]) + executed - found.done
        if self._lost * _LOST_PARTS_MOST > self._task.mechanism.steps:
            self.stopped = "too few steps are left of it after its worker was lost"

    def _keep(self) -> bool:
        """Write a checkpoint where one is due; whether the next step may be run."""
        kept = self._task.checkpoints
        if kept is None or self.steps < self._kept_until:
            return True
        begun = min(self.steps + kept.every, self._task.mechanism.steps)

        def write() -> bytes:
            state = {
                "model": self._task.module.state_dict(),
                "mover": self._mover.state(),
                "sums": self.update_sums,
                "presence": self._presence.ratios,
                "filter": filters,
                "seen": self._figures,
                "units": self._place.total,
                "lost": self._lost,
                "stopping": {} if self._task.stopping is None else self._task.stopping.state(),
            }
            try:
                kept.write(state, done=self.steps, begun=begun, workers=self._group.count)
            except Unavailable as error:
                return str(error).encode()
            return b""

        try:
            filters = self._filters()
            self.stopped = self._group.told(write).decode()
        except Unavailable as lost:
            self._cut_off_by(lost)
        self._kept_until = begun
        return not self.stopped

    def _filters(self) -> dict[str, torch.Tensor]:
        """The filters of all workers' units, in their order."""
        if self._filter is None:
            return {}
        return {
            name: self._group.rows_at_first(rows, self._place)
            for name, rows in self._filter.state().items()
        }

    def step(self) -> None:
        """One logical batch: sample, clip and sum in virtual batches, noise once, divide, move."""
        if not self._keep():
            return
        if self._task.on_begin is not None:
            self._task.on_begin(self.steps + 1, self._task.mechanism.steps)
        try:
            self._move()
        except Unavailable as lost:
            self._cut_off_by(lost)
        self.steps += 1  # Whoever was lost: its noisy sum may have been made.
        if not self.stopped:
            self._look()
        if self._task.on_step is not None:
            self._task.on_step(self.steps, self._task.mechanism.steps)

    def _move(self) -> None:
        """Everybody sums their own units; the first adds noise and moves; all get its weights."""
        import torch

        from primum_pipelines.optimization.distributed import agree
        from primum_pipelines.optimization.randomness import poisson_sample
        from primum_pipelines.optimization.virtual_batches import virtual_batches

        rate, total = self._task.mechanism.sample_rate, self._place.total
        drawn = self._group.drawn(lambda: poisson_sample(self._source, rows=total, rate=rate))
        here = self._place.here(drawn)
        units = here if self._filter is None else torch.from_numpy(self._filter.active)
        for part in virtual_batches(units, self._units, self._size, copies=self._copies):
            self._add(part, here)
        self._group.sum_at_first(list(self._sums.totals.values()))
        if self._group.rank == 0:
            noisy = self._sums.release()
            if self.steps < self._audited_steps:
                for name, sums in self.update_sums.items():
                    sums.add_(noisy[name])
                self._presence.add(noisy)
            self._mover.move(noisy)
        self._sums.clear()
        dropped = 0 if self._filter is None else self._filter.dropped
        self._figures = agree(
            self._group,
            list(self._named.values()),
            units=(len(here), len(drawn)),
            figures=(self.units_seen, self.units_shortened, dropped),
        )
        if not self._mover.finite():
            # A function of the noisy sums, so that stopping tells no more than they do.
            self.stopped = "weights must stay finite; found infinity or NaN. Lower learningRate."

    def _cut_off_by(self, lost: Unavailable) -> None:
        self.stopped, self._cut_off = str(lost), True

    @property
    def ended(self) -> bool:
        """Whether no further step may or need be run."""
        return bool(self.stopped) or self._enough

    def _look(self) -> None:
        rule = self._task.stopping
        if rule is not None and rule.due(self.steps, steps=self._task.mechanism.steps):
            try:
                with self._mover.released() as module:
                    said = self._group.told(lambda: b"enough" if rule.enough(module) else b"")
            except Unavailable as lost:
                self._cut_off_by(lost)
            else:
                self._enough = bool(said)

    def finish(self) -> TrainingReport:
        """What was done; the model has the weights that are released."""
        if self._group.rank == 0:
            self._mover.finish()
        self._hand_out()
        mechanism = self._task.mechanism
        return TrainingReport(
            executed=((self._sums.noise_multiplier, mechanism.sample_rate, self.steps),),
            max_grad_norm=self._sums.max_grad_norm,
            sampling="Poisson",
            generator=self._noise.name,
            update_sums=self.update_sums,
            presence=self._presence.ratios,
            diagnostics=self._diagnostics(),
            individual=mechanism.individual,
            clipping=mechanism.clipping,
            gradients=self._engine.name,
            iterates=tuple(self._mover.iterates),
            stopped=self.stopped,
            workers=self._group.count,
            lost=self._lost,
            cut_off=self._cut_off,
            looks=0
            if self._task.stopping is None
            else self._task.stopping.looks(self.steps, steps=mechanism.steps),
        )

    def _hand_out(self) -> None:
        """Give everybody the weights that are released."""
        from primum_pipelines.optimization.distributed import begin

        if self.stopped:
            return
        try:
            begin(self._group, self._task.module)
        except Unavailable as lost:
            self._cut_off_by(lost)

    @property
    def _copies(self) -> int:
        return 1 if self._task.augmentation is None else self._task.augmentation.multiplicity

    def _diagnostics(self) -> dict[str, str]:
        """Restricted figures over all units; nothing about one of them."""
        seen, shortened, dropped = self._figures
        found = {"clippedShare": decimal_text(shortened / max(1, seen))}
        if self._filter is not None:
            share = dropped / max(1, self._place.total)
            found["filteredOutShare"] = decimal_text(share)
        return found

    def _add(self, part: VirtualBatch, drawn: torch.Tensor) -> None:
        """Clip the gradients of a part and add what is left of them."""
        from primum_pipelines.optimization.clipping import clip, layer_of
        from primum_pipelines.optimization.gradients.checks import require_apart, require_complete
        from primum_pipelines.optimization.gradients.engine import engine_of

        task = self._task
        rows = tuple(values[part.rows.to(values.device)] for values in task.inputs)
        if task.augmentation is not None:
            rows = (task.augmentation(rows[0]), *rows[1:])
        weights = part.weights.to(rows[0].device, dtype=self._dtype)
        if not self._checked:
            require_apart(task.module, task.loss, rows, segments=part.segments)
            require_complete(
                task.module,
                task.loss,
                rows,
                weights=weights,
                segments=part.segments,
                engine=engine_of(task.module, task.gradients),
                named=self._named,
            )
            self._checked = part.segments.units > 1
        found = self._engine(task.loss, rows, weights=weights, segments=part.segments)
        self._size.learn(numbers=found.numbers, rows=part.segments.rows)
        if not found.parts:
            return
        if self._task.bias_aware:
            found = self._ascended(found, rows, weights, part.segments)
        clipped = clip(
            found.squares(),
            rule=task.mechanism.clipping,
            bound=task.mechanism.max_grad_norm,
            layers=len({layer_of(name) for name in self._named}),
        )
        taken = self._taking_part(part.units, clipped, drawn)
        if not bool(clipped.finite.all()):
            found.drop(~clipped.finite)
        self.units_seen += int(taken.sum())
        self.units_shortened += int((clipped.shortened & taken).sum())
        found.add_to(self._sums.totals, {n: f * taken for n, f in clipped.factors.items()})

    def _ascended(
        self,
        found: UnitGradients,
        rows: tuple[torch.Tensor, ...],
        weights: torch.Tensor,
        segments: Segments,
    ) -> UnitGradients:
        """Each unit's gradient at parameters moved along its own gradient (Knolle et al. 2023)."""
        import torch

        from primum_pipelines.optimization.gradients.functional import Functional

        own = found.formed()
        squares = torch.stack(list(found.squares().values())).sum(dim=0)
        scale = self._task.bias_aware / (squares.sqrt() + _TINY)
        moved = {
            name: torch.einsum("u,u...->u...", scale, own[name])
            if name in own
            else parameter.new_zeros((segments.units, *parameter.shape))
            for name, parameter in self._named.items()
        }
        return Functional(self._task.module).at(
            moved, self._task.loss, rows, weights=weights, segments=segments
        )

    def _taking_part(
        self, units: torch.Tensor, clipped: Clipped, drawn: torch.Tensor
    ) -> torch.Tensor:
        """Which units of a part are summed; with filters all of them are charged."""
        import torch

        if self._filter is None:
            return clipped.finite
        # What is not finite contributes nothing; it is charged in full, to be on the safe side.
        lengths = torch.where(clipped.finite, clipped.lengths, 1.0)
        admitted = self._filter.admit(units.numpy(), lengths.double().cpu().numpy())
        taken = torch.from_numpy(admitted) & torch.isin(units, drawn)
        return taken.to(clipped.finite.device) & clipped.finite


def _mover(
    task: TrainingTask, named: Mapping[str, torch.nn.Parameter], *, source: RandomSource
) -> Mover:
    from primum_pipelines.optimization.descent import Mover

    mechanism = task.mechanism
    return Mover(
        task.module,
        named,
        divisor=mechanism.sample_rate * task.expected_units,
        units=task.expected_units,
        source=source,
        noise_std=mechanism.noise_multiplier * mechanism.max_grad_norm,
        optimizer=task.optimizer,
        learning_rate=task.learning_rate,
        momentum=task.momentum,
        descent=task.descent,
        steps=mechanism.steps,
    )


def _unit_filters(task: TrainingTask, *, units: int) -> RenyiFilter | None:
    from primum_pipelines.optimization.individual_filter import RenyiFilter

    rule = task.mechanism.individual
    if rule is None:
        return None
    return RenyiFilter(
        units=units,
        sample_rate=task.mechanism.sample_rate,
        noise_multiplier=task.mechanism.noise_multiplier,
        rule=rule,
    )


def _check(task: TrainingTask) -> None:
    mechanism = task.mechanism
    positive = {
        "noise_multiplier": mechanism.noise_multiplier,
        "max_grad_norm": mechanism.max_grad_norm,
        "learning_rate": task.learning_rate,
        "expected_units": task.expected_units,
        "steps": mechanism.steps,
    }
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0):
            raise InvalidValue(name, "must be finite and above 0", value)
    if not 0 < mechanism.sample_rate <= 1:
        raise InvalidValue("sample_rate", "must be above 0 and at most 1", mechanism.sample_rate)
    if task.defenses is not None:
        rule = "must be absent with DP-SGD: Mixup and MMD mix units, so clipping bounds nothing"
        raise InvalidValue("defenses", rule, "some")
    if task.checkpoints is not None and task.seed is not None:
        raise InvalidValue("seed", "must be absent with checkpoints", "one: its noise would recur")
    if task.units is not None and task.units.rows != len(task.inputs[0]):
        raise InvalidValue("units", "must cover every row", task.units.rows)
    refuse_batch_statistics(task.module)
    if not any(parameter.requires_grad for parameter in task.module.parameters()):
        raise InvalidValue("model", "must have a parameter to train", "none")
