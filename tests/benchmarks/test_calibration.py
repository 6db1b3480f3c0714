"""Can stated probabilities be believed, and would another run have said the same? At no charge.

PneumoniaMNIST at (3, 1e-5), several independent runs of one recipe. Its validation part plays the
public data that a temperature is fitted on; nothing else sees it. Iterates of one run resemble each
other more than runs do, so what abstention leaves is measured between runs too.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
from decimal import Decimal
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install primum[train]")

import numpy as np  # noqa: E402

from primum.domain.accounting.accountant import Guarantee  # noqa: E402
from primum.domain.accounting.calibration import least_noise_multiplier  # noqa: E402
from primum.domain.accounting.events import Repeated, SubsampledGaussian  # noqa: E402
from primum.domain.accounting.pld import PldAccountant  # noqa: E402
from primum.domain.quantities import Neighbors  # noqa: E402
from primum_pipelines.evaluation import calibration, multiplicity  # noqa: E402
from primum_pipelines.evaluation.figures import Scored  # noqa: E402
from primum_pipelines.models.registry import build  # noqa: E402
from primum_pipelines.optimization.algorithm import (  # noqa: E402
    MechanismParameters,
    TrainingTask,
)
from primum_pipelines.optimization.dpsgd import DPSGD  # noqa: E402
from primum_pipelines.optimization.losses import TaskLoss  # noqa: E402
from primum_pipelines.optimization.settings import Descent  # noqa: E402

PNEUMONIA = "pneumoniamnist/pneumoniamnist_rebuilt.npz"
BATCH, EPOCHS, CLIP = 512, 20, 0.5
MEMBERS, RUNS = 20, 4
AGREEMENTS = (0.9, 1.0)


def loaded():
    """Training, validation and test rows with labels."""
    assets = os.environ.get("PRIMUM_TEST_ASSETS")
    if assets is None or not (Path(assets) / "data" / PNEUMONIA).exists():
        pytest.skip("needs the image sets of PRIMUM_TEST_ASSETS")
    with np.load(Path(assets) / "data" / PNEUMONIA) as held:
        return {
            side: (
                torch.from_numpy(held[f"{side}_images"].astype(np.float32)[:, None] / 127.5 - 1),
                torch.from_numpy(held[f"{side}_labels"].astype(np.int64).ravel()),
            )
            for side in ("train", "val", "test")
        }


def run(rows, labels, *, seed):
    """One private training: its last weights, and its members."""
    torch.manual_seed(seed)
    module = build("SmallCNN", {}, input_shape=(1, 28, 28), classes=2)
    rate = (Decimal(BATCH) / len(labels)).quantize(Decimal("1e-6"))
    steps = math.ceil(EPOCHS / rate)
    noise = least_noise_multiplier(
        accountant=PldAccountant(),
        event_at=lambda sigma: Repeated(SubsampledGaussian(sigma, rate), steps),
        target=Guarantee(Decimal(3), Decimal("1e-5")),
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
    )
    report = DPSGD().fit(
        TrainingTask(
            module=module,
            inputs=(rows, labels),
            loss=TaskLoss(),
            expected_units=len(labels),
            mechanism=MechanismParameters(float(noise), float(rate), steps, CLIP),
            learning_rate=1.0,
            momentum=0.9,
            descent=Descent(samples=MEMBERS),
            reported_sums=frozenset(),
        )
    )
    return module, report.iterates


def said(module, rows):
    module.eval()
    with torch.inference_mode():
        logits = torch.cat([module(part) for part in rows.split(500)]).double()
    return logits.softmax(dim=1).numpy()


def of_members(module, states, rows):
    found = []
    for state in states:
        module.load_state_dict(state)
        found.append(said(module, rows))
    return np.stack(found)


def ece(probabilities, labels):
    scored = Scored(labels.numpy(), probabilities, positive=1)
    return calibration.calibration(scored)["ece"].estimate


@pytest.mark.timeout(14_400)
def test_calibration_and_multiplicity_at_no_extra_charge(figures):
    data = loaded()
    (rows, labels), (public, public_labels), (test, truth) = data.values()
    torch.set_num_threads(1)
    errors = {"last weights": [], "temperature": [], "ensemble": [], "ensemble, temperature": []}
    measured, runs = [], []
    for seed in range(int(os.environ.get("PRIMUM_BENCH_SEEDS", RUNS))):
        module, states = run(rows, labels, seed=seed)
        alone = said(module, public), said(module, test)
        each = of_members(module, states, public), of_members(module, states, test)
        together = tuple(part.mean(axis=0) for part in each)
        for name, (fitted, asked) in (("", alone), ("ensemble", together)):
            heat = calibration.fit_temperature(fitted, public_labels.numpy())
            errors[name or "last weights"].append(ece(asked, truth))
            scaled = calibration.scaled(asked, heat)
            errors[f"{name}, temperature" if name else "temperature"].append(ece(scaled, truth))
        runs.append(each[1])
        measured.append(
            [
                multiplicity.multiplicity(each[1], truth.numpy(), agreement=agreement)
                for agreement in AGREEMENTS
            ]
        )
    for name, values in errors.items():
        shown = f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        figures.show(f"ECE, {name}, {len(values)} runs", shown)
    for place, agreement in enumerate(AGREEMENTS):
        _show_multiplicity(figures, [item[place] for item in measured], runs, agreement)
    plain = statistics.mean(errors["last weights"])
    best = min(statistics.mean(values) for name, values in errors.items() if name != "last weights")
    figures.at_most("ECE of the ensemble or scaled model / of DP-SGD", best / plain, 1.0, "x")
    left = max(item[0].ambiguity_left.estimate for item in measured)
    figures.at_most("ambiguity left at 0.9 agreement, worst run", 100 * left, 1.0, "%")


def _show_multiplicity(figures, found, runs, agreement):
    def mean(name):
        return f"{100 * statistics.mean(getattr(item, name).estimate for item in found):.1f} %"

    answers = [multiplicity.abstaining(multiplicity.votes(p), agreement=agreement) for p in runs]
    apart = []
    for first, second in itertools.combinations(answers, 2):
        both = (first != multiplicity.ABSTAIN) & (second != multiplicity.ABSTAIN)
        apart.append(float((first != second)[both].mean()))
    between = f"{100 * statistics.mean(apart):.2f} %" if apart else "one run"
    figures.show(
        f"members agree at {agreement:.0%}",
        f"ambiguity {mean('ambiguity')}, coverage {mean('coverage')}, accuracy on those "
        f"{mean('selective_accuracy')}, ambiguity left {mean('ambiguity_left')}, between runs "
        f"{between}",
    )
