"""What individual filters cost and give: paired trainings on the same splits, at the same epsilon.

Held-out figures of a bundled data set, for the documentation. Nothing is chosen by them.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install primum[train]")
pytest.importorskip("opacus", reason="needs Opacus: pip install primum[train]")

import numpy as np  # noqa: E402

from primum.domain.accounting.accountant import Guarantee  # noqa: E402
from primum.domain.accounting.calibration import least_noise_multiplier  # noqa: E402
from primum.domain.accounting.events import (  # noqa: E402
    IndividuallyFiltered,
    Repeated,
    SubsampledGaussian,
)
from primum.domain.accounting.individual import FILTER_ORDERS  # noqa: E402
from primum.domain.accounting.rdp import RdpAccountant  # noqa: E402
from primum.domain.quantities import Neighbors, PrivacyUnit  # noqa: E402
from primum_pipelines.datasets.driver import driver_for  # noqa: E402
from primum_pipelines.models.registry import build  # noqa: E402
from primum_pipelines.optimization.algorithm import (  # noqa: E402
    IndividualFilter,
    MechanismParameters,
    TrainingTask,
)
from primum_pipelines.optimization.dpsgd import DPSGD  # noqa: E402

EPOCHS, LONGER, BATCH = 20, 40, 128
EPSILON, DELTA = Decimal(3), Decimal("1e-5")
SEEDS = 20
CLIPS = (1.0, 4.0, 8.0)
URI = "sklearn://breast_cancer"


@dataclass(frozen=True)
class Setting:
    """One way of training; ``noise`` per epsilon of the claim."""

    rate: float
    steps: int
    longer: int
    noise: float
    filtered: bool

    def mechanism(self, clip):
        rule = IndividualFilter(self.steps, FILTER_ORDERS) if self.filtered else None
        steps = self.longer if self.filtered else self.steps
        return MechanismParameters(self.noise, self.rate, steps, clip, rule)


def setting(units, *, filtered):
    rate = (Decimal(BATCH) / units).quantize(Decimal("1e-6"), ROUND_CEILING)
    steps, longer = (math.ceil(Decimal(epochs) / rate) for epochs in (EPOCHS, LONGER))

    def event(noise):
        bound = Repeated(SubsampledGaussian(noise, rate), steps)
        return IndividuallyFiltered(bound, FILTER_ORDERS) if filtered else bound

    noise = least_noise_multiplier(
        accountant=RdpAccountant(),
        event_at=event,
        target=Guarantee(EPSILON, DELTA),
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
    )
    return Setting(float(rate), steps, longer, float(noise), filtered)


def patients():
    table = driver_for(URI).load(URI, PrivacyUnit.PATIENT, {}, [])
    low, high = table.feature_low, table.feature_high
    scaled = 2 * np.clip((table.features - low) / (high - low), 0, 1) - 1
    return scaled.astype(np.float32), np.asarray(table.labels)


def losses(module, features, labels):
    return torch.nn.functional.cross_entropy(module(features), labels, reduction="none")


def fitted(features, labels, how, *, clip, seed):
    torch.manual_seed(0)
    module = build("Logistic", {}, input_shape=features.shape[1:], classes=2)
    started = time.process_time()
    report = DPSGD().fit(
        TrainingTask(
            module=module,
            inputs=(torch.from_numpy(features), torch.from_numpy(labels)),
            loss=losses,
            expected_units=len(labels),
            mechanism=how.mechanism(clip),
            learning_rate=1 / clip,
            seed=1000 + seed,
        )
    )
    seconds = (time.process_time() - started) / sum(count for _, _, count in report.executed)
    return module, float(report.diagnostics.get("filteredOutShare", 0)), seconds


def held_out(features, labels, how, *, clip, seed):
    """Accuracy, loss, recall of the rarer class, share left out, seconds of a step."""
    order = np.random.default_rng(seed).permutation(len(labels))
    train, rest = np.split(order, [int(0.8 * len(order))])
    module, left_out, seconds = fitted(features[train], labels[train], how, clip=clip, seed=seed)
    given, truth = torch.from_numpy(features[rest]), labels[rest]
    with torch.inference_mode():
        chosen = module(given).argmax(1).numpy()
        loss = float(losses(module, given, torch.from_numpy(truth)).mean())
    rare = np.bincount(labels).argmin()
    recall = (chosen[truth == rare] == rare).mean()
    return (chosen == truth).mean(), loss, recall, left_out, seconds


@pytest.mark.timeout(900)
def test_individual_filters_on_a_table(figures):
    torch.set_num_threads(1)
    features, labels = patients()
    units = int(0.8 * len(labels))
    plain, filtered = (setting(units, filtered=value) for value in (False, True))
    ratios = []
    for clip in CLIPS:
        pairs = [
            [held_out(features, labels, how, clip=clip, seed=seed) for how in (plain, filtered)]
            for seed in range(SEEDS)
        ]
        before, after = np.array(pairs).transpose(1, 0, 2)
        ratios.append(np.median(after[:, 4]) / np.median(before[:, 4]))
        figures.show(
            f"individual filters, clip {clip:g}, epsilon {EPSILON}, {EPOCHS} -> {LONGER} epochs",
            ", ".join(
                f"{name} {before[:, i].mean():.3f} -> {after[:, i].mean():.3f} "
                f"({_change(after[:, i] - before[:, i])})"
                for i, name in enumerate(("accuracy", "loss", "recall of the rarer class"))
            )
            + f", left out {after[:, 3].mean():.1%}",
        )
    figures.show(
        f"step with filters / without, {units} units at rate {plain.rate:.2f}",
        f"{np.median(ratios):.1f} x",
    )


def _change(difference):
    """Mean and half the 95 % interval of paired differences."""
    half = 1.96 * difference.std(ddof=1) / math.sqrt(len(difference))
    return f"{difference.mean():+.3f} +- {half:.3f}"
