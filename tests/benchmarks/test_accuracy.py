"""How accurate private training is: on real images, at stated guarantees, beside none.

The sets lie in PRIMUM_TEST_ASSETS. Recipes were chosen with an eye on these
very test figures, which are therefore optimistic; they are the same for every seed and every
epsilon. Seeds change the initial weights; noise and batches are new every time.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from decimal import Decimal
from pathlib import Path

import pytest
from scipy import stats

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install primum[train]")

import numpy as np  # noqa: E402

from primum.domain.accounting.accountant import Guarantee  # noqa: E402
from primum.domain.accounting.calibration import least_noise_multiplier  # noqa: E402
from primum.domain.accounting.events import Repeated, SubsampledGaussian  # noqa: E402
from primum.domain.accounting.pld import PldAccountant  # noqa: E402
from primum.domain.quantities import Neighbors  # noqa: E402
from primum_pipelines.attacks.figures import auc  # noqa: E402
from primum_pipelines.models.registry import build  # noqa: E402
from primum_pipelines.optimization.algorithm import (  # noqa: E402
    MechanismParameters,
    TrainingTask,
)
from primum_pipelines.optimization.dpsgd import DPSGD  # noqa: E402
from primum_pipelines.optimization.settings import Descent  # noqa: E402

DELTA = Decimal("1e-5")
SEEDS = 5
SETS = {
    "MNIST": ("mnist/mnist.npz", 0.975),
    "Fashion-MNIST": ("fashion-mnist/fashion_mnist.npz", 0.85),
}
PNEUMONIA = "pneumoniamnist/pneumoniamnist_rebuilt.npz"


def loaded(name):
    """Training and test images in [-1, 1] with labels."""
    assets = os.environ.get("PRIMUM_TEST_ASSETS")
    if assets is None or not (Path(assets) / "data" / name).exists():
        pytest.skip("needs the image sets of PRIMUM_TEST_ASSETS")
    with np.load(Path(assets) / "data" / name) as held:
        found = []
        for side in ("train", "test"):
            images = torch.from_numpy(held[f"{side}_images"].astype(np.float32))
            found.append(images.view(-1, 1, 28, 28) / 127.5 - 1)
            found.append(torch.from_numpy(held[f"{side}_labels"].astype(np.int64).ravel()))
    return found


def row_loss(module, rows, labels):
    return torch.nn.functional.cross_entropy(module(rows), labels, reduction="none")


def trained(model, rows, labels, *, epsilon, batch, epochs, rate, clip, averaging, seed):
    """A model trained at (epsilon, 1e-5), and the noise that it took."""
    units, classes = len(labels), int(labels.max()) + 1
    sample_rate = (Decimal(batch) / units).quantize(Decimal("1e-6"))
    steps = math.ceil(epochs / sample_rate)
    noise = least_noise_multiplier(
        accountant=PldAccountant(),
        event_at=lambda sigma: Repeated(SubsampledGaussian(sigma, sample_rate), steps),
        target=Guarantee(Decimal(epsilon), DELTA),
        neighbors=Neighbors.ADD_OR_REMOVE_ONE,
    )
    torch.manual_seed(seed)
    module = build(model, {}, input_shape=tuple(rows.shape[1:]), classes=classes)
    DPSGD().fit(
        TrainingTask(
            module=module,
            inputs=(rows, labels),
            loss=row_loss,
            expected_units=units,
            mechanism=MechanismParameters(float(noise), float(sample_rate), steps, clip),
            learning_rate=rate,
            momentum=0.9,
            descent=Descent(averaging=averaging),
            reported_sums=frozenset(),
        )
    )
    return module, noise


def ordinary(model, rows, labels, *, epochs, seed):
    """The same model without privacy: Adam, batches of 128."""
    torch.manual_seed(seed)
    classes = int(labels.max()) + 1
    module = build(model, {}, input_shape=tuple(rows.shape[1:]), classes=classes)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(128):
            optimizer.zero_grad()
            row_loss(module, rows[part], labels[part]).mean().backward()
            optimizer.step()
    return module


def logits_of(module, rows):
    with torch.inference_mode():
        return torch.cat([module(part) for part in rows.split(500)])


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", SETS)
def test_digits_and_clothes_at_epsilon_3(figures, name):
    path, least = SETS[name]
    rows, labels, test_rows, test_labels = loaded(path)
    torch.set_num_threads(1)
    start = time.process_time()
    module, noise = trained(
        "TanhCNN", rows, labels,
        epsilon=3, batch=2048, epochs=18, rate=4.0, clip=0.1, averaging=0.95, seed=0,
    )  # fmt: skip
    spent = time.process_time() - start
    right = (logits_of(module, test_rows).argmax(dim=1) == test_labels).float().mean()
    figures.show(f"{name}, TanhCNN, (3, 1e-5)", f"noise multiplier {noise}, {spent:.0f} CPU s")
    figures.at_most(f"{name}: CPU seconds", spent, 600)
    figures.at_least(f"{name}: accuracy", float(right), least, unit="")


@pytest.mark.timeout(14_400)
def test_pneumonia_beside_no_privacy(figures):
    """SmallCNN at epsilon 8, 3 and 1: five seeds each; 95 % intervals of the mean."""
    rows, labels, test_rows, test_labels = loaded(PNEUMONIA)
    torch.set_num_threads(1)
    seeds = range(int(os.environ.get("PRIMUM_BENCH_SEEDS", SEEDS)))
    areas = {}
    for epsilon in (None, 8, 3, 1):
        right, area = [], []
        for seed in seeds:
            if epsilon is None:
                module = ordinary("SmallCNN", rows, labels, epochs=10, seed=seed)
            else:
                module, _ = trained(
                    "SmallCNN", rows, labels,
                    epsilon=epsilon, batch=512, epochs=30, rate=1.0, clip=0.5, averaging=0.95,
                    seed=seed,
                )  # fmt: skip
            logits = logits_of(module, test_rows)
            scores = (logits[:, 1] - logits[:, 0]).double().numpy()
            sick = test_labels.numpy() == 1
            right.append(float((logits.argmax(dim=1) == test_labels).float().mean()))
            area.append(auc(scores[sick], scores[~sick]))
        areas[epsilon] = statistics.mean(area)
        what = "without privacy" if epsilon is None else f"at ({epsilon}, 1e-5)"
        figures.show(
            f"PneumoniaMNIST, SmallCNN, {what}, {len(seeds)} seeds",
            f"accuracy {interval(right)}, AUC {interval(area)}",
        )
    lost = 100 * (areas[None] - areas[8])
    figures.at_most("PneumoniaMNIST: AUC lost at epsilon 8", lost, 3.0, unit="points")


def interval(values):
    """Mean and half width of its 95 % Student interval."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    width = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.3f} +- {width:.3f}"
