"""Do membership scores compute what their papers say, on arrays whose answer is known?"""

from __future__ import annotations

import numpy as np
import pytest

from primum_pipelines.attacks import figures, scorings, signals
from primum_pipelines.attacks.signals import Asked

NOBODY = np.zeros(0, dtype=bool)


def asked(target, shadows=None, had=None, labels=(0,), population=None):
    """Logits of one query per record unless the arrays have more."""
    target = np.atleast_3d(np.asarray(target, dtype=np.float64).T).T
    rows = target.shape[1]
    shadows = np.zeros((2, *target.shape)) if shadows is None else np.asarray(shadows, float)
    had = np.zeros((len(shadows), rows), dtype=bool) if had is None else np.asarray(had)
    population = np.zeros(rows, dtype=bool) if population is None else np.asarray(population)
    return Asked(target, shadows, had, np.asarray(labels), population)


def logits_for(share):
    """Two-class logits whose first probability is this."""
    share = np.asarray(share, dtype=np.float64)
    return np.stack([np.log(share), np.log1p(-share)], axis=-1)


def overfitted(*, rows=200, models=16, queries=1, skill=2.0, seed=0):
    """Models that are surer of what they had: log-odds rise by ``skill``. Half were had by each."""
    generator = np.random.default_rng(seed)
    had = np.concatenate([part := generator.random((models // 2, rows)) < 0.5, ~part])
    truth = generator.random(rows) < 0.5
    hardness = generator.normal(size=rows) * 2
    labels = generator.integers(0, 2, rows)

    def odds(member):
        sure = hardness + skill * member + generator.normal(size=(queries, rows)) * 0.7
        return np.where(labels[:, None] == [0, 1], sure[..., None], 0.0)

    shadows = np.stack([odds(member) for member in had])
    return Asked(odds(truth), shadows, had, labels, np.zeros(rows, dtype=bool)), truth


def area(scoring, seen, truth):
    scores = scoring(seen)
    return figures.auc(scores[truth], scores[~truth])


def test_scaled_confidence_does_not_saturate():
    found = signals.scaled_confidence(np.array([[40.0, 0.0, 0.0]]), np.array([0]))
    assert found[0] == pytest.approx(40 - np.log(2), abs=1e-9)
    assert np.isfinite(signals.scaled_confidence(np.array([[900.0, -900.0]]), np.array([1]))[0])


def test_figures_of_one_answer():
    """p = (0.9, 0.1), label 1: all by hand."""
    seen = asked([logits_for([0.9])], labels=[1])
    assert scorings.loss(seen)[0] == pytest.approx(np.log(0.1))
    assert scorings.confidence(seen)[0] == pytest.approx(np.log(0.9))
    assert scorings.entropy(seen)[0] == pytest.approx(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    modified = -(1 - 0.1) * np.log(0.1) - 0.9 * np.log(1 - 0.9)
    assert scorings.modified_entropy(seen)[0] == pytest.approx(-modified)


def test_few_shadows_share_one_variance_and_many_have_their_own():
    generator = np.random.default_rng(0)
    for count in (8, 64):
        had = np.tile([[True], [False]], (count // 2, 5))
        noise = generator.standard_normal((count, 5)) * [1, 1, 1, 1, 9]
        odds = noise + 3.0 * had
        shadows = np.stack([odds, np.zeros_like(odds)], axis=-1)[:, None]
        target = np.stack([np.full(5, 3.0), np.zeros(5)], axis=-1)[None]
        found = scorings.lira_online(asked(target, shadows, had, labels=np.zeros(5, dtype=int)))
        assert (found[:4] > 0).all()
        if count == 64:
            assert abs(found[4]) < found[:4].min()


@pytest.mark.parametrize("scoring", [scorings.lira_online, scorings.lira_offline])
def test_calibrated_attacks_beat_the_loss(scoring):
    """Hard records hide their membership from a plain threshold, not from shadows."""
    seen, truth = overfitted()
    assert area(scoring, seen, truth) > 0.85
    assert area(scorings.loss, seen, truth) < area(scoring, seen, truth) - 0.1


def test_more_queries_help():
    one, truth = overfitted(queries=1, rows=400)
    many, same = overfitted(queries=8, rows=400)
    assert area(scorings.lira_online, many, same) > area(scorings.lira_online, one, truth)


def with_population(rows=400, **more):
    seen, truth = overfitted(rows=rows, **more)
    outside = np.arange(rows) >= rows * 3 // 4
    had = seen.had & ~outside
    generator = np.random.default_rng(9)
    truth = truth & ~outside
    hardness = generator.normal(size=rows) * 2

    def odds(member):
        sure = hardness + 2.0 * member + generator.normal(size=(1, rows)) * 0.7
        return np.where(seen.labels[:, None] == [0, 1], sure[..., None], 0.0)

    shadows = np.stack([odds(member) for member in had])
    return Asked(odds(truth), shadows, had, seen.labels, outside), truth


@pytest.mark.parametrize("scoring", [scorings.rmia_online, scorings.rmia_offline])
def test_ratios_to_a_population_beat_the_loss(scoring):
    seen, truth = with_population()
    tried = ~seen.population
    scores, loss = scoring(seen)[tried], scorings.loss(seen)[tried]
    found = figures.auc(scores[truth[tried]], scores[~truth[tried]])
    assert found > figures.auc(loss[truth[tried]], loss[~truth[tried]]) + 0.05
    assert found > 0.8
    assert ((scores >= 0) & (scores <= 1)).all()


def test_population_is_the_share_that_is_harder():
    """Losses 1 to 4 are the population; 2.5 is easier than two of them, 2 ties with one."""
    shares = np.exp(-np.array([1.0, 2.0, 3.0, 4.0, 2.5, 2.0]))
    seen = asked([logits_for(shares)], labels=[0] * 6, population=[True] * 4 + [False] * 2)
    assert scorings.population(seen)[4:] == pytest.approx([0.5, 0.625])


def test_population_compares_with_the_own_class_where_it_is_large_enough():
    labels = np.repeat([0, 1], 30)
    share = np.where(labels == 0, 0.9, 0.4)
    outside = np.tile([True] * 29 + [False], 2)
    logits = np.where(labels[:, None] == [0, 1], np.log(share / (1 - share))[:, None], 0.0)
    found = scorings.population(asked([logits], labels=labels, population=outside))
    assert found[~outside] == pytest.approx([0.5, 0.5])


def test_reference_counts_models_without_the_record():
    own = logits_for([[0.8]])
    shadows = logits_for([0.9, 0.7, 0.8, 0.1])[:, None, None]
    had = [[False], [False], [False], [True]]
    assert scorings.reference(asked(own[None][0], shadows, had))[0] == pytest.approx(1.5 / 3)


def test_labels_alone_count_right_answers():
    logits = np.array([[[2.0, 1.0]], [[1.0, 2.0]], [[3.0, 0.0]], [[2.0, 0.0]]])
    assert scorings.label_only(asked(logits, labels=[0]))[0] == 0.75


def test_classes_get_their_own_threshold():
    """Members of class 1 are as unsure as non-members of class 0: one threshold cannot do both."""
    seen, truth = overfitted(rows=400, skill=6.0)
    shift = np.where(seen.labels == 1, -8.0, 0.0)[:, None] * (seen.labels[:, None] == [0, 1])
    seen = Asked(seen.target + shift, seen.shadows + shift, seen.had, seen.labels, seen.population)
    by_class = scorings.per_class(scorings.loss)
    right = {
        scoring: ((scoring(seen) > signals.calibrated_threshold(seen, scoring)) == truth).mean()
        for scoring in (by_class, scorings.loss)
    }
    assert right[by_class] > right[scorings.loss] + 0.04
    assert right[by_class] > 0.78


def test_a_classifier_learns_what_members_look_like():
    seen, truth = overfitted(skill=6.0)
    assert area(scorings.shadow_classifier, seen, truth) > 0.8


def test_thresholds_do_not_look_at_the_targets_members():
    seen, _ = overfitted()
    threshold = signals.calibrated_threshold(seen, scorings.lira_online)
    turned = Asked(-seen.target, seen.shadows, seen.had, seen.labels, seen.population)
    assert signals.calibrated_threshold(turned, scorings.lira_online) == threshold


def test_constant_scores_call_nobody_a_member_by_luck():
    threshold = signals.best_threshold(np.ones(10), np.arange(10) < 5)
    assert threshold < 1, "all or none: a tie has no order"


def test_a_roc_curve_has_a_point_for_every_score():
    fpr, tpr = figures.roc(np.array([3.0, 2.0]), np.array([2.0, 1.0]))
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert tpr.tolist() == [0, 0.5, 1, 1]
