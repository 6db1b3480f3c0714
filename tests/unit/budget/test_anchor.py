"""The anchor file: always complete, never moved back, and loud when it cannot be trusted."""

from __future__ import annotations

import threading

import pytest

from primum.adapters.anchor import FileAnchor
from primum.adapters.system import SystemClock, fresh_uid
from primum.domain.errors import Tampered, Unavailable


def test_nothing_was_anchored_yet(tmp_path):
    assert FileAnchor(tmp_path / "anchor.json").read() is None


def test_the_anchor_moves_forward_only(tmp_path):
    anchor = FileAnchor(tmp_path / "folder" / "anchor.json")
    anchor.write(5, "five")
    anchor.write(4, "four")
    anchor.write(5, "another five")
    assert anchor.read() == (5, "five")
    anchor.write(6, "six")
    assert FileAnchor(tmp_path / "folder" / "anchor.json").read() == (6, "six")


@pytest.mark.parametrize("text", ["", "{}", '{"seq": "x", "hash": "y"}', "[1, 2]", "\x00"])
def test_a_damaged_anchor_is_not_the_same_as_none(tmp_path, text):
    path = tmp_path / "anchor.json"
    path.write_text(text)
    with pytest.raises(Tampered, match="anchor"):
        FileAnchor(path).read()


def test_an_anchor_that_cannot_be_written_is_unavailable(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="anchor"):
        FileAnchor(tmp_path / "file" / "anchor.json").write(1, "one")


def test_writers_at_once_keep_the_newest(tmp_path):
    anchor = FileAnchor(tmp_path / "anchor.json")
    threads = [threading.Thread(target=anchor.write, args=(n, str(n))) for n in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert anchor.read() == (20, "20")


def test_the_clock_tells_times_that_sort(monkeypatch):
    clock = SystemClock()
    first, second, later = clock.now(), clock.now(), clock.after(60)
    assert first <= second < later
    assert len(first) == len("2026-11-22T06:00:00.000000Z")


def test_ids_are_fresh():
    assert fresh_uid() != fresh_uid()
