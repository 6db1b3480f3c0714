"""Datasets that ship with scikit-learn: real data that needs no file and no network.

The bounds of ``breast_cancer`` are the minimum and maximum printed in scikit-learn's published
documentation of the data set (``sklearn/datasets/descr/breast_cancer.rst``, "Summary Statistics"),
typed here as constants. They must never be replaced by bounds measured on the data at hand.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from primum.domain.canonical import JSON
from primum.domain.errors import InvalidValue, NotFound
from primum.domain.quantities import PrivacyUnit
from primum_pipelines.datasets.driver import (
    in_train_split,
    known_options,
    parse_uri,
    require_unit,
)

if TYPE_CHECKING:
    import numpy as np

    from primum_pipelines.datasets.table import UnitTable

# Name, minimum, maximum: as published, rounded to the digits of the table.
_BREAST_CANCER_BOUNDS = (
    ("mean radius", 6.981, 28.11),
    ("mean texture", 9.71, 39.28),
    ("mean perimeter", 43.79, 188.5),
    ("mean area", 143.5, 2501.0),
    ("mean smoothness", 0.053, 0.163),
    ("mean compactness", 0.019, 0.345),
    ("mean concavity", 0.0, 0.427),
    ("mean concave points", 0.0, 0.201),
    ("mean symmetry", 0.106, 0.304),
    ("mean fractal dimension", 0.05, 0.097),
    ("radius error", 0.112, 2.873),
    ("texture error", 0.36, 4.885),
    ("perimeter error", 0.757, 21.98),
    ("area error", 6.802, 542.2),
    ("smoothness error", 0.002, 0.031),
    ("compactness error", 0.002, 0.135),
    ("concavity error", 0.0, 0.396),
    ("concave points error", 0.0, 0.053),
    ("symmetry error", 0.008, 0.079),
    ("fractal dimension error", 0.001, 0.03),
    ("worst radius", 7.93, 36.04),
    ("worst texture", 12.02, 49.54),
    ("worst perimeter", 50.41, 251.2),
    ("worst area", 185.2, 4254.0),
    ("worst smoothness", 0.071, 0.223),
    ("worst compactness", 0.027, 1.058),
    ("worst concavity", 0.0, 1.252),
    ("worst concave points", 0.0, 0.291),
    ("worst symmetry", 0.156, 0.664),
    ("worst fractal dimension", 0.055, 0.208),
)
_FILES = {"breast_cancer": "breast_cancer.csv", "digits": "digits.csv.gz"}
_DIGITS_SIDE = 8
_DIGITS_GRAY_MAX = 16.0  # scikit-learn documents the pixels as integers from 0 to 16.
_DIGITS_CLASSES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, slots=True)
class _Facts:
    classes: tuple[str, ...]
    positive: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    units: tuple[PrivacyUnit, ...]
    why: str


_KNOWN = {
    "breast_cancer": _Facts(
        classes=("malignant", "benign"),
        positive="malignant",
        shape=(len(_BREAST_CANCER_BOUNDS),),
        names=tuple(name for name, _, _ in _BREAST_CANCER_BOUNDS),
        units=(PrivacyUnit.PATIENT,),
        why="The data set has one aspirate per patient.",
    ),
    "digits": _Facts(
        classes=_DIGITS_CLASSES,
        positive=_DIGITS_CLASSES[1],
        shape=(1, _DIGITS_SIDE, _DIGITS_SIDE),
        names=(),
        units=(PrivacyUnit.IMAGE,),
        why="The data set does not say who wrote a digit.",
    ),
}


class BundledDriver:
    """``sklearn://breast_cancer`` and ``sklearn://digits``."""

    scheme = "sklearn"
    published = True

    def describe(self, uri: str, options: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """Public facts, from published documentation."""
        known_options(options, ())
        facts = _facts(uri)
        return {
            "classes": list(facts.classes),
            "positive": facts.positive,
            "inputShape": list(facts.shape),
            "featureNames": list(facts.names),
            "split": "hash of unit, 80/20",
            "units": [unit.value for unit in facts.units],
        }

    def locate(self, uri: str, data_dirs: Sequence[str]) -> str:  # noqa: ARG002 - protocol
        """Nothing to locate: the data ships with the library."""
        _facts(uri)
        return ""

    def load(
        self,
        uri: str,
        unit: PrivacyUnit,
        options: Mapping[str, JSON],
        data_dirs: Sequence[str],  # noqa: ARG002 - the driver protocol
    ) -> UnitTable:
        """Open the data; row ``i`` is unit ``patient-i`` or ``image-i``."""
        import numpy as np

        from primum_pipelines.datasets.table import UnitTable

        known_options(options, ())
        facts = _facts(uri)
        require_unit(unit, facts.units, why=facts.why)
        tabular = bool(facts.names)
        features, labels = _published(parse_uri(uri).rest.strip("/"), width=math.prod(facts.shape))
        if not tabular:
            features = (features / _DIGITS_GRAY_MAX).reshape(-1, *facts.shape)
        units = np.array([f"{unit.value.lower()}-{row}" for row in range(len(features))])
        return UnitTable(
            features=features,
            labels=labels,
            units=units,
            train=np.array([in_train_split(str(name)) for name in units]),
            classes=facts.classes,
            feature_names=facts.names,
            feature_low=_bounds(1) if tabular else None,
            feature_high=_bounds(2) if tabular else None,
        )


def _published(name: str, *, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels from scikit-learn's own files: importing it costs seconds per process."""
    import numpy as np

    found = importlib.util.find_spec("sklearn")
    roots = found.submodule_search_locations if found is not None else None
    if not roots:
        raise NotFound("scikit-learn must be installed; found nothing. pip install primum[train].")
    file = Path(roots[0]) / "datasets" / "data" / _FILES[name]
    if not file.is_file():
        raise NotFound(
            f"dataset file {file.name} must exist in scikit-learn; looked in {file.parent}."
        )
    header = 1 if name == "breast_cancer" else 0
    rows = np.loadtxt(file, delimiter=",", skiprows=header)
    if rows.shape[1] != width + 1:
        raise InvalidValue("dataset file", f"must have {width + 1} columns", rows.shape[1])
    return rows[:, :-1].astype(np.float32), rows[:, -1].astype(np.int64)


def _bounds(column: int) -> np.ndarray:
    import numpy as np

    return np.array([row[column] for row in _BREAST_CANCER_BOUNDS], dtype=np.float32)


def _facts(uri: str) -> _Facts:
    name = parse_uri(uri).rest.strip("/")
    if name not in _KNOWN:
        known = ", ".join(f"sklearn://{item}" for item in _KNOWN)
        raise InvalidValue("dataset.uri", f"must be one of {known}", uri)
    return _KNOWN[name]
