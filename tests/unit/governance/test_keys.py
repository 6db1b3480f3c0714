"""Is the signing key made once, kept to its owner, and never shown?"""

from __future__ import annotations

import stat
import threading

import pytest

from primum import signing
from primum.adapters import keys
from primum.domain.errors import NotFound, Refused, Tampered


def test_a_key_is_made_once(tmp_path):
    home = tmp_path / "home"
    one = keys.FileSigner(home)
    two = keys.FileSigner(home)
    assert one.public_key() == two.public_key() == keys.ensure(home)
    envelope = one.sign("t", b"payload")
    assert two.open(envelope, "t") == b"payload"
    assert keys.PublicKeyReader(home).open(envelope, "t") == b"payload"
    with pytest.raises(Tampered):
        two.open(envelope, "another type")


def test_only_the_owner_may_read_it(tmp_path):
    keys.ensure(tmp_path / "home")
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "home" / keys.PRIVATE_NAME).stat().st_mode) == 0o600
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [
        keys.PRIVATE_NAME,
        keys.PUBLIC_NAME,
    ]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_others_could_have_read_is_refused(tmp_path, mode):
    keys.ensure(tmp_path)
    (tmp_path / keys.PRIVATE_NAME).chmod(mode)
    with pytest.raises(Refused, match="chmod 600") as caught:
        keys.FileSigner(tmp_path)
    assert "PRIVATE KEY" not in str(caught.value)


def test_racing_processes_agree_on_one_key(tmp_path):
    barrier, found = threading.Barrier(8), []

    def start():
        barrier.wait()
        found.append(keys.FileSigner(tmp_path).public_key())

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_swapped_public_key_is_put_right(tmp_path):
    public = keys.ensure(tmp_path)
    (tmp_path / keys.PUBLIC_NAME).write_text(signing.generate()[1])
    assert keys.ensure(tmp_path) == public
    assert (tmp_path / keys.PUBLIC_NAME).read_text() == public


def test_the_key_is_not_in_its_own_picture(tmp_path):
    assert "PRIVATE" not in repr(keys.FileSigner(tmp_path))


def test_a_missing_public_key_is_named(tmp_path):
    with pytest.raises(NotFound, match=keys.PUBLIC_NAME):
        keys.PublicKeyReader(tmp_path)
