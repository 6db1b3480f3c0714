"""A Study waits for budget in a queue, and then for its GPUs; and every way in which that ends."""

from __future__ import annotations

import pytest

from primum.domain.budget.entries import ReservationState
from primum.domain.names import ResourceKey
from primum.domain.study.lifecycle import Action

LEASE = 600.0
QUEUE = {
    "unlocking": {"rule": "PerTime", "days": "1"},
    "scheduling": {"scheduler": "DPF", "waitDays": "2"},
}


@pytest.fixture
def queue(ward):
    """A budget whose room comes with time; all of it is there after a day."""
    spec = dict(ward.get("PrivacyBudget", "scans").spec) | QUEUE
    ward.resources.apply(ward.key("PrivacyBudget", "scans"), spec, labels={})
    ward.look_at_budgets()
    return ward


def big(ward, name):
    """A Study that takes more than half of the budget."""
    job = {"kind": "Simulated", "parameters": {"steps": "70", "noise": "2"}}
    return ward.study(name, endpoint="", job=job)


def schedule(ward):
    return ward.ledger.schedule(lease_seconds=LEASE, actor="loop")


def test_a_study_waits_until_enough_is_unlocked_and_then_goes_all_the_way(queue):
    key = queue.study()
    assert queue.advance(key) is Action.WAIT
    assert queue.shown(key, "BudgetReserved").startswith("Unknown Queued: waits until 2026-03-03")
    assert "Enough is unlocked: 2026-03-01T" in queue.shown(key, "BudgetReserved")
    schedule(queue)
    assert queue.advance(key) is Action.WAIT
    assert queue.states(key) == ["Queued"]
    queue.clock.advance(86400)
    (seen,) = schedule(queue)
    assert (seen.waiting, seen.granted, seen.gap) == (1, 1, 0)
    queue.finish(key)
    assert queue.shown(key, "Succeeded").startswith("True Done")
    assert queue.ledger.verify() == ()


def test_a_study_that_waited_in_vain_ends_with_what_would_fit(queue):
    key = queue.study()
    queue.advance(key)
    queue.clock.advance(2 * 86400 + 1)
    assert len(queue.ledger.expire(actor="loop")) == 1
    assert queue.advance(key) is Action.DONE
    shown = queue.shown(key, "Succeeded")
    assert shown.startswith("False QueueExpired: It waited until 2026-03-03")
    assert "What would fit" in shown or "Nothing smaller would fit" in shown


def test_a_study_that_can_never_fit_does_not_wait(queue):
    first = big(queue, "first")
    queue.advance(first)
    queue.clock.advance(86400)
    schedule(queue)
    queue.finish(first)
    second = big(queue, "second")
    assert queue.advance(second) is Action.DONE
    assert queue.shown(second, "Succeeded").startswith("False Denied")


def test_a_claim_that_was_overtaken_is_refused_when_nothing_can_fit_any_more(queue):
    keys = [big(queue, name) for name in ("one", "two")]
    for key in keys:
        queue.advance(key)
    queue.clock.advance(86400)
    schedule(queue)
    assert sorted(state for key in keys for state in queue.states(key)) == ["Queued", "Reserved"]
    granted, waiting = sorted(keys, key=lambda key: queue.states(key) == ["Queued"])
    queue.finish(granted)
    schedule(queue)
    assert queue.advance(waiting) is Action.DONE
    assert queue.shown(waiting, "Succeeded").startswith("False Denied: RDP has epsilon")


def test_deleting_a_study_that_waits_takes_its_claim_back(queue):
    key = queue.study()
    queue.advance(key)
    uid = queue.resources.get(key).uid
    queue.resources.request_deletion(key)
    assert queue.advance(key) is Action.DONE
    (held,) = queue.ledger.reservations(study_uid=uid)
    assert held.state is ReservationState.WITHDRAWN
    assert queue.resources.get(key) is None


def test_deleting_a_budget_takes_back_the_claims_that_wait_for_it(queue):
    key = queue.study()
    queue.advance(key)
    queue.resources.request_deletion(queue.key("PrivacyBudget", "scans"))
    queue.look_at_budgets()
    assert queue.get("PrivacyBudget", "scans") is None
    assert queue.states(key) == ["Withdrawn"]
    assert queue.advance(key) is Action.DONE
    assert queue.shown(key, "Succeeded").startswith("False BudgetNotFound")


def twin(ward, name="twin", **changes):
    """Another budget of the same data, so of the same account."""
    spec = dict(ward.get("PrivacyBudget", "scans").spec) | changes
    ward.resources.apply(ward.key("PrivacyBudget", name), spec, labels={})
    ward.look_at_budgets()


def test_deleting_another_budget_of_the_same_account_takes_nothing_back(queue):
    """Who may delete a declaration of their own must not end what waits for somebody else's."""
    twin(queue)
    away = ResourceKey("PrivacyBudget", "elsewhere", "twin")
    queue.resources.apply(away, queue.get("PrivacyBudget", "twin").spec, labels={})
    queue.look_at_budgets()
    key = queue.study()
    queue.advance(key)
    for deleted in (queue.key("PrivacyBudget", "twin"), away):
        queue.resources.request_deletion(deleted)
        queue.look_at_budgets()
        assert queue.resources.get(deleted) is None
        assert queue.states(key) == ["Queued"]
    queue.clock.advance(86400)
    schedule(queue)
    queue.finish(key)
    assert queue.shown(key, "Succeeded").startswith("True Done")


def test_two_budgets_of_one_account_do_not_fight_over_its_rules(queue):
    """The latest declaration holds, the other one says so, and nothing is written at any look."""
    twin(queue, quotas=[{"per": "Group", "epsilon": "1"}])
    head = queue.ledger.head()
    for _ in range(5):
        queue.clock.advance(3600)
        queue.look_at_budgets()
    assert queue.ledger.head() == head
    shown = [queue.shown(queue.key("PrivacyBudget", name), "Ready") for name in ("scans", "twin")]
    assert shown[0].startswith("True Registered: another PrivacyBudget of the same data")
    assert shown[1] == "True Registered"


def test_a_grant_whose_lease_ran_out_before_the_launch_opens_nothing(queue):
    key = queue.study()
    queue.advance(key)
    queue.clock.advance(86400)
    schedule(queue)
    queue.clock.advance(LEASE)
    queue.advance(key)
    queue.runner.progress()
    queue.ledger.expire(actor="loop")
    queue.finish(key)
    assert queue.states(key) == ["Returned"]
    assert queue.shown(key, "Succeeded").startswith("False")
    (account,) = {held.account_id for held in queue.ledger.reservations()}
    assert queue.ledger.account(account).epsilon_reserved == 0


def needing(ward, name, gpus):
    """A Study whose one worker needs GPUs."""
    job = {
        "kind": "Simulated",
        "parameters": {"steps": "10", "noise": "4"},
        "resources": {"workers": 1, "gpusPerWorker": gpus},
    }
    return ward.study(name, endpoint=f"of-{name}", job=job)


def test_a_study_waits_for_gpus_with_its_budget_held_and_nothing_exposed(ward):
    ward.platform.compute.gpus = 2
    first, second = needing(ward, "first", 2), needing(ward, "second", 1)
    ward.advance(first)
    assert ward.advance(second) is Action.WAIT
    assert ward.shown(second, "Launched") == (
        "Unknown WaitingForDevices: waits for 1 GPUs; 2 of 2 are with other runs"
    )
    assert ward.states(second) == ["Reserved"]
    ward.finish(first)
    ward.finish(second)
    assert ward.shown(second, "Succeeded").startswith("True Done")


def test_a_study_that_never_gets_its_gpus_gives_its_budget_back_untouched(ward):
    ward.platform.compute.gpus = 1
    first, second = needing(ward, "first", 1), needing(ward, "second", 1)
    ward.advance(first)
    ward.advance(second)
    ward.clock.advance(LEASE + 1)
    ward.ledger.expire(actor="loop")
    assert ward.advance(second) is Action.DONE
    assert ward.states(second) == ["Returned"]
    assert ward.shown(second, "Succeeded").startswith("False Returned: never launched")


def test_a_study_that_needs_more_gpus_than_there_are_is_refused_when_planned(ward):
    ward.platform.compute.gpus = 1
    key = needing(ward, "greedy", 2)
    ward.advance(key)
    assert ward.shown(key, "Succeeded") == (
        "False InvalidSpec: spec.job.resources must need at most the 1 GPUs that there are; "
        "found 1 worker with 2 each."
    )
