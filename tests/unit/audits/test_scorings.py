"""Do membership scores compute what their papers say, on arrays whose answer is known?"""

from __future__ import annotations

import numpy as np
import pytest

from primum.domain.risk import audits
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


@pytest.mark.parametrize("count", [8, 64])
def test_a_record_whose_answers_scatter_tells_less(count):
    generator = np.random.default_rng(0)
    had = np.tile([[True], [False]], (count // 2, 5))
    noise = generator.standard_normal((count, 5)) * [1, 1, 1, 1, 9]
    odds = noise + 3.0 * had
    shadows = np.stack([odds, np.zeros_like(odds)], axis=-1)[:, None]
    target = np.stack([np.full(5, 3.0), np.zeros(5)], axis=-1)[None]
    found = scorings.lira_online(asked(target, shadows, had, labels=np.zeros(5, dtype=int)))
    assert (found[:4] > 0).all()
    assert abs(found[4]) < found[:4].min()


def test_equal_variances_are_one_and_many_shadows_make_a_normal_likelihood():
    """The published formula, where the variances of 400 records are one and 512 shadows know it."""
    generator = np.random.default_rng(1)
    had = np.tile([[True], [False]], (256, 400))
    odds = generator.standard_normal((512, 400)) * 0.5 + 1.0 * had
    shadows = np.stack([odds, np.zeros_like(odds)], axis=-1)[:, None]
    target = np.stack([np.full(400, 1.3), np.zeros(400)], axis=-1)[None]
    found = scorings.lira_online(asked(target, shadows, had, labels=np.zeros(400, dtype=int)))
    inside, outside = odds[had[:, 0]].mean(axis=0), odds[~had[:, 0]].mean(axis=0)
    published = ((1.3 - outside) ** 2 - (1.3 - inside) ** 2) / (2 * 0.25)
    assert found == pytest.approx(published, abs=0.06)


def test_variances_that_differ_are_told_apart_by_many_shadows_and_shared_by_few():
    """Every second record scatters four times as much as the others."""
    generator = np.random.default_rng(2)
    true = np.tile([0.5, 2.0], 100)

    def ratio(count):
        had = np.tile([[True], [False]], (count // 2, 200))
        scales = scorings._predicted(generator.standard_normal((count, 200)) * true, had).scale
        return float(np.median(scales[1::2]) / np.median(scales[::2]))

    assert 1 < ratio(6) < ratio(64)
    assert ratio(64) == pytest.approx(4, rel=0.15)


def test_two_complementary_shadows_still_give_finite_scores():
    seen, _ = overfitted(models=2)
    for scoring in (scorings.lira_online, scorings.lira_offline):
        assert np.isfinite(scoring(seen)).all()


@pytest.mark.parametrize("models", [4, 8, 64])
@pytest.mark.parametrize(
    "scoring",
    [scorings.lira_online, scorings.lira_offline, scorings.rmia_online, scorings.reference],
)
def test_a_shadow_in_the_targets_place_is_attacked_as_the_target_is(scoring, models):
    """How often a record is in or out among the rest must not tell that the shadow had it.

    All models are one and the same here, so every score is luck; and all rules that depend on how
    many shadows there are apply alike, or thresholds would be fixed on other scores.
    """
    seen, _ = overfitted(models=models, skill=0.0, rows=300)
    for other, had in seen.calibrations():
        assert len(other.shadows) == models - 2
        assert (other.had.sum(axis=0) == models // 2 - 1).all()
        assert 0.4 < area(scoring, other, had) < 0.6
    if models < 8:
        return  # Two of four fewer is another attack.
    strong, truth = overfitted(models=models, skill=2.0, rows=300)
    calibrated = [area(scoring, other, had) for other, had in strong.calibrations()]
    assert np.mean(calibrated) == pytest.approx(area(scoring, strong, truth), abs=0.06)


def test_ratios_compare_with_the_mean_of_in_and_out_however_many_there_are():
    """Three shadows with the record at 0.9, one without at 0.3: P = 0.6, not 0.75."""
    shares = np.array([0.9, 0.9, 0.9, 0.3])
    shadows = np.stack([logits_for([share, 0.5]) for share in shares])[:, None]
    had = np.array([[True, False], [True, False], [True, False], [False, False]])
    seen = asked(logits_for([[0.6, 0.5]]), shadows, had, [0, 0], [False, True])
    assert scorings.rmia_online(seen)[0] == 1.0  # 0.6 / 0.6 against 0.5 / 0.5: just reached
    weaker = asked(logits_for([[0.59, 0.5]]), shadows, had, [0, 0], [False, True])
    assert scorings.rmia_online(weaker)[0] == 0.0


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


def epsilon_shown(scores, member, threshold):
    above = scores > threshold
    return audits.epsilon_lower_bound(
        true_positives=int(above[member].sum()),
        members=int(member.sum()),
        false_positives=int(above[~member].sum()),
        non_members=int((~member).sum()),
        delta=0.0,
        confidence=0.95,
    )["epsilon_lower"]


def test_the_sharpest_threshold_is_that_of_the_largest_bound():
    """Against every threshold there is, by the formula that verdicts use."""
    generator = np.random.default_rng(3)
    member = np.arange(400) < 200
    scores = generator.normal(size=400) + np.where(member & (np.arange(400) % 4 == 0), 4.0, 0.0)

    found = signals.sharpest_threshold(scores, member, members=200, others=200)
    most = max(epsilon_shown(scores, member, score) for score in scores)
    assert epsilon_shown(scores, member, found) == pytest.approx(most)
    balanced = signals.best_threshold(scores, member)
    assert most > epsilon_shown(scores, member, balanced) + 0.3


def test_both_thresholds_come_from_shadows_alone():
    seen, truth = overfitted(models=16, rows=400, skill=3.0)
    both = signals.calibrated_thresholds(seen, scorings.lira_online, members=200, others=200)
    turned = Asked(-seen.target, seen.shadows, seen.had, seen.labels, seen.population)
    again = signals.calibrated_thresholds(turned, scorings.lira_online, members=200, others=200)
    assert both == again
    assert both[0] == signals.calibrated_threshold(seen, scorings.lira_online)
    scores = scorings.lira_online(seen)
    assert epsilon_shown(scores, truth, both[1]) > epsilon_shown(scores, truth, both[0]) + 0.3


def test_constant_scores_call_nobody_a_member_by_luck():
    threshold = signals.best_threshold(np.ones(10), np.arange(10) < 5)
    assert threshold < 1, "all or none: a tie has no order"


def test_a_roc_curve_has_a_point_for_every_score():
    fpr, tpr = figures.roc(np.array([3.0, 2.0]), np.array([2.0, 1.0]))
    assert fpr.tolist() == [0, 0, 0.5, 1]
    assert tpr.tolist() == [0, 0.5, 1, 1]
