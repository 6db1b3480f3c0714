"""How a step talks to the keeper: one JSON question and answer per connection, on a socket.

Both sides prove that they know the key in ``ray.json`` (readable by the owner alone). Bytes are
JSON, never pickles.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from primum.adapters import files, processes
from primum.domain.errors import Unavailable

ADDRESS_FILE = "ray.json"
_OWNERS = "ray-owners"
MESSAGE_BYTES_MAX = (
    64 * 2**20
)  # A report is kilobytes; evidence of many subgroups may reach a few megabytes.


@dataclass(frozen=True, slots=True)
class Address:
    """Where a keeper listens.

    Args:
        socket: Path of its socket.
        key: What both sides prove to know, hex.
        pid: Its process number, for people.
        ray_address: Ray's own address, empty until Ray is up.
        token_path: File with Ray's token.
    """

    socket: str
    key: str
    pid: int
    ray_address: str
    token_path: str

    def write(self, path: Path) -> None:
        """Write the address file at once and privately."""
        held = {name: getattr(self, name) for name in self.__slots__}
        files.replace(path, json.dumps(held).encode(), mode=files.OWNER_ONLY)


def read_address(path: Path) -> Address | None:
    """The address in a file, or ``None`` where there is none or it is damaged."""
    try:
        return Address(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def own(home: Path) -> None:
    """Note that this process wants a keeper for as long as it lives."""
    path = home / _OWNERS / str(os.getpid())
    born = processes.birth(os.getpid())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists() or path.read_text(encoding="utf-8") != born:
        files.replace(path, born.encode(), mode=files.OWNER_ONLY)


def owners(home: Path) -> dict[Path, bool]:
    """Files of the processes that wanted a keeper, and whether each still lives."""
    found = {}
    for path in (home / _OWNERS).glob("[0-9]*"):
        with contextlib.suppress(OSError):
            born = path.read_text(encoding="utf-8")
            found[path] = processes.birth(int(path.name)) == born
    return found


def ask(address: Address, question: Mapping[str, Any]) -> dict[str, Any]:
    """Ask the keeper and wait for its answer.

    Raises:
        Unavailable: If it cannot be reached, or ends without an answer.
    """
    try:
        with Client(address.socket, family="AF_UNIX", authkey=bytes.fromhex(address.key)) as line:
            line.send_bytes(json.dumps(question).encode())
            answer = json.loads(line.recv_bytes(MESSAGE_BYTES_MAX))
    except (OSError, EOFError, ValueError, AuthenticationError) as error:
        raise Unavailable(f"the Ray keeper did not answer ({type(error).__name__})") from error
    if "unavailable" in answer:
        raise Unavailable(str(answer["unavailable"]))
    return dict(answer)


@dataclass(frozen=True, slots=True)
class KeeperLine:
    """Where a worker of this machine leaves what counts if it is lost: with its keeper.

    Args:
        home: Folder of the address file.
        call: Which call it works on.
    """

    home: str
    call: str

    def __call__(self, word: str) -> None:
        """Leave a report, JSON text.

        Raises:
            Unavailable: If the keeper is gone, or has given this call up.
        """
        address = read_address(Path(self.home) / ADDRESS_FILE)
        if address is None:
            raise Unavailable("the Ray keeper is gone")
        ask(address, {"ask": "leave", "call": self.call, "word": word})


def is_gone(line: Connection[Any, Any]) -> bool:
    """Whether the other side has hung up: after its question, all there is to read is the end."""
    try:
        return line.poll(0)
    except OSError:
        return True
