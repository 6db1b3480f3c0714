"""The work queue: each name once, each with one worker, what fails comes back later each time."""

from __future__ import annotations

import threading

import pytest

from primum_operators.queue import BACKOFF_SECONDS_MAX, WorkQueue


class Seconds:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def seconds():
    return Seconds()


@pytest.fixture
def queue(seconds):
    return WorkQueue(monotonic=seconds, jitter=lambda: 1.0)


def take(queue):
    return queue.take(seconds=0)


def test_a_name_is_given_once(queue):
    queue.add("a")
    queue.add("a")
    queue.add("b")
    assert [take(queue), take(queue), take(queue)] == ["a", "b", None]


def test_what_is_worked_on_is_not_given_to_another_but_again_afterwards(queue):
    queue.add("a")
    assert take(queue) == "a"
    queue.add("a")
    assert take(queue) is None
    queue.done("a")
    assert take(queue) == "a"


def test_a_name_in_work_does_not_hold_up_others(queue):
    queue.add("a")
    assert take(queue) == "a"
    queue.add("a")
    queue.add("b")
    assert take(queue) == "b"


def test_the_earlier_due_time_stands(queue, seconds):
    queue.add("a", seconds=5)
    queue.add("a", seconds=10)
    assert take(queue) is None
    seconds.now = 5
    assert take(queue) == "a"
    queue.done("a")
    seconds.now = 10
    assert take(queue) is None
    queue.add("b", seconds=10)
    queue.add("b")
    assert take(queue) == "b"


def test_what_fails_waits_longer_each_time_and_starts_over_after_success(queue, seconds):
    waits = []
    for _ in range(9):
        queue.add("a")
        seconds.now += 1000
        assert take(queue) == "a"
        waits.append(queue.failed("a"))
    assert waits == [1, 2, 4, 8, 16, 32, *[BACKOFF_SECONDS_MAX] * 3]
    seconds.now += 1000
    assert take(queue) == "a"
    queue.done("a")
    queue.add("a")
    assert take(queue) == "a"
    assert queue.failed("a", seconds=7) == 7


def test_news_of_a_failing_name_does_not_shorten_its_wait(queue, seconds):
    queue.add("a")
    take(queue)
    queue.add("a")
    queue.failed("a")
    assert take(queue) is None
    seconds.now = 1.0
    assert take(queue) == "a"


def test_jitter_spreads_what_failed_together():
    queue = WorkQueue()
    waits = set()
    for name in range(20):
        queue.add(name)
        take(queue)
        waits.add(queue.failed(name))
    assert len(waits) > 10
    assert all(0.8 <= wait <= 1.2 for wait in waits)


def test_forgetting_drops_what_waits(queue):
    queue.add("a")
    queue.add("b", seconds=5)
    queue.forget()
    assert (take(queue), queue.depth()) == (None, 0)


def test_depth_counts_what_is_due(queue):
    queue.add("a")
    queue.add("b")
    queue.add("c", seconds=5)
    take(queue)
    assert queue.depth() == 1


def test_a_worker_that_waits_is_woken():
    queue = WorkQueue()
    found = []
    worker = threading.Thread(target=lambda: found.append(queue.take(seconds=30)))
    worker.start()
    queue.add("a")
    worker.join(5)
    assert found == ["a"]


def test_closing_lets_every_worker_go():
    queue = WorkQueue()
    found = []
    workers = [threading.Thread(target=lambda: found.append(queue.take(seconds=30)))] * 1
    for worker in workers:
        worker.start()
    queue.close()
    for worker in workers:
        worker.join(5)
    assert found == [None]
    queue.add("a")
    assert queue.take(seconds=0) is None


def test_many_workers_never_share_a_name():
    queue = WorkQueue()
    working, clashes, done = set(), [], []

    def work():
        while (name := queue.take(seconds=0.2)) is not None:
            if name in working:
                clashes.append(name)
            working.add(name)
            done.append(name)
            working.discard(name)
            queue.done(name)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for number in range(2000):
        queue.add(number % 50)
    for worker in workers:
        worker.join()
    assert clashes == []
    assert set(done) == set(range(50))
