"""Is somebody found who has the generator, and nobody behind enough noise?"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from primum.domain.errors import InvalidValue  # noqa: E402
from primum_pipelines.attacks import figures, generators  # noqa: E402
from primum_pipelines.synthesis import merf  # noqa: E402
from primum_pipelines.synthesis.generator import (  # noqa: E402
    ConditionalGenerator,
    GeneratorTask,
    draw,
    generator_from_bytes,
    train_generator,
)

DIMENSION = 8
FEATURES = merf.FourierFeatures.draw(features=200, dimension=DIMENSION, seed=3)


def people(count, seed):
    """Records in [0, 1] of two classes."""
    generator = np.random.default_rng(seed)
    return generator.random((count, DIMENSION)).astype(np.float32), np.arange(count) % 2


def generator_of(rows, labels, *, noise):
    """A generator of a released mean of these records."""
    generator = torch.Generator().manual_seed(5)
    phi = FEATURES.embed(torch.from_numpy(rows))
    means = torch.stack([phi[labels == label].mean(dim=0) for label in (0, 1)])
    means = means + noise * torch.randn(means.shape, generator=generator)
    embedding = merf.Embedding(means=means, shares=torch.tensor([0.5, 0.5]))
    task = GeneratorTask(embedding, FEATURES, dimension=DIMENSION, steps=150, seed=1)
    return train_generator(task)


@pytest.fixture(scope="module")
def leaky():
    """Trained on the mean of twelve records, without noise."""
    return generator_of(*people(12, 1), noise=0.0)


def area(score, members, others):
    return figures.auc(score(*members), score(*others))


def test_members_of_a_small_mean_are_found(leaky):
    """Twelve members, 200 others: an AUC of 0.5 has a standard error of 0.09."""
    found = area(
        lambda *rows: generators.embedding_shift(leaky, FEATURES, rows, people(300, 2)),
        people(12, 1),
        people(200, 3),
    )
    assert found > 0.8


def test_a_large_mean_behind_noise_tells_nothing():
    members = people(300, 1)
    noisy = generator_of(*members, noise=1.0)
    found = area(
        lambda *rows: generators.embedding_shift(noisy, FEATURES, rows, people(300, 2)),
        members,
        people(300, 3),
    )
    assert 0.42 < found < 0.58


def test_a_class_without_a_reference_scores_nothing(leaky):
    rows, labels = people(300, 2)
    only = (rows[labels == 0], labels[labels == 0])
    found = generators.embedding_shift(leaky, FEATURES, people(10, 3), only)
    assert (found[1::2] == 0).all()
    assert (found[::2] != 0).all()


def test_what_the_generator_can_make_is_near_and_anything_else_is_not():
    generator = ConditionalGenerator(dimension=DIMENSION, classes=2, seed=4)
    made, labels = draw(generator, count=20, seed=9)
    other = np.random.default_rng(0).integers(0, 2, (20, DIMENSION)).astype(np.float32)
    effort = {"steps": 150, "restarts": 2}
    near = generators.generated_distance(generator, made.numpy(), labels.numpy(), **effort)
    far = generators.generated_distance(generator, other, labels.numpy(), **effort)
    assert near.max() < far.min()
    reference, _ = people(50, 3)
    scores = generators.calibrated_loss(near, made.numpy(), reference)
    assert (scores > generators.calibrated_loss(far, other, reference)).all()


def test_a_stored_generator_is_read_back_with_its_metadata():
    generator = ConditionalGenerator(dimension=DIMENSION, classes=3, seed=4)
    again, told = generator_from_bytes(generator.to_bytes({"method": "DPMERF", "features": "20"}))
    assert told == {"method": "DPMERF", "features": "20"}
    assert again.classes == 3
    for left, right in zip(
        draw(generator, count=6, seed=1), draw(again, count=6, seed=1), strict=True
    ):
        assert torch.equal(left, right)
    with pytest.raises(InvalidValue, match="must be a generator that Synthesize wrote"):
        generator_from_bytes(b"no generator")
