"""A ward in each test, and what most tests ask of it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from ward import Ward

from primum.adapters import memory


@pytest.fixture
def ward():
    return Ward()


@pytest.fixture
def released(ward):
    """A ward in which the Study ``one`` was released as the endpoint ``risk``."""
    ward.finish(ward.study())
    assert ward.shown(ward.key("Study", "one"), "Succeeded").startswith("True Done")
    return ward


@pytest.fixture
def dec():
    return Decimal


@pytest.fixture
def memories():
    return memory
