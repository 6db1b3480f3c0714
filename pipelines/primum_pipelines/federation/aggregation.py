"""Defensive aggregation: refuse what does not fit, then average by declared weights.

A site's update is input from outside. Names, shapes and types must be those that were sent out,
values finite, the step away from the sent model no longer than it can have been. Must not weight by
anything that a site measured on its data: under differential privacy a site's exact size is
private.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from primum.domain.errors import InvalidValue

Arrays = Mapping[str, np.ndarray]
SLACK = 1e-3  # Relative; float32 sums of many steps stay far below it.


def step_norm_max(
    *,
    learning_rate: float,
    max_grad_norm: float,
    noise_multiplier: float,
    sample_rate: float,
    train_units: int,
    parameters: int,
    steps: int,
) -> float:
    """The longest step that one round of DP-SGD can plausibly make away from the model it was sent.

    Per local step a site moves by learning rate over expected batch times (the clipped sum +
    noise). A Poisson batch of more than the expected size plus ten standard deviations, or a noise
    norm above ten times its root mean square, does not happen by chance.

    Args:
        learning_rate: Of plain SGD.
        max_grad_norm: Clipping bound C.
        noise_multiplier: sigma.
        sample_rate: q.
        train_units: Declared number of units n.
        parameters: Number of model parameters.
        steps: Local steps of a round.

    Returns:
        An upper limit of the L2 norm.
    """
    expected = sample_rate * train_units
    largest_batch = expected + 10 * np.sqrt(expected) + 10
    noise = 10 * noise_multiplier * np.sqrt(parameters)
    return float(steps * learning_rate * max_grad_norm * (largest_batch + noise) / expected)


def check_update(update: Arrays, *, sent: Arrays, site: str, norm_max: float) -> None:
    """Refuse an update that cannot have come from the planned training.

    Args:
        update: What the site answered.
        sent: The model that it was sent.
        site: The site's name, for the message.
        norm_max: Longest L2 distance from ``sent``.

    Raises:
        InvalidValue: If names, shapes or types differ, a value is not finite, or the step is too
            long.
            Messages carry names and rules, never a value of an array.
    """
    field = f"update of site {site}"
    if set(update) != set(sent):
        rule = "must have exactly the arrays that it was sent"
        raise InvalidValue(field, rule, ", ".join(sorted(set(update) ^ set(sent))))
    squared = 0.0
    for name, reference in sent.items():
        array = update[name]
        if array.shape != reference.shape or array.dtype != reference.dtype:
            rule = f"must have array {name} of {reference.dtype} {reference.shape}"
            raise InvalidValue(field, rule, f"{array.dtype} {array.shape}")
        if not np.isfinite(array).all():
            raise InvalidValue(field, "must be finite", f"NaN or infinity in array {name}")
        squared += float(np.square(array.astype(np.float64) - reference).sum())
    if np.sqrt(squared) > norm_max * (1 + SLACK):
        rule = "must not move the model further than its clipping, noise and steps allow"
        raise InvalidValue(field, rule, "a longer step")


def weighted_average(updates: Mapping[str, Arrays], *, weights: Mapping[str, int]) -> Arrays:
    """The average of the sites' arrays, ``sum_k n_k w_k / sum_k n_k``, n declared and public.

    McMahan et al. (2017), algorithm 1.

    Args:
        updates: Checked updates by site.
        weights: Declared number of units by site, above 0.

    Returns:
        Arrays of the same names, shapes and types; summed in float64.

    Raises:
        InvalidValue: If the sites are not those with a weight, or a weight is not above 0.
    """
    if set(updates) != set(weights) or not updates:
        found = ", ".join(sorted(updates)) or "none"
        raise InvalidValue("updates", f"must come from {', '.join(sorted(weights))}", found)
    if min(weights.values()) <= 0:
        raise InvalidValue("weights", "must be above 0", min(weights.values()))
    total = sum(weights.values())
    first = next(iter(updates.values()))
    averaged: dict[str, np.ndarray] = {}
    for name, reference in first.items():
        terms = [
            arrays[name].astype(np.float64) * (weights[site] / total)
            for site, arrays in updates.items()
        ]
        averaged[name] = np.sum(terms, axis=0).astype(reference.dtype)
    return averaged
