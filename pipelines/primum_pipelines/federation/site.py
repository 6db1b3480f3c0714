"""One site of a federation: trains behind its own mechanism, answers with weights only.

Clipping and noise are the site's, not the ClientApp's caller's: whatever the server asks for, a
site runs the planned steps under the planned noise and no more rounds than planned. No metric,
count or loss is in a reply.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from primum.domain.errors import Refused
from primum_pipelines.federation.flower import (
    ArrayRecord,
    ClientApp,
    Context,
    Message,
    RecordDict,
)
from primum_pipelines.optimization import canaries
from primum_pipelines.optimization.algorithm import (
    MechanismParameters,
    TrainingAlgorithm,
    TrainingReport,
    TrainingTask,
)
from primum_pipelines.optimization.losses import TaskLoss
from primum_pipelines.optimization.presence import added_up

ARRAYS = "arrays"


@dataclass(frozen=True, slots=True, repr=False)
class SiteTask:
    """What a site trains, on what, under which mechanism.

    Args:
        name: The budget's name.
        features: ``(n, ...)``, scaled by public bounds; one row per unit.
        labels: ``(n,)``.
        mechanism: Of one round: its ``steps`` are the local steps of a round.
        rounds: Rounds that the plan allows.
        train_units: Declared number of training units.
        learning_rate: Of plain SGD.
        sealed: Coins of the canaries planted here, or ``None``.
        seed: For tests on toy data, and for shadows, which are never released.
    """

    name: str
    features: torch.Tensor
    labels: torch.Tensor
    mechanism: MechanismParameters
    rounds: int
    train_units: int
    learning_rate: float
    sealed: canaries.SealedCoins | None = None
    seed: int | None = None


class Site:
    """A site and everything it did so far.

    Args:
        task: What it trains.
        module: Its own copy of the model.
        algorithm: How it trains.
    """

    def __init__(self, task: SiteTask, *, module: nn.Module, algorithm: TrainingAlgorithm) -> None:
        self.task = task
        self.failure: Exception | None = None
        self._module = module
        self._algorithm = algorithm
        self._reports: list[TrainingReport] = []
        sealed = task.sealed
        self._trained = (
            module if sealed is None else canaries.WithCanaries(module, count=len(sealed.coins))
        )
        self._inputs = (
            (task.features, task.labels)
            if sealed is None
            else canaries.add_rows(task.features, task.labels, sealed)
        )

    @property
    def executed(self) -> tuple[tuple[float, float, int], ...]:
        """Runs ``(noise_multiplier, sample_rate, steps)`` as executed; equal neighbors are one."""
        runs: list[tuple[float, float, int]] = []
        for report in self._reports:
            for noise, rate, steps in report.executed:
                if runs and runs[-1][:2] == (noise, rate):
                    runs[-1] = (noise, rate, runs[-1][2] + steps)
                else:
                    runs.append((noise, rate, steps))
        return tuple(runs)

    @property
    def report(self) -> TrainingReport:
        """All rounds as one report; the canaries' sums are added up over the rounds."""
        head = [
            value
            for report in self._reports
            for name, value in report.update_sums.items()
            if name.endswith(canaries.HEAD_PARAMETER)
        ]
        last = self._reports[-1]
        return TrainingReport(
            executed=self.executed,
            max_grad_norm=max(report.max_grad_norm for report in self._reports),
            sampling=last.sampling,
            generator=last.generator,
            update_sums={canaries.HEAD_PARAMETER: torch.stack(head).sum(dim=0)} if head else {},
            presence=added_up(report.presence for report in self._reports),
        )

    def client_app(self) -> ClientApp:
        """The Flower app that answers train messages."""
        app = ClientApp()

        @app.train()  # type: ignore[untyped-decorator] # flwr is not followed by mypy
        def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's
            self._load(message.content[ARRAYS])
            self._train_round()
            arrays = ArrayRecord(self._module.state_dict())
            return Message(RecordDict({ARRAYS: arrays}), reply_to=message)

        return app

    def _load(self, arrays: ArrayRecord) -> None:
        self._module.load_state_dict(arrays.to_torch_state_dict(), strict=True)

    def _train_round(self) -> None:
        task = self.task
        if self.failure is not None or len(self._reports) >= task.rounds:
            raise Refused(
                f"site {task.name} must train at most {task.rounds} rounds; found one more."
            )
        try:
            loss = TaskLoss()
            report = self._algorithm.fit(
                TrainingTask(
                    module=self._trained,
                    inputs=self._inputs,
                    loss=loss if task.sealed is None else canaries.MarkedLoss(loss),
                    expected_units=task.train_units,
                    mechanism=task.mechanism,
                    learning_rate=task.learning_rate,
                    seed=None if task.seed is None else task.seed + 2 * len(self._reports),
                    reported_sums=frozenset({canaries.HEAD_PARAMETER} if task.sealed else ()),
                )
            )
        except Exception as problem:
            # What ran in this round is unknown: the site gives no receipt and is charged in full.
            self.failure = problem
            raise
        self._reports.append(report)
