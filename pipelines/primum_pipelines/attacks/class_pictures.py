"""What inverted classes resemble: members, strangers, or the class's mean. Heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks.figures import Array, ncc
from primum_pipelines.attacks.model_inversion import invert_classes
from primum_pipelines.attacks.pool import pool_of
from primum_pipelines.evaluation import plots

if TYPE_CHECKING:
    from primum_pipelines.datasets.table import UnitTable
    from primum_pipelines.models.artifact import LoadedModel

_IMAGE_AXES = 3


@dataclass(frozen=True, slots=True)
class ClassPictures:
    """Correlations of each class's inversion. Restricted.

    Args:
        members: With the nearest training record of the class.
        others: With the nearest of equally many held-out records of the class.
        means: With the mean of the held-out records of the class.
        picture: Inversions beside those means; empty for tables.
    """

    members: tuple[float, ...]
    others: tuple[float, ...]
    means: tuple[float, ...]
    picture: bytes


def nearest_records(model: LoadedModel, table: UnitTable, *, iterations: int) -> ClassPictures:
    """Invert every class and correlate it with records.

    Raises:
        InvalidValue: If a class has no record on a side.
    """
    spec = model.spec
    found = invert_classes(
        model.module,
        classes=len(spec.classes),
        input_shape=spec.input_shape,
        iterations=iterations,
    )
    pool = pool_of(table, spec)
    flat, labels = pool.inputs.flatten(1).double().numpy(), pool.labels.numpy()
    member = pool.members.numpy()
    members, others, means, average = [], [], [], []
    for label, guess in enumerate(found.flatten(1).double().numpy()):
        inside, outside = flat[member & (labels == label)], flat[~member & (labels == label)]
        count = min(len(inside), len(outside))
        if not count:
            raise InvalidValue("audit data", "must have records of every class on both sides", "0")
        mean = outside.mean(axis=0)
        members.append(_best(inside[:count], guess))
        others.append(_best(outside[:count], guess))
        means.append(_best(mean[None], guess))
        average.append(mean)
    picture = b""
    if len(spec.input_shape) == _IMAGE_AXES:
        rows = [found.flatten(1).double().numpy(), np.stack(average)]
        picture = plots.contact_sheet(
            {"inverted": rows[0], "class mean": rows[1]}, shape=spec.input_shape, low=-1, high=1
        )
    return ClassPictures(tuple(members), tuple(others), tuple(means), picture)


def _best(records: Array, guess: Array) -> float:
    return float(ncc(records, np.repeat(guess[None], len(records), axis=0)).max())
