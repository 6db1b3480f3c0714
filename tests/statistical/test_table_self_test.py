"""Does the self-test of a noisy table catch every way of getting it wrong, and no honest one?"""

from __future__ import annotations

import numpy as np
import pytest

from primum.domain.governance.evidence import Verdict
from primum_pipelines.audits.self_test.table import LEVEL, noisy_table_self_test
from primum_pipelines.kinds.private_features import mechanism as real
from primum_pipelines.kinds.private_features.mechanism import TableMechanism
from primum_pipelines.optimization.randomness import SeededSource, random_source

HONEST = {"rows": 4690, "clip": 1.0, "label_share": 0.5, "noise_multiplier": 1.33}
SETTINGS = [
    {},
    {"clip": 30.0},
    {"clip": 0.01},
    {"label_share": 0.01},
    {"label_share": 0.99},
    {"noise_multiplier": 0.2},
    {"noise_multiplier": 50.0},
]


def planned(**changes):
    return TableMechanism(**{**HONEST, **changes})


def honest(features, labels, plan):
    found = real.release(features, labels, mechanism=plan, source=random_source(None))
    return np.concatenate([found.features, found.codes], axis=1)


class Broken:
    """A release with one thing wrong; everything else is as it must be."""

    def __init__(self, bug):
        self.bug = bug
        self.generator = np.random.default_rng(7)

    def __call__(self, features, labels, plan):
        if self.bug == "same seed in every run":
            found = real.release(features, labels, mechanism=plan, source=SeededSource(3))
            return np.concatenate([found.features, found.codes], axis=1)
        rows = self._rows(features, labels, plan)
        count, width = plan.rows, rows.shape[1]
        places = self._places(len(rows), count)
        table = np.zeros((count, width))
        table[places] = rows
        table += self._noise(count, width, plan)
        if self.bug == "rows without a unit hold nothing":
            empty = np.ones(count, dtype=bool)
            empty[places] = False
            table[empty] = 0
        if self.bug == "rows without a unit are left out":
            return table[np.sort(places)]
        if self.bug == "a unit in two rows" and len(rows):
            table[(places[0] + 1) % count] += rows[0]
        return table

    def _rows(self, features, labels, plan):
        if self.bug == "clip off":
            return np.concatenate([features, plan.label_length * labels], axis=1)
        if self.bug == "label outside the clip":
            kept = real.clipped(features, bound=plan.clip)
            return np.concatenate([kept, plan.label_length * labels], axis=1)
        if self.bug == "clip per column":
            kept = np.clip(features, -plan.clip, plan.clip)
            return np.concatenate([kept, plan.clip * labels], axis=1)
        if self.bug == "clip twice too long":
            return 2 * real.contributions(features, labels, mechanism=plan)
        if self.bug == "no label":
            kept = real.clipped(features, bound=plan.clip)
            return np.concatenate([kept, 0 * labels], axis=1)
        return real.contributions(features, labels, mechanism=plan)

    def _places(self, units, count):
        draw = self.generator.permutation
        always = np.random.default_rng(5).permutation(count)[:units]
        wrong = {
            "places in the order of the data": lambda: np.arange(units),
            "the same places in every run": lambda: always,
            "random rows in the order of the data": lambda: np.sort(draw(count)[:units]),
            "empty rows at the end": lambda: draw(units),
            "the same empty rows": lambda: draw(always),
            "two units in a row": lambda: self.generator.integers(0, count, units),
        }
        return wrong.get(self.bug, lambda: draw(count)[:units])()

    def _noise(self, rows, width, plan):
        noise = self.generator.normal(size=(rows, width)) * plan.noise_std
        always = np.random.default_rng(4).normal(size=(rows, width)) * plan.noise_std
        if self.bug == "two rows share noise":
            noise[1] = noise[0]
        if self.bug == "no noise on labels":
            noise[:, -4:] = 0
        wrong = {
            "no noise": 0 * noise,
            "half the noise": noise / 2,
            "a twentieth less noise": noise * 0.95,
            "noise without the clip": noise / plan.clip,
            "one noise for all rows": np.tile(noise[:1], (rows, 1)),
            "one noise for all columns": np.tile(noise[:, :1], (1, width)),
            "the same noise in every run": always,
        }
        return wrong.get(self.bug, noise)


BUGS = [
    "no noise",
    "half the noise",
    "a twentieth less noise",
    "one noise for all rows",
    "one noise for all columns",
    "two rows share noise",
    "the same noise in every run",
    "no noise on labels",
    "same seed in every run",
    "clip off",
    "clip per column",
    "clip twice too long",
    "label outside the clip",
    "no label",
    "places in the order of the data",
    "the same places in every run",
    "random rows in the order of the data",
    "empty rows at the end",
    "the same empty rows",
    "two units in a row",
    "a unit in two rows",
    "rows without a unit hold nothing",
    "rows without a unit are left out",
]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_the_real_mechanism_passes(changes):
    found = noisy_table_self_test(honest, planned(**changes))
    assert found.verdict is Verdict.PASS, found.failed
    assert found.noise_draws > 1e5


def test_a_release_that_only_differs_in_its_generator_passes():
    """The broken one of the other tests, without a bug: what is caught there is the bug."""
    assert noisy_table_self_test(Broken(""), planned()).verdict is Verdict.PASS


@pytest.mark.parametrize("bug", BUGS)
def test_every_bug_is_caught(bug):
    assert noisy_table_self_test(Broken(bug), planned()).verdict is Verdict.FAIL


def test_noise_that_forgets_the_clip_is_caught():
    found = noisy_table_self_test(Broken("noise without the clip"), planned(clip=2.0))
    assert found.verdict is Verdict.FAIL


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_label_outside_the_clip_is_caught_whatever_its_share(share):
    found = noisy_table_self_test(Broken("label outside the clip"), planned(label_share=share))
    assert "LengthWithinClip" in found.failed


def test_a_unit_that_shows_more_than_its_charge_is_caught_by_its_curve():
    found = noisy_table_self_test(Broken("half the noise"), planned())
    assert {"NoiseScale", "TradeOffOfOneUnit"} <= set(found.failed)


def test_a_release_that_raises_is_no_pass():
    def raises(features, labels, plan):
        raise RuntimeError("secret")

    found = noisy_table_self_test(raises, planned())
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "secret" not in str(found)


@pytest.mark.slow
def test_p_values_of_the_real_mechanism_are_those_of_chance():
    """Ten self-tests: p-values below 0.01 are few, so a level of 6e-6 means what it says."""
    small = [
        check.p_value < 0.01
        for _ in range(10)
        for check in noisy_table_self_test(honest, planned()).checks
    ]
    assert LEVEL < 1e-5
    assert sum(small) <= 12  # Of 140; 1.4 are expected, more than 12 has probability 1e-8.
