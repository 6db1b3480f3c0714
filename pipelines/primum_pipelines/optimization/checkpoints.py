"""Going on after a worker was lost: the state of a training, and how many steps it may have run.

A checkpoint is written before the steps that follow it and says up to which step they may go. What
was begun counts as executed, whether or not it was finished: a training that is resumed runs only
what is left of the planned steps, so nothing is spent twice and no step is hidden. Noise and coins
are not part of it; a new process draws new ones under a new key.

A checkpoint is sealed by a key that is in no file: the training alone has it, and whoever keeps
what it left for the case that its worker is lost. An altered one is refused before anything of it
is read. One that is older than the last costs utility alone where it is known from elsewhere how
many steps may have run.

It holds what the training's charge covers and which canaries are in: it belongs in the steward's
zone and is deleted when the training has ended. Must never be unpickled freely.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from primum.domain.errors import InvalidValue, Tampered, Unavailable

_MAGIC = b"primum-checkpoint-2\n"
_MARK_BYTES = 32
_OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True, repr=False)
class Continuation:
    """Which training this is, and what is known of those of its workers that were lost.

    Args:
        key: Secret of this training; it seals its checkpoints.
        executed: Steps that may have been executed, at most; ``None`` where no worker was lost.
    """

    key: bytes
    executed: int | None = None


def begun_now() -> Continuation:
    """A training that begins here, under a new key."""
    return Continuation(secrets.token_bytes(_MARK_BYTES))


@dataclass(frozen=True, slots=True, repr=False)
class Checkpoints:
    """Where a training's state is kept.

    Args:
        path: The file; its folder is made if absent.
        training: Which training this is; a checkpoint of another one is not taken.
        every: Steps between two checkpoints, at least 1; at most that many are lost.
        extra: More that has to be as it was, bytes by name, such as sealed coins.
    """

    path: Path
    training: Continuation
    every: int
    extra: Mapping[str, bytes]

    def write(self, state: Mapping[str, Any], *, done: int, begun: int, workers: int = 1) -> None:
        """Keep a state durably before any step after it is run.

        Args:
            state: Tensors, numbers, texts, lists and mappings of them.
            done: Steps that it holds.
            begun: Steps that may have been executed when the next checkpoint is written.
            workers: How many train together.

        Raises:
            Unavailable: If it cannot be written, as on a full disk.
        """
        held = {
            "done": done,
            "begun": begun,
            "workers": workers,
            "state": dict(state),
            "extra": {name: list(value) for name, value in self.extra.items()},
        }
        buffer = io.BytesIO()
        torch.save(held, buffer)
        body, key = buffer.getvalue(), self.training.key
        partial = self.path.with_suffix(".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(
                os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY), "wb"
            ) as file:
                file.write(_MAGIC + _name(key) + _seal(key, body) + body)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise Unavailable(
                f"checkpoint must be written before the next step; found {type(error).__name__}. "
                "Free space in the steward's zone."
            ) from error

    def remove(self) -> None:
        """Forget the training; it has ended."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, repr=False)
class Standing:
    """A training as its last checkpoint left it.

    Args:
        state: What was kept.
        done: Steps that the state holds.
        begun: Steps that count as executed.
        extra: What else was kept.
        workers: How many trained together.
    """

    state: Mapping[str, Any]
    done: int
    begun: int
    extra: Mapping[str, bytes]
    workers: int = 1


def standing(path: Path, *, key: bytes) -> Standing | None:
    """The last checkpoint of a training; ``None`` where there is none of this very one.

    Args:
        path: The file.
        key: The training's secret.

    Raises:
        Tampered: If there is a file that is no checkpoint, or an altered one: what it held cannot
            be told.
    """
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    start = len(_MAGIC)
    name, seal, body = (
        found[start : start + _MARK_BYTES],
        found[start + _MARK_BYTES : start + 2 * _MARK_BYTES],
        found[start + 2 * _MARK_BYTES :],
    )
    if not found.startswith(_MAGIC) or len(seal) < _MARK_BYTES:
        raise Tampered("checkpoint must be one of ours; found another file.")
    if not hmac.compare_digest(name, _name(key)):
        return None
    if not hmac.compare_digest(seal, _seal(key, body)):
        raise Tampered("checkpoint must be as its training left it; found it altered.")
    held = torch.load(io.BytesIO(body), weights_only=True, map_location="cpu")
    done, begun = int(held["done"]), int(held["begun"])
    if not 0 <= done <= begun:
        raise InvalidValue("checkpoint", "must have done no more than it began", done)
    extra = {str(name): bytes(value) for name, value in held["extra"].items()}
    return Standing(held["state"], done, begun, extra, int(held.get("workers", 1)))


def _name(key: bytes) -> bytes:
    """What tells a training's checkpoints from those of others; tells nothing of its key."""
    return hmac.digest(key, b"name", "sha256")


def _seal(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, b"body" + hashlib.sha256(body).digest(), "sha256")
