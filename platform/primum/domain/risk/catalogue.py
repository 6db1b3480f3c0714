"""Every quantity of privacy-theory.md, appendix A, by name: inputs in, number or object out.

The names and the keys are a contract with the golden values and with whoever evaluates a card. It
must not compute: it maps names and keys to the functions beside it. Infinite results are the string
``inf``, undefined ones ``None``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from primum.domain.accounting import pld, rdp
from primum.domain.errors import InvalidValue
from primum.domain.quantities import Neighbors
from primum.domain.risk import (
    audits,
    calibrate,
    complexgauss,
    composition,
    divergence,
    from_scratch,
    gaussian,
    glrt,
    individual,
    intervals,
    rero,
    selection,
    statistics,
    tradeoff,
)

_NEIGHBORS = {
    "add_or_remove_one": Neighbors.ADD_OR_REMOVE_ONE,
    "replace_one": Neighbors.REPLACE_ONE,
}
# The library inverts the loss of a mixture point by point: a coarser grid, rounded up like the fine
# one, takes a second instead of twenty, for at most some thousandths of epsilon.
_MIXTURE_INTERVALS = 20


def _renamed(function: Callable[..., Any], **names: str) -> Callable[..., Any]:
    """The function with golden input keys translated to its own."""

    def call(**inputs: Any) -> Any:
        return function(**{names.get(key, key): value for key, value in inputs.items()})

    return call


def _require_poisson(sampling: str) -> None:
    if sampling != "poisson":
        raise InvalidValue("sampling", "must be poisson", sampling)


def _pld(q: float, noise_multiplier: float, steps: int, sampling: str, relation: str) -> Any:
    _require_poisson(sampling)
    if relation not in _NEIGHBORS:
        raise InvalidValue("relation", f"must be one of {', '.join(_NEIGHBORS)}", relation)
    return calibrate.pld_figures(
        q=q, noise_multiplier=noise_multiplier, steps=steps, neighbors=_NEIGHBORS[relation]
    )


def _pld_epsilon(
    *, q: float, noise_multiplier: float, steps: int, delta: float, sampling: str, relation: str
) -> dict[str, float]:
    composed = _pld(q, noise_multiplier, steps, sampling, relation)
    remove = float(composed._pmf_remove.get_epsilon_for_delta(delta))
    add = float(composed._pmf_add.get_epsilon_for_delta(delta))
    return {"epsilon": max(remove, add), "epsilon_remove": remove, "epsilon_add": add}


def _pld_delta(
    *, q: float, noise_multiplier: float, steps: int, epsilon: float, sampling: str, relation: str
) -> dict[str, float]:
    composed = _pld(q, noise_multiplier, steps, sampling, relation)
    remove = float(composed._pmf_remove.get_delta_for_epsilon(epsilon))
    add = float(composed._pmf_add.get_delta_for_epsilon(epsilon))
    return {"delta": max(remove, add), "delta_remove": remove}


def _pld_delta_two_steps(
    *, q: float, noise_multiplier: float, steps: int, epsilon: float, direction: str
) -> float:
    composed = _pld(q, noise_multiplier, steps, "poisson", "add_or_remove_one")
    side = composed._pmf_remove if direction == "remove" else composed._pmf_add
    return float(side.get_delta_for_epsilon(epsilon))


def _pld_heterogeneous(
    *, runs: list[dict[str, Any]], delta: float, sampling: str, relation: str
) -> float:
    _require_poisson(sampling)
    interval = pld.interval_for(min(run["q"] for run in runs))
    total: Any = None
    for run in runs:
        part = pld.gaussian_step(
            sample_rate=run["q"],
            noise_multiplier=run["noise_multiplier"],
            interval=interval,
            neighbors=_NEIGHBORS[relation],
        ).self_compose(run["steps"])
        total = part if total is None else total.compose(part)
    return float(total.get_epsilon_for_delta(delta))


def _group_composed(
    *, q: float, noise_multiplier: float, records_per_subject: int, steps: int, delta: float
) -> float:
    """Binomial mixture of shifts, composed as a loss distribution (1.10); never too small."""
    from dp_accounting.pld import privacy_loss_distribution
    from scipy import stats

    counts = list(range(records_per_subject + 1))
    weights = [float(stats.binom.pmf(k, records_per_subject, q)) for k in counts]
    single = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        noise_multiplier,
        counts,
        weights,
        value_discretization_interval=_MIXTURE_INTERVALS * pld.interval_for(q),
    )
    return float(single.self_compose(steps).get_epsilon_for_delta(delta))


def _advanced(
    *,
    delta_prime: float,
    epsilons: list[float] | None = None,
    epsilon: float = 0.0,
    count: int = 0,
) -> float:
    parts = [epsilon] * count if epsilons is None else epsilons
    return composition.advanced_heterogeneous(epsilons=parts, delta_prime=delta_prime)


def _calibrated_noise(
    *,
    epsilon: float,
    delta: float,
    q: float,
    steps: int,
    sampling: str,
    accountant: str,
    relation: str,
) -> float:
    _require_poisson(sampling)
    if accountant != "pld" or relation != "add_or_remove_one":
        raise InvalidValue(
            "accountant, relation", "must be pld and add_or_remove_one", (accountant, relation)
        )
    return calibrate.noise_for_epsilon(epsilon=epsilon, delta=delta, q=q, steps=steps)


def _tpr_dpsgd(
    *, q: float, noise_multiplier: float, steps: int, fpr: list[float], direction: str
) -> dict[str, Any]:
    if direction != "remove":
        raise InvalidValue("direction", "must be remove", direction)
    return tradeoff.dpsgd_curve(q=q, noise_multiplier=noise_multiplier, steps=steps, fpr=fpr)


def _excess(*, reference: Mapping[str, float], actual: Mapping[str, float], steps: int) -> Any:
    pairs = [(run["q"], run["noise_multiplier"]) for run in (reference, actual)]
    return divergence.excess_vulnerability(reference=pairs[0], actual=pairs[1], steps=steps)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "gaussian.delta": gaussian.gaussian_delta,
    "gaussian.log_delta": gaussian.gaussian_log_delta,
    "gaussian.epsilon": gaussian.gaussian_epsilon,
    "gaussian.sigma": gaussian.sigma,
    "gaussian.classical_sigma": gaussian.classical_sigma,
    "laplace.delta": gaussian.laplace_delta,
    "laplace.rdp": _renamed(rdp.laplace_rdp, eps0="pure_epsilon"),
    "rdp.gaussian": lambda order, psi: order * psi * psi / 2,
    "rdp.subsampled_gaussian_poisson": composition.rdp_subsampled_poisson,
    "rdp.subsampled_gaussian_fixed_size": composition.rdp_subsampled_fixed_size,
    "subsampled.one_step_delta_remove": gaussian.one_step_delta_remove,
    "subsampled.one_step_delta_add": gaussian.one_step_delta_add,
    "subsampled.fixed_size_replace_one_step_delta": composition.fixed_size_replace_one_step_delta,
    "rdp.to_epsilon": composition.rdp_to_epsilon,
    "rdp.gaussian_epsilon_optimal_order": composition.gaussian_optimal_order,
    "pld.subsampled_gaussian.epsilon": _pld_epsilon,
    "pld.subsampled_gaussian.delta": _pld_delta,
    "pld.subsampled_gaussian.delta_two_steps": _pld_delta_two_steps,
    "pld.heterogeneous.epsilon": _pld_heterogeneous,
    "gdp.compose": composition.gdp_compose,
    "gdp.clt_mu_poisson": composition.clt_mu_poisson,
    "gdp.clt_epsilon_poisson": composition.clt_epsilon_poisson,
    "composition.advanced_heterogeneous": _advanced,
    "composition.optimal_homogeneous_delta": composition.optimal_homogeneous_delta,
    "zcdp.to_epsilon_simple": composition.zcdp_to_epsilon_simple,
    "zcdp.to_epsilon": composition.zcdp_to_epsilon,
    "group.approx_dp": composition.group_approx,
    "group.gaussian_epsilon": composition.group_gaussian_epsilon,
    "group.poisson_one_step_delta": composition.group_poisson_one_step_delta,
    "group.poisson_composed_epsilon": _group_composed,
    "relation.gaussian_delta_pair": composition.gaussian_delta_pair,
    "relation.poisson_replace_one_step_delta": _renamed(
        gaussian.poisson_replace_one_step_delta, psi_add_remove="psi"
    ),
    "calibrate.noise_multiplier": _calibrated_noise,
    "filter.fully_adaptive_approx_dp": composition.adaptive_approx_filter,
    "odometer.linear": composition.odometer_linear,
    "odometer.mixture": composition.odometer_mixture,
    "filter.rdp_fixed_order": composition.rdp_fixed_order_filter,
    "filter.natural_pld_counterexample": _renamed(
        composition.natural_pld_counterexample,
        randomised_response_epsilon="randomized_response_epsilon",
    ),
    "selection.truncated_negative_binomial_rdp": selection.truncated_negative_binomial_rdp,
    "selection.poisson_rdp": selection.poisson_rdp,
    "federated.distributed_noise_std": composition.distributed_noise_std,
    "psi.summary": gaussian.summary,
    "psi.tpr_at_fpr": gaussian.tpr_at_fpr,
    "psi.from_auc": gaussian.psi_from_auc,
    "psi.from_epsilon_delta": composition.psi_from_epsilon_delta,
    "tradeoff.tpr_upper_epsilon_delta": tradeoff.tpr_upper_epsilon_delta,
    "tradeoff.tpr_laplace": tradeoff.tpr_laplace,
    "tradeoff.tpr_subsampled_one_step": tradeoff.tpr_subsampled_one_step,
    "tradeoff.tpr_dpsgd": _tpr_dpsgd,
    "tradeoff.auc_dpsgd": tradeoff.dpsgd_auc,
    "tradeoff.advantage_epsilon_delta": tradeoff.advantage_epsilon_delta,
    "tradeoff.advantage_laplace": tradeoff.advantage_laplace,
    "bayes.posterior_upper_pure": tradeoff.posterior_upper_pure,
    "bayes.min_error_gaussian": tradeoff.min_error_gaussian,
    "tradeoff.auc_upper_epsilon_delta": tradeoff.auc_upper_epsilon_delta,
    "interval.clopper_pearson_one_sided": intervals.clopper_pearson_one_sided,
    "audit.epsilon_lower_bound_clopper_pearson": audits.epsilon_lower_bound,
    "audit.gdp_mu_lower_bound": audits.gdp_mu_lower_bound,
    "audit.one_run_p_value": audits.one_run_p_value,
    "audit.one_run_epsilon_lower": audits.one_run_epsilon_lower,
    "audit.one_run_gdp_mu_lower": audits.one_run_gdp_mu_lower,
    "calibrate.noise_for_advantage": calibrate.noise_for_advantage,
    "calibrate.noise_for_tpr_at_fpr": calibrate.noise_for_tpr_at_fpr,
    "glrt.tpr_at_fpr": glrt.tpr_at_fpr,
    "glrt.auc": glrt.auc,
    "glrt.effective_delta": glrt.effective_delta,
    "glrt.composed_tpr": glrt.composed_tpr,
    "glrt.subsampled_composed_tpr": glrt.subsampled_composed_tpr,
    "rero.gaussian": rero.gaussian_bound,
    "rero.gaussian_composed": rero.gaussian_composed,
    "rero.laplace": rero.laplace,
    "rero.subsampled_gaussian_one_step": rero.subsampled_one_step,
    "rero.dpsgd": rero.dpsgd,
    "rero.from_epsilon_delta": rero.from_epsilon_delta,
    "rero.from_rdp": rero.from_rdp,
    "rero.kappa_uniform_candidates": rero.kappa_uniform_candidates,
    "rero.kappa_gaussian_prior_mse": rero.kappa_gaussian_prior_mse,
    "rero.psi_for_gamma": rero.psi_for_gamma,
    "from_scratch.prob_mse_below": from_scratch.prob_mse_below,
    "from_scratch.mse_moments": from_scratch.mse_moments,
    "from_scratch.mse_quantile": from_scratch.mse_quantile,
    "from_scratch.expected_psnr": from_scratch.expected_psnr,
    "from_scratch.prob_psnr_above": from_scratch.prob_psnr_above,
    "from_scratch.ncc": _renamed(from_scratch.ncc, centred_norm="centered_norm"),
    "from_scratch.baseline_mse": from_scratch.baseline_mse,
    "from_scratch.prob_mse_below_poisson": from_scratch.prob_mse_below_poisson,
    "from_scratch.any_of_n": from_scratch.any_of_n,
    "from_scratch.noise_for_probability": from_scratch.noise_for_probability,
    "individual.full_batch": individual.full_batch,
    "individual.poisson_rdp": individual.poisson_rdp,
    "individual.renyi_filter": individual.renyi_filter,
    "attribution.logistic_gradient_norm": individual.logistic_gradient_norm,
    "divergence.delta_gdp": divergence.delta_gdp,
    "divergence.delta_gaussian_to_epsilon_delta": divergence.delta_gaussian_to_epsilon_delta,
    "divergence.delta_laplace_to_gaussian": divergence.delta_laplace_to_gaussian,
    "idp.scale_parameters": calibrate.scale_parameters,
    "idp.sample_parameters": calibrate.sample_parameters,
    "idp.excess_vulnerability": _excess,
    "complex.gaussian": complexgauss.mechanism,
    "complex.calibrate": complexgauss.calibrate,
    "complex.non_circular_psi": complexgauss.non_circular_psi,
    "metric.p1": statistics.p1_score,
    "fairness.statistical_parity_difference": statistics.statistical_parity_difference,
    "stats.pearson_r": statistics.pearson_r,
    "stats.mcnemar": statistics.mcnemar,
    "stats.cohen_kappa": statistics.cohen_kappa,
    "stats.mcc": statistics.mcc,
    "stats.roc_auc_binary": statistics.roc_auc_binary,
    "stats.roc_auc_ovr_weighted": statistics.roc_auc_ovr_weighted,
    "stats.ece_multiclass": statistics.ece_multiclass,
    "stats.ece_binary": statistics.ece_binary,
    "multiplicity.ambiguity_discrepancy": statistics.ambiguity_discrepancy,
    "multiplicity.ensemble_abstention": statistics.ensemble_abstention,
    "fid.gaussian_moments": statistics.fid_gaussian_moments,
    "fid.sample_fid_and_kid": statistics.sample_fid_and_kid,
    "filter_eval.sensitivity_specificity": statistics.filter_sensitivity_specificity,
    "filter_eval.consistency": statistics.filter_consistency,
    "image.mse_psnr_ncc": statistics.image_mse_psnr_ncc,
}


def quantities() -> tuple[str, ...]:
    """The names that ``evaluate`` knows, sorted."""
    return tuple(sorted(_FUNCTIONS))


def evaluate(quantity: str, inputs: Mapping[str, Any]) -> Any:
    """The value of a quantity of appendix A.

    Args:
        quantity: Its name.
        inputs: Its inputs, with exactly the keys of appendix A.

    Returns:
        A number, or an object with exactly the output keys; ``"inf"`` for infinite, ``None`` for
        undefined.

    Raises:
        InvalidValue: If the name or a key is unknown, a key is missing, or a value is out of range.
    """
    function = _FUNCTIONS.get(quantity)
    if function is None:
        raise InvalidValue("quantity", "must be a name from appendix A", quantity)
    try:
        result = function(**inputs)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise InvalidValue("inputs", f"must have the keys of {quantity}", sorted(inputs)) from error
    return _plain(result)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
    return value
