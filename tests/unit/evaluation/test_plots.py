"""Are pictures pictures of their figures, and the same for the same figures?"""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from primum_pipelines.evaluation import calibration, plots
from primum_pipelines.evaluation.figures import Figure, Scored
from primum_pipelines.evaluation.plots import Curve, PictureFormat

SVG = "{http://www.w3.org/2000/svg}"


def texts(picture):
    root = ET.fromstring(picture)
    return " ".join("".join(item.itertext()) for item in root.iter(f"{SVG}text"))


def bins(right):
    labels = np.where(np.arange(200) < right, 0, 1)
    return calibration.reliability(Scored(labels, np.tile([0.7, 0.3], (200, 1)), 0))


def test_the_same_figures_give_the_same_bytes():
    assert plots.reliability_diagram(bins(140)) == plots.reliability_diagram(bins(140))
    assert plots.reliability_diagram(bins(140)) != plots.reliability_diagram(bins(60))


@pytest.mark.parametrize(("picture", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_formats(picture, start):
    found = plots.reliability_diagram(bins(140), picture=PictureFormat(picture))
    assert found.startswith(start)


def test_curves_are_named():
    figures = [Figure(0.7, 0.6, 0.8), Figure(0.8, 0.7, 0.9)]
    picture = plots.with_intervals(
        [Curve("SmallCNN", [1.0, 8.0], figures)],
        x_label="epsilon",
        y_label="ROC-AUC",
        level=Figure(0.9, 0.88, 0.92),
        level_name="without privacy",
    )
    for word in ("SmallCNN", "epsilon", "ROC-AUC", "without privacy"):
        assert word in texts(picture), word


def test_a_bound_stands_beside_the_attack():
    rates = np.linspace(0, 1, 50)
    picture = plots.roc_curves(
        {"LiRA": (rates, np.sqrt(rates))}, smallest=0.01, bound=lambda fpr: np.e * fpr
    )
    for word in ("LiRA", "bound", "guessing"):
        assert word in texts(picture), word


def test_a_corridor_shows_bounds_and_attacks():
    found = plots.Corridor(
        candidates=(2, 10, 100),
        bounds=(0.6, 0.2, 0.05),
        named={"GradientInversion": (100, 0.03, 0.001)},
        scratch=0.12,
        correlations={"guess": 0.1, "optimization": 0.11},
    )
    picture = plots.corridor(found)
    for word in ("bound", "chance", "GradientInversion", "from scratch", "optimization"):
        assert word in texts(picture), word


def test_a_contact_sheet_has_a_picture_for_every_record():
    rows = np.linspace(-1, 1, 2 * 3 * 16).reshape(2, 48)
    one = plots.contact_sheet({"record": rows}, shape=(3, 4, 4), low=-1, high=1)
    two = plots.contact_sheet({"record": rows, "attack": -rows}, shape=(3, 4, 4), low=-1, high=1)
    assert one.startswith(b"\x89PNG")
    assert one != two
