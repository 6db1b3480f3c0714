"""The lineage outbox: what is queued is delivered, in order, whatever the receivers do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from primum.adapters.openlineage import Outbox
from primum.domain.errors import InvalidValue, Unavailable


def make_event(run: str, kind: str = "START") -> dict[str, object]:
    return {"eventType": kind, "run": {"runId": run}}


@dataclass
class Receiver:
    """A destination that keeps what it gets, and fails as told."""

    name: str
    got: list[str] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    def open(self) -> Receiver:
        return self

    def emit(self, event) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.got.append(event["run"]["runId"])

    def close(self) -> None:
        pass


@dataclass
class Time:
    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def boxed(tmp_path):
    good, flaky, clock = Receiver("good"), Receiver("flaky"), Time()
    return Outbox(tmp_path / "outbox.db", [good, flaky], now=clock), good, flaky, clock


def test_events_arrive_once_and_in_order(boxed):
    outbox, good, flaky, _ = boxed
    for run in "abc":
        outbox.put(make_event(run))

    assert outbox.flush() == 6
    assert outbox.flush() == 0
    assert good.got == flaky.got == ["a", "b", "c"]


def test_a_repeated_step_repeats_no_event(boxed):
    outbox, good, _, _ = boxed
    outbox.put(make_event("a"))
    outbox.flush()
    outbox.put(make_event("a"))
    outbox.put(make_event("a", "COMPLETE"))

    outbox.flush()

    assert good.got == ["a", "a"]


def test_a_receiver_that_is_down_delays_only_itself(boxed):
    outbox, good, flaky, clock = boxed
    flaky.faults = [Unavailable("down"), Unavailable("down")]
    outbox.put(make_event("a"))
    outbox.put(make_event("b"))

    outbox.flush()
    assert (good.got, flaky.got) == (["a", "b"], [])
    assert outbox.backlog()["flaky"].waiting == 2
    assert outbox.backlog()["good"].waiting == 0

    clock.seconds = 1.9  # Not due before 2 s.
    outbox.flush()
    assert len(flaky.faults) == 1

    clock.seconds = 2.0
    outbox.flush()
    clock.seconds = 5.9  # The delay doubled.
    outbox.flush()
    assert flaky.got == []
    clock.seconds = 6.0
    outbox.flush()
    assert flaky.got == ["a", "b"]


def test_an_event_that_cannot_be_published_is_counted_and_skipped(boxed):
    outbox, _, flaky, _ = boxed
    flaky.faults = [InvalidValue("event", "must be publishable", "another")]
    outbox.put(make_event("a"))
    outbox.put(make_event("b"))

    outbox.flush()

    assert flaky.got == ["b"]
    assert (outbox.backlog()["flaky"].refused, outbox.backlog()["flaky"].waiting) == (1, 0)


def test_what_was_sent_before_a_fault_is_not_sent_again(boxed):
    outbox, _, flaky, clock = boxed
    outbox.put(make_event("a"))
    outbox.put(make_event("b"))
    emit = flaky.emit

    def fail_on_b(event):
        if event["run"]["runId"] == "b" and clock.seconds == 0:
            raise Unavailable("down")
        emit(event)

    flaky.emit = fail_on_b
    outbox.flush()
    clock.seconds = 100.0
    outbox.flush()

    assert flaky.got == ["a", "b"]


def test_queued_events_outlive_the_process(tmp_path):
    Outbox(tmp_path / "outbox.db").put(make_event("a"))
    receiver = Receiver("later")

    Outbox(tmp_path / "outbox.db", [receiver]).flush()

    assert receiver.got == ["a"]


def test_an_outbox_whose_file_was_replaced_goes_on_in_the_new_one(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db")
    outbox.put(make_event("a"))
    for file in tmp_path.iterdir():
        file.unlink()

    outbox.put(make_event("b"))

    again = Outbox(tmp_path / "outbox.db").events()
    assert [event["run"]["runId"] for event in again] == ["b"]


def test_threads_share_an_outbox(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db")
    runs = [f"run-{number}" for number in range(40)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda run: outbox.put(make_event(run)), runs))

    assert sorted(event["run"]["runId"] for event in outbox.events()) == sorted(runs)


@pytest.mark.parametrize(
    "event",
    [{}, {"run": {}}, {"run": {"runId": "a"}}, {"eventType": 0.5, "run": {"runId": "a"}}],
)
def test_queueing_never_fails_a_job(tmp_path, event):
    outbox = Outbox(tmp_path / "outbox.db")

    outbox.emit(event)

    assert outbox.events() == []


def test_an_unwritable_outbox_never_fails_a_job(tmp_path):
    (tmp_path / "file").write_text("")

    Outbox(tmp_path / "file" / "outbox.db").emit(make_event("a"))
