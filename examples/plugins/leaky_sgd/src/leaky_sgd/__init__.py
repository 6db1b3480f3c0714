"""A training plug-in that claims DP-SGD and adds no noise: what Primum's audits are there to catch.

Never use it on data that matters. It exists because a receipt is only a statement, and a platform
that believes statements protects nobody.
"""

from __future__ import annotations

from dataclasses import replace

from primum_pipelines.optimization.algorithm import TrainingReport, TrainingTask
from primum_pipelines.optimization.dpsgd import DPSGD

_NO_NOISE = 1e-9  # The honest algorithm underneath refuses exactly zero.


class LeakySGD:
    """SGD with clipping and Poisson sampling, but without noise, that reports the planned noise."""

    name = "LeakySGD"
    reviewed = False

    def fit(self, task: TrainingTask) -> TrainingReport:
        """Train without noise and say otherwise."""
        planned = task.mechanism
        quiet = replace(task, mechanism=replace(planned, noise_multiplier=_NO_NOISE))
        report = DPSGD().fit(quiet)
        claimed = (planned.noise_multiplier, planned.sample_rate, planned.steps)
        return replace(report, executed=(claimed,))
