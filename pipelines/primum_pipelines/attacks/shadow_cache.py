"""Shadow models that a steward has kept, so that the next audit need not train them again.

They were trained on private records without a charge, so they are as private as the records: they
lie in the steward's zone alone, readable by its owner alone, and never become an artifact. What is
kept are weights and memberships, never an answer or a score. Nothing is kept where the steward did
not say so by a limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from primum import extensions
from primum.domain.canonical import JSON, canonical_json

if TYPE_CHECKING:
    import torch

    from primum_pipelines.attacks.membership import Effort
    from primum_pipelines.attacks.pool import Pool
    from primum_pipelines.attacks.shadow_program import Program

FOLDER = "shadows"
LIMIT_FILE = "limit.json"
SUFFIX = ".shadows"
MARK_SUFFIX = ".site"
UNUSED_SECONDS_MAX = 90 * 86_400.0
_OWNER_ONLY = 0o600
_FOLDER_OWNER_ONLY = 0o700
_DIGEST_BYTES = 32
_WEIGHT = "weight."


@dataclass(frozen=True, slots=True, repr=False)
class KeptShadows:
    """Trained shadows with what they were trained on.

    Args:
        stack: Stacked parameters by name, each ``(m, ...)``: the first m of the models.
        had: Which records each model has, booleans ``(M, n)``.
        chosen: Numbers of those records in the whole pool, ``(n,)``.
        population: Which of them no model had, booleans ``(n,)``.
        seed: Of their training, so that those that are missing can be trained like the others.
    """

    stack: Mapping[str, torch.Tensor]
    had: torch.Tensor
    chosen: torch.Tensor
    population: torch.Tensor
    seed: int


@dataclass(frozen=True, slots=True)
class ShadowCache:
    """The shadows that may be kept for one Study.

    Args:
        zone_dir: Folder of the steward's zone; empty where the process was told of none.
        account: The ledger's account of the records.
        study: Uid of the Study that is attacked.
        withdrawn: How many consents were withdrawn on the account: shadows of before are let go.
        others: Of a federation account and withdrawn consents of each other site. Its shadows had
            their records too, so they go with what any of them lets go.
    """

    zone_dir: str
    account: str
    study: str
    withdrawn: int
    others: tuple[tuple[str, int], ...] = ()

    def load(self, key: str) -> KeptShadows | None:
        """Kept shadows, or ``None``; what is damaged or of before a withdrawal is let go."""
        limit = _limit(self.zone_dir)
        if not limit:
            return None
        self._forget_stale()
        path, marks = self._path(key), self._marks(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        digest, payload = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        marked = all(mark.exists() for mark in marks)
        if hashlib.sha256(payload).digest() != digest or not marked:
            _let_go(path)
            return None
        for used in (path, *marks):
            os.utime(used)
        return _read(payload)

    def store(self, key: str, kept: KeptShadows) -> None:
        """Keep shadows within the steward's limit; the least recently used go first."""
        limit = _limit(self.zone_dir)
        if not limit:
            return
        payload = _written(kept)
        data = hashlib.sha256(payload).digest() + payload
        if len(data) > limit:
            return
        self._forget_stale()
        path = self._path(key)
        # An audit does not fail because its shadows could not be kept.
        with contextlib.suppress(OSError):
            _make_room(Path(self.zone_dir) / FOLDER, limit - len(data))
            # What finds shadows by an account must find them before they are there.
            for place, content in (*((mark, b"") for mark in self._marks(key)), (path, data)):
                place.parent.mkdir(mode=_FOLDER_OWNER_ONLY, parents=True, exist_ok=True)
                _write(place, content)

    def _path(self, key: str) -> Path:
        name = f"{self.study}.{self.withdrawn}.{key}{SUFFIX}"
        return Path(self.zone_dir) / FOLDER / self.account / name

    def _marks(self, key: str) -> list[Path]:
        """Empty files beside what the other sites' accounts keep, without which nothing is used."""
        folder = Path(self.zone_dir) / FOLDER
        return [
            folder / account / f"{self.study}.{withdrawn}.{key}{MARK_SUFFIX}"
            for account, withdrawn in self.others
        ]

    def _forget_stale(self) -> None:
        """Let go what was trained before a consent was withdrawn, and what nobody used for long."""
        for account, now in ((self.account, self.withdrawn), *self.others):
            folder = Path(self.zone_dir) / FOLDER / account
            for path in (*folder.glob(f"*{SUFFIX}"), *folder.glob(f"*{MARK_SUFFIX}")):
                with contextlib.suppress(FileNotFoundError):  # Gone with one of before.
                    _, withdrawn, _ = path.name.split(".", 2)
                    old = time.time() - path.stat().st_mtime > UNUSED_SECONDS_MAX
                    if withdrawn != str(now) or old:
                        _let_go(path)


def key_of(pool: Pool, program: Program, *, effort: Effort) -> str:
    """Digest of everything that shadows depend on: code, recipe, records, sites, architecture.

    Args:
        pool: All records that they may be drawn from.
        program: How they are trained, from where.
        effort: How many, and of how many records.
    """
    import torch

    content = hashlib.sha256()
    tensors = [pool.inputs, pool.labels, pool.members]
    if pool.contributions is not None:
        tensors += [pool.contributions.inputs, pool.contributions.owners]
    if pool.sites is not None:
        tensors.append(pool.sites)
    for part in (*tensors, *program.weights.values()):
        content.update(part.contiguous().numpy().tobytes())
    about: dict[str, JSON] = {
        "code": extensions.fingerprint("primum.audits"),
        "torch": torch.__version__,
        "content": content.hexdigest(),
        "recipe": dict(program.parameters),
        "architecture": [
            program.architecture.model,
            dict(program.architecture.parameters),
            list(program.architecture.input_shape),
        ],
        "classes": program.architecture.classes,
        "shadowing": effort.shadowing.value,
        "shadows": effort.shadows,
        "most": effort.pool,
        "population": "yes" if effort.population else "no",
    }
    return hashlib.sha256(canonical_json(about)).hexdigest()


def forget_account(zone_dir: str, account: str) -> None:
    """Let go every kept shadow that may have been trained on records of an account."""
    for path in (Path(zone_dir) / FOLDER / account).glob("*"):
        _let_go(path)


def forget_study(zone_dir: str, study: str) -> None:
    """Let go every kept shadow of a Study; a no-op where there is none."""
    for path in (Path(zone_dir) / FOLDER).glob(f"*/{study}.*"):
        path.unlink(missing_ok=True)


def keep(zone_dir: str, limit: int) -> None:
    """Have shadows kept up to that many bytes; 0 keeps none, and lets go what there is."""
    folder = Path(zone_dir) / FOLDER
    if limit <= 0:
        (folder / LIMIT_FILE).unlink(missing_ok=True)
        for path in folder.glob("*/*"):
            path.unlink(missing_ok=True)
        return
    folder.mkdir(mode=_FOLDER_OWNER_ONLY, parents=True, exist_ok=True)
    folder.chmod(_FOLDER_OWNER_ONLY)
    _write(folder / LIMIT_FILE, canonical_json({"bytes": limit}))
    _make_room(folder, limit)


def kept(zone_dir: str) -> Mapping[str, int]:
    """What is kept: ``files``, ``bytes``, and the steward's ``limit`` in bytes, 0 for none."""
    sizes = [path.stat().st_size for path in (Path(zone_dir) / FOLDER).glob(f"*/*{SUFFIX}")]
    return {"files": len(sizes), "bytes": sum(sizes), "limit": _limit(zone_dir)}


def _limit(zone_dir: str) -> int:
    """How many bytes the steward lets shadows take; 0 where none are to be kept."""
    if not zone_dir:
        return 0
    try:
        value = json.loads((Path(zone_dir) / FOLDER / LIMIT_FILE).read_bytes())
    except (OSError, ValueError):
        return 0
    found = value.get("bytes") if isinstance(value, dict) else 0
    return found if type(found) is int and found > 0 else 0


def _let_go(path: Path) -> None:
    """Kept shadows of a Study, and their marks under whichever account; or another file alone."""
    path.unlink(missing_ok=True)
    if path.suffix not in (SUFFIX, MARK_SUFFIX):
        return
    study, _, key, _ = path.name.rsplit(".", 3)
    for twin in path.parent.parent.glob(f"*/{study}.*.{key}.*"):
        twin.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, readable by its owner alone."""
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _make_room(folder: Path, room: int) -> None:
    found = sorted(
        ((path.stat().st_mtime, path.stat().st_size, path) for path in folder.rglob(f"*{SUFFIX}")),
        key=lambda item: item[0],
    )
    used = sum(size for _, size, _ in found)
    for _, size, path in found:
        if used <= room:
            return
        path.unlink(missing_ok=True)
        used -= size


def _written(kept: KeptShadows) -> bytes:
    import torch
    from safetensors.torch import save

    tensors = {f"{_WEIGHT}{name}": value.detach() for name, value in kept.stack.items()}
    tensors |= {"had": kept.had, "chosen": kept.chosen, "population": kept.population}
    tensors["seed"] = torch.tensor(kept.seed)
    data: bytes = save({name: value.contiguous() for name, value in tensors.items()})
    return data


def _read(payload: bytes) -> KeptShadows:
    from safetensors.torch import load

    found = load(payload)
    return KeptShadows(
        stack={
            name.removeprefix(_WEIGHT): value
            for name, value in found.items()
            if name.startswith(_WEIGHT)
        },
        had=found["had"],
        chosen=found["chosen"],
        population=found["population"],
        seed=int(found["seed"]),
    )
