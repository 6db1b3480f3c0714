"""MemGuard around a classifier: answers changed so that one membership attacker is left guessing.

Jia, Salem, Backes, Zhang & Gong, *MemGuard: Defending against Black-Box Membership Inference
Attacks via Adversarial Examples*, 2019. A defense for comparison: it promises nothing against any
other attacker, and whoever holds the file takes it off. Must never be counted as privacy. Imports
torch at module level: only what answers a guarded model needs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

_HIDDEN = 32
_KEY_BYTES = 32
_STEP = 0.1  # beta, and the other constants of the paper's section 6.1.
_ROUNDS = 300
_KEEP_LABEL = 10.0  # c2.
_DISTORTION_FIRST, _DISTORTION_FACTOR, _DISTORTION_TRIES = 0.1, 10.0, 3  # c3: 0.1, 1, 10.
_LEAST = 1e-30
_WORD = 8
_GRID = 1 << 12


class Attacker(nn.Module):  # type: ignore[misc] # torch is not followed
    """Tells members from others by their confidences; the one that answers are to fool.

    Args:
        classes: Number of confidences.
    """

    def __init__(self, *, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(classes, _HIDDEN)
        self.last = nn.Linear(_HIDDEN, 1)

    def forward(self, confidences: torch.Tensor) -> torch.Tensor:
        """Logit of being a member, ``(n,)``."""
        return self.last(torch.relu(self.first(confidences))).squeeze(1)


class Guarded(nn.Module):  # type: ignore[misc] # torch is not followed
    """A classifier whose confidences are changed before anybody sees them.

    The most likely class never changes. The same confidences are always changed in the same way,
    so that asking twice tells nothing more.

    Args:
        model: The classifier.
        attacker: Who is to be fooled.
        key: 32 bytes that decide the coins.
        distortion: Bound on the expected L1 distance of what is answered from what was meant.
    """

    def __init__(
        self, model: nn.Module, attacker: Attacker, key: bytes, *, distortion: float
    ) -> None:
        super().__init__()
        self.model = model
        self.attacker = attacker
        self._key = key
        self._distortion = distortion

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits whose softmax is what is answered, ``(n, classes)``."""
        logits = self.model(rows).detach()
        with torch.inference_mode(mode=False), torch.enable_grad():
            own = logits.clone()
            meant = torch.softmax(own, dim=1)
            changed = self._changed(own, meant)
        told = torch.where(self._coins(meant, changed)[:, None], changed, meant)
        return told.clamp_min(_LEAST).log()

    def _changed(self, logits: torch.Tensor, meant: torch.Tensor) -> torch.Tensor:
        """Confidences at which the attacker changes its mind, as near as they were found."""
        best = meant.clone()
        open_rows = torch.ones(len(logits), dtype=torch.bool)
        weight = _DISTORTION_FIRST
        for _ in range(_DISTORTION_TRIES):
            found, fooled = self._searched(logits[open_rows], meant[open_rows], weight)
            places = open_rows.nonzero().squeeze(1)
            best[places[fooled]] = found[fooled]
            open_rows[places[~fooled]] = False
            if not bool(open_rows.any()):
                break
            weight *= _DISTORTION_FACTOR
        return best

    def _searched(
        self, logits: torch.Tensor, meant: torch.Tensor, weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Algorithm 1's inner loop for all rows at once."""
        label = logits.argmax(dim=1, keepdim=True)
        before = torch.sign(self.attacker(meant)).detach()
        moved = torch.zeros_like(logits, requires_grad=True)
        fooled = torch.zeros(len(logits), dtype=torch.bool)
        for _ in range(_ROUNDS):
            said = torch.softmax(logits + moved, dim=1)
            doubt = self.attacker(said)
            with torch.no_grad():
                kept = (logits + moved).argmax(dim=1, keepdim=True).eq(label).squeeze(1)
                fooled = kept & (torch.sign(doubt) != before)
            if bool(fooled.all()):
                break
            shifted = logits + moved
            others = shifted.scatter(1, label, float("-inf")).amax(dim=1)
            loss = (
                doubt.abs()
                + _KEEP_LABEL * torch.relu(others - shifted.gather(1, label).squeeze(1))
                + weight * (said - meant).abs().sum(dim=1)
            )
            (gradient,) = torch.autograd.grad(loss.sum(), moved)
            length = gradient.norm(dim=1, keepdim=True).clamp_min(_LEAST)
            with torch.no_grad():
                moved -= _STEP * gradient / length * ~fooled[:, None]
        return torch.softmax(logits + moved, dim=1).detach(), fooled

    def _coins(self, meant: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
        """Whether each row is changed (equation 14): more often the nearer the change is."""
        with torch.no_grad():
            doubt = (torch.sigmoid(self.attacker(meant)) - 1 / 2).abs()
            after = (torch.sigmoid(self.attacker(changed)) - 1 / 2).abs()
            far = (changed - meant).abs().sum(dim=1).clamp_min(_LEAST)
            share = (self._distortion / far).clamp_max(1.0)
            share = torch.where(after < doubt, share, 0.0)
        drawn = torch.tensor([self._drawn(row) for row in meant.detach()], dtype=share.dtype)
        return drawn < share

    def _drawn(self, confidences: torch.Tensor) -> float:
        # Coarse, so that a row alone and the same row among others draw the same coin.
        data = (confidences.double() * _GRID).round().long().numpy().tobytes()
        word = hashlib.blake2b(data, key=self._key, digest_size=_WORD).digest()
        return int.from_bytes(word, "little") / float(1 << (8 * _WORD))


def guard_state(attacker: Attacker, key: bytes) -> dict[str, torch.Tensor]:
    """What a model file keeps of a guard."""
    state = {name: value.detach() for name, value in attacker.state_dict().items()}
    return {**state, "key": torch.tensor(list(key), dtype=torch.uint8)}


def guarded(
    model: nn.Module, state: Mapping[str, torch.Tensor], *, classes: int, distortion: float
) -> Guarded:
    """The model with the guard that a file keeps.

    Raises:
        RuntimeError: If it is no guard's.
    """
    attacker = Attacker(classes=classes)
    weights = {name: value for name, value in state.items() if name != "key"}
    attacker.load_state_dict(weights, strict=True)
    key = bytes(state["key"].tolist())
    if len(key) != _KEY_BYTES:
        raise RuntimeError("a guard's key has 32 bytes")
    found = Guarded(model, attacker.eval(), key, distortion=distortion)
    found.eval()
    return found
