"""A plan that protects somebody else than the account does reserves nothing."""

from __future__ import annotations

import pytest
from ledger_words import request, reserve, state_of_everything, terms

from primum.adapters.memory import ManualClock, MemoryLedgerStore
from primum.domain.budget.entries import ResultCode
from primum.domain.quantities import Neighbors, PrivacyUnit


@pytest.fixture
def ledger():
    return MemoryLedgerStore(clock=ManualClock())


@pytest.fixture
def account(ledger):
    return ledger.open_account(terms(), actor="s")[0]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"unit": PrivacyUnit.IMAGE}, "found Image and AddOrRemoveOne"),
        ({"neighbors": Neighbors.REPLACE_ONE}, "found Patient and ReplaceOne"),
    ],
)
def test_another_unit_or_relation_is_refused_by_name_and_writes_nothing(
    ledger, account, asked, said
):
    before = state_of_everything(ledger)
    result = reserve(ledger, request(account, **asked))
    assert result.code is ResultCode.UNIT_MISMATCH
    assert said in result.message
    assert state_of_everything(ledger) == before


def test_the_unit_and_the_relation_of_the_account_are_taken(ledger, account):
    asked = request(account, unit=PrivacyUnit.PATIENT, neighbors=Neighbors.ADD_OR_REMOVE_ONE)
    assert reserve(ledger, asked).stands
