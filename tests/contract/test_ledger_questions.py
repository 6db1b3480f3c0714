"""``primum ledger burndown | forecast | spending | refusals``: answers, and nothing spent."""

from __future__ import annotations

import pytest
from command_line import CommandLine
from ledger_words import HALF, HUGE, charge, expose, request, reserve, terms

from primum.entrypoints import bootstrap, settings


@pytest.fixture
def primum(tmp_path, capsys):
    command = CommandLine(tmp_path / "home")
    return lambda *words, **more: command(*words, capsys=capsys, **more)


@pytest.fixture
def account(tmp_path):
    """An account with two charges and a denial."""
    found = settings.from_environment({"PRIMUM_HOME": str(tmp_path / "home")})
    bootstrap.prepare_home(found)
    stores = bootstrap.stores(found)
    made, _ = stores.ledger.open_account(terms(), actor="s")
    for name in ("r1", "r2"):
        reserve(stores.ledger, request(made, name, HALF, requester=f"person-{name}"))
        expose(stores.ledger, name)
        charge(stores.ledger, name)
    reserve(stores.ledger, request(made, "greedy", HUGE))
    yield made
    stores.close()


def test_a_burndown_names_what_its_figures_mean(primum, account):
    done = primum("ledger", "burndown", account)
    assert done.code == 0, done
    assert "block whole, the last 5 of 5 points" in done.out
    assert "running bound: holds at every moment at once" in done.out
    assert "if the plan had been fixed in advance: epsilon" in done.out
    assert "more like the last charged Study" in done.out
    found = primum("ledger", "burndown", account, "-o", "json").json()
    assert len(found["points"]) == 5
    assert float(found["points"][-1]["left"]) < 8


def test_a_forecast_without_history_says_so(primum, account):
    done = primum("ledger", "forecast", account)
    assert "Not enough history: 2 charges in" in done.out
    (found,) = primum("ledger", "forecast", account, "-o", "json").json()
    assert (found["prospect"], found["expected"]) == ("NotEnoughHistory", "")


def test_spending_is_put_together(primum, account):
    done = primum("ledger", "spending", account)
    assert "person-r1" in done.out
    assert "shares add up, epsilons do not" in done.out
    found = primum("ledger", "spending", account, "--by", "study", "-o", "json").json()
    assert [(row["study"], row["share"]) for row in found["shares"]] == [
        ("oncology/malignancy", "1.0000")
    ]
    none = primum("ledger", "spending", account, "--until", "2020-01-01")
    assert "nothing found" in none.out
    wrong = primum("ledger", "spending", account, "--since", "yesterday")
    assert (wrong.code, "must be a day such as" in wrong.err) == (2, True)


def test_refusals_have_their_reasons(primum, account):
    done = primum("ledger", "refusals")
    assert "oncology/malignancy (user:ada): OverBudget" in done.out
    assert "short by" in done.out
    (found,) = primum("ledger", "refusals", "-o", "json").json()
    assert found["code"] == "OverBudget"


def test_a_budget_that_does_not_exist_is_not_found(primum, account):
    for word in ("burndown", "forecast", "spending"):
        done = primum("ledger", word, "nowhere")
        assert (done.code, "does not exist" in done.err) == (4, True)


def test_asking_writes_nothing(primum, account):
    before = primum("ledger", "entries", "-o", "json").json()
    for words in (("burndown", account), ("forecast", account), ("spending", account)):
        assert primum("ledger", *words).code == 0
    assert primum("ledger", "refusals").code == 0
    assert primum("ledger", "entries", "-o", "json").json() == before
