"""The stores of the embedded profile keep the contract of ``tests/support``.

The one over the Kubernetes API keeps it in ``tests/controlplane``.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from resource_store_contract import *  # noqa: F403


@pytest.fixture
def stores(stores):
    """The stores, with the clock's present time to compare with."""
    began = stores.clock.now()
    return SimpleNamespace(
        resources=stores.resources,
        is_now=lambda text: text == began,
        pass_time=lambda: stores.clock.advance(60),
    )
