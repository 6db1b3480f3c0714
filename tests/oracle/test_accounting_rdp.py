"""Our Renyi curves against dp-accounting's, an independent implementation."""

from __future__ import annotations

import logging

import pytest

from primum.domain.accounting import rdp


@pytest.mark.parametrize(("q", "noise"), [(0.281, 1.31), (1e-4, 0.7), (1e-3, 0.2), (0.9, 5.0)])
def test_curve_agrees_at_whole_orders_and_is_never_looser(q, noise):
    import dp_accounting
    from dp_accounting.rdp import rdp_privacy_accountant

    logging.getLogger("absl").setLevel(logging.ERROR)  # It warns where its series fails.
    library = rdp_privacy_accountant.RdpAccountant(rdp.DENSE_ORDERS)
    step = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(noise))
    library.compose(step)
    ours = rdp.poisson_curve(q, noise, rdp.DENSE_ORDERS)
    for order, mine, theirs in zip(rdp.DENSE_ORDERS, ours, library.rdp, strict=True):
        if order == int(order):
            assert mine == pytest.approx(theirs, rel=1e-9)
        else:  # The library drops signs at fractional orders: up to a few per cent too much.
            assert mine <= theirs * (1 + 1e-9)
