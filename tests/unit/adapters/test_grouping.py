"""Group commit: who writes for whom, and what becomes of the others when something goes wrong."""

from __future__ import annotations

import signal
import threading

import pytest

from primum.adapters.sql.grouping import GROUP_MAX, Done, Grouping
from primum.domain.errors import Unavailable

PATIENCE = 30.0  # Seconds that a test waits for what takes milliseconds.


class Journal:
    """Writes groups into a list; the first one waits until it is told to go on."""

    def __init__(self):
        self.groups = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.fault = {}
        self.finish_fault = {}

    def write(self, orders):
        number = len(self.groups)
        self.groups.append([order.work for order in orders])
        if number == 0:
            self.begun.set()
            assert self.go_on.wait(PATIENCE)
        if number in self.fault:
            raise self.fault[number]
        for order in orders:
            wrong = isinstance(order.work, Exception)
            order.done = Done(error=order.work) if wrong else Done(f"{order.work} done")

        def finish():
            if number in self.finish_fault:
                raise self.finish_fault[number]

        return finish


@pytest.fixture
def journal():
    return Journal()


@pytest.fixture
def grouping(journal):
    return Grouping(journal.write)


def together(grouping, journal, works):
    """Submit one work, and the others while it is written; what each came to."""
    outcomes = {}

    def submit(work):
        try:
            outcomes[work] = grouping.submit(work)
        except BaseException as error:
            outcomes[work] = error

    threads = [threading.Thread(target=submit, args=(work,)) for work in works]
    threads[0].start()
    assert journal.begun.wait(PATIENCE)
    for waiting, thread in enumerate(threads[1:], start=1):
        thread.start()
        while len(grouping._waiting) < waiting:
            assert thread.is_alive()
    journal.go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return outcomes


def test_a_single_writer_waits_for_nobody(grouping, journal):
    journal.go_on.set()
    assert [grouping.submit(word) for word in "abc"] == ["a done", "b done", "c done"]
    assert journal.groups == [["a"], ["b"], ["c"]]


def test_whoever_waits_is_written_together_in_order(grouping, journal):
    outcomes = together(grouping, journal, list("abcd"))
    assert journal.groups == [["a"], ["b", "c", "d"]]
    assert outcomes == {word: f"{word} done" for word in "abcd"}


def test_a_group_has_a_size(grouping, journal):
    words = [f"w{number}" for number in range(GROUP_MAX + 2)]
    outcomes = together(grouping, journal, words)
    assert [len(group) for group in journal.groups] == [1, GROUP_MAX, 1]
    assert outcomes == {word: f"{word} done" for word in words}


def test_what_a_work_raises_is_its_own(grouping, journal):
    wrong = ValueError("mine")
    outcomes = together(grouping, journal, ["a", "b", wrong, "c"])
    assert outcomes[wrong] is wrong
    assert [outcomes[word] for word in "abc"] == ["a done", "b done", "c done"]


def test_a_group_that_cannot_be_written_is_an_error_for_everybody(grouping, journal):
    journal.fault[1] = Unavailable("no room")
    outcomes = together(grouping, journal, list("abcd"))
    assert outcomes["a"] == "a done"
    errors = [outcomes[word] for word in "bcd"]
    assert all(type(error) is Unavailable and str(error) == "no room" for error in errors)
    assert len({id(error) for error in errors}) == 3, "threads must not share a traceback"
    assert grouping.submit("e") == "e done"


def test_nobody_is_answered_before_everything_is_done(grouping, journal):
    journal.finish_fault[1] = Unavailable("anchor")
    outcomes = together(grouping, journal, list("abc"))
    assert outcomes["a"] == "a done"
    assert all(isinstance(outcomes[word], Unavailable) for word in "bc")
    assert grouping.submit("d") == "d done"


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_an_interrupted_writer_leaves_nobody_waiting(grouping, journal, fault):
    journal.fault[1] = fault
    outcomes = together(grouping, journal, list("abcd"))
    assert outcomes["b"] is fault
    for word in "cd":
        assert isinstance(outcomes[word], Unavailable)
        assert "may be repeated" in str(outcomes[word])
    assert grouping.submit("e") == "e done"


def test_one_who_is_interrupted_while_waiting_holds_up_nobody(grouping, journal):
    def interrupted(_signal, _frame):
        raise KeyboardInterrupt

    first = threading.Thread(target=grouping.submit, args=("a",))
    first.start()
    assert journal.begun.wait(PATIENCE)
    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            grouping.submit("b")
    finally:
        signal.signal(signal.SIGALRM, before)
    journal.go_on.set()
    first.join(PATIENCE)
    assert grouping.submit("c") == "c done"
    assert journal.groups == [["a"], ["c"]], "what was taken back is not written"


def test_many_threads_are_all_answered(grouping, journal):
    journal.go_on.set()
    answers = []

    def work(who):
        for number in range(200):
            word = f"{who}-{number}"
            answers.append(grouping.submit(word) == f"{word} done")

    threads = [threading.Thread(target=work, args=(who,)) for who in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert answers == [True] * 3200
    written = [word for group in journal.groups for word in group]
    assert len(written) == len(set(written)) == 3200
