"""A diffusion prior: a denoiser of records that nobody protects, and what it makes of noise.

Karras, Aittala, Aila & Laine, *Elucidating the Design Space of Diffusion-Based Generative Models*
(2022). A release with Gaussian noise of known size is itself a state of the process, so the
reverse process from it draws from what is plausible given the release (Schwethelm, Kaiser, Knolle
et al., *Visual Privacy Auditing with Diffusion Models*, 2024; methods, section 7.5). Trained on
public or made-up records alone: it must never see a private one.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.attacks.linear_prior import LinearPrior
from primum_pipelines.models.architectures.unet import UNet

NOISE_MIN = 0.02  # In units of records scaled to [-1, 1]: below it nothing is seen.
NOISE_MAX = 80.0  # Karras et al., table 1; above it the best guess is the mean.
_SCHEDULE_POWER = 7.0  # Karras et al., equation 5.
_AVERAGING = 0.995  # Of weights over training steps.
_LEARNING_RATE = 2e-3
_HIDDEN = 256
_WIDTH = 16
_LEVELS_MAX = 2
_COMPONENTS_MAX = 1024  # Of the linear guess; each is a record's size of memory.
_RECORDS_LINEAR = 2000  # More change its axes little and take long to decompose.
_CLIPPED_NORM = 1.0


@dataclass(frozen=True, slots=True)
class PriorEffort:
    """How long a prior is trained. Public configuration.

    Args:
        steps: Of Adam.
        batch: Records of a step.
        seed: Of weights, batches and noise: the same records give the same prior.
    """

    steps: int
    batch: int = 64
    seed: int = 0


class Denoiser(nn.Module):  # type: ignore[misc] # torch is not followed
    """The best guess at records behind noise: the best linear one, and what a network adds to it.

    The preconditioning of Karras et al. 2022, section 5, with the Wiener filter of the records in
    place of their overall variance: an untrained network gives the linear prior.

    Args:
        shape: Of one record: ``(d,)`` for tables, ``(c, h, w)`` or ``(c, d, h, w)``.
        linear: The linear prior of the same records.
    """

    def __init__(self, shape: tuple[int, ...], linear: LinearPrior) -> None:
        super().__init__()
        self.shape = shape
        kept = linear.variances[:_COMPONENTS_MAX]
        rest = float(linear.variances[_COMPONENTS_MAX:].sum())
        self.register_buffer("mean", torch.from_numpy(linear.mean).float())
        self.register_buffer("axes", torch.from_numpy(linear.axes[: len(kept)]).float())
        self.register_buffer("variances", torch.from_numpy(kept).float())
        self.register_buffer("rest", torch.tensor(rest))
        if len(shape) == 1:
            self.levels = 0
            last: nn.Module = nn.Linear(_HIDDEN, shape[0])
            self.network: nn.Module = nn.Sequential(
                nn.Linear(2 * shape[0] + 1, _HIDDEN),
                nn.SiLU(),
                nn.Linear(_HIDDEN, _HIDDEN),
                nn.SiLU(),
                last,
            )
        else:
            self.levels = max(1, min(_LEVELS_MAX, int(math.log2(min(shape[1:]))) - 1))
            self.network = UNet(
                len(shape) - 1,
                channels=2 * shape[0] + 1,
                classes=shape[0],
                width=_WIDTH,
                levels=self.levels,
            )
            last = self.network.out
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, noisy: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Records behind ``noisy``.

        Args:
            noisy: ``(n, *shape)``.
            noise: Standard deviation of each record's noise, ``(n,)``, above 0.

        Returns:
            ``(n, *shape)``: an estimate of the mean of what may lie behind, given the noise.
        """
        linear = self.linear(noisy, noise)
        own = noise.view(-1, *(1,) * len(self.shape))
        spread = (self.variances.sum() + self.rest) / self.mean.numel()
        centered = (noisy - self.mean.view(self.shape)) / (own**2 + spread).sqrt()
        level = (own.log() / 4).expand(-1, 1, *self.shape[1:])
        error = self.error(noise).view(own.shape)
        found: torch.Tensor = linear + error * self._whole(
            torch.cat([centered, linear, level], dim=1)
        )
        return found

    def linear(self, noisy: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The best linear guess."""
        along = (noisy.flatten(1) - self.mean) @ self.axes.T
        along = along * self.variances / (self.variances + noise[:, None] ** 2)
        found: torch.Tensor = (self.mean + along @ self.axes).view(noisy.shape)
        return found

    def error(self, noise: torch.Tensor) -> torch.Tensor:
        """Root of the linear guess's mean squared error at each noise, ``(n,)``."""
        square = noise[:, None] ** 2
        seen = (self.variances * square / (self.variances + square)).sum(dim=1)
        found: torch.Tensor = ((seen + self.rest) / self.mean.numel()).sqrt()
        return found

    def _whole(self, rows: torch.Tensor) -> torch.Tensor:
        """The network on sides that it can halve; edges are repeated and cut off again."""
        if len(self.shape) == 1:
            found: torch.Tensor = self.network(rows)
            return found
        multiple = 2**self.levels
        padding: list[int] = []
        for side in reversed(self.shape[1:]):
            padding += [0, -side % multiple]
        if any(padding):
            rows = nn.functional.pad(rows, padding, mode="replicate")
        found = self.network(rows)
        return found[(..., *(slice(0, side) for side in self.shape[1:]))]


@dataclass(frozen=True, slots=True, repr=False)
class DiffusionPrior:
    """What records of a kind look like.

    Args:
        denoiser: In evaluation mode; frozen.
        digest: Names the records, the effort and the code that it came from.
    """

    denoiser: Denoiser
    digest: str

    def denoise(self, observed: torch.Tensor, *, noise: torch.Tensor) -> torch.Tensor:
        """The estimated mean of what lies behind observations: the least expected squared error.

        Args:
            observed: Records plus Gaussian noise, ``(n, *shape)``.
            noise: Its standard deviation for each, ``(n,)``, known to the adversary.
        """
        with torch.no_grad():
            found: torch.Tensor = self.denoiser(observed, _within(noise))
        return found.clamp(-1, 1)

    def reverse(self, observed: torch.Tensor, *, noise: torch.Tensor, steps: int) -> torch.Tensor:
        """A plausible record for each observation: the deterministic reverse process from it.

        The observation is a state of the process at its own noise, so no further step towards it is
        taken: that would count it twice.

        Args:
            observed: Records plus Gaussian noise, ``(n, *shape)``.
            noise: Its standard deviation for each, ``(n,)``.
            steps: Of Euler's method (Karras et al. 2022, algorithm 1, without its correction).
        """
        state, levels = observed, noise_levels(_within(noise), steps)
        with torch.no_grad():
            for now, after in itertools.pairwise(levels):
                guess = self.denoiser(state, now)
                share = (after / now).view(-1, *(1,) * (observed.dim() - 1))
                state = guess + share * (state - guess)
            found: torch.Tensor = self.denoiser(state, levels[-1])
        return found.clamp(-1, 1)


def noise_levels(highest: torch.Tensor, steps: int) -> list[torch.Tensor]:
    """Falling noise from ``highest`` ``(n,)`` to the lowest (Karras et al. 2022, equation 5)."""
    top, bottom = highest ** (1 / _SCHEDULE_POWER), NOISE_MIN ** (1 / _SCHEDULE_POWER)
    shares = torch.linspace(0, 1, steps + 1)
    return [(top + share * (bottom - top)) ** _SCHEDULE_POWER for share in shares]


def train_prior(
    records: torch.Tensor,
    effort: PriorEffort,
    *,
    on_step: Callable[[int, int], None] | None = None,
) -> DiffusionPrior:
    """Learn what records look like.

    Args:
        records: Public or made-up ones, ``(n, *shape)``, scaled to [-1, 1].
        effort: How long.
        on_step: Called after each step with (steps done, steps planned).

    Returns:
        The prior.

    Raises:
        InvalidValue: If there are fewer than two records, or they are all the same number.
    """
    linear = LinearPrior.of(records[:_RECORDS_LINEAR].flatten(1).double().numpy())
    if not len(linear.variances):
        raise InvalidValue("prior", "must be learned from two different records at least", "fewer")
    source = torch.Generator().manual_seed(effort.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(effort.seed)
        denoiser = Denoiser(tuple(records.shape[1:]), linear)
    averaged = copy.deepcopy(denoiser)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, effort.steps)
    low, high = math.log(NOISE_MIN), math.log(NOISE_MAX)
    for step in range(effort.steps):
        batch = records[torch.randint(len(records), (effort.batch,), generator=source)]
        noise = (low + (high - low) * torch.rand(len(batch), generator=source)).exp()
        added = torch.randn(batch.shape, generator=source)
        own = noise.view(-1, *(1,) * (batch.dim() - 1))
        error = denoiser(batch + added * own, noise) - batch
        # Karras et al. 2022, section 5: every noise counts alike for the network.
        loss = (error / denoiser.error(noise).view(own.shape)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), _CLIPPED_NORM)
        optimizer.step()
        schedule.step()
        _average(averaged, denoiser, share=min(_AVERAGING, step / (step + 10)))
        if on_step is not None:
            on_step(step + 1, effort.steps)
    return DiffusionPrior(frozen(averaged), digest_of(records, effort))


def digest_of(records: torch.Tensor, effort: PriorEffort) -> str:
    """SHA-256 over everything a prior depends on: records, effort, and this module's form."""
    content = hashlib.sha256(
        f"diffusion-prior/1 {effort} {tuple(records.shape)} {torch.__version__}".encode()
    )
    content.update(records.contiguous().float().numpy().tobytes())
    return content.hexdigest()


def frozen(denoiser: Denoiser) -> Denoiser:
    """The denoiser in evaluation mode, without derivatives of its weights."""
    result: Denoiser = denoiser.eval().requires_grad_(requires_grad=False)
    return result


def _average(averaged: Denoiser, current: Denoiser, *, share: float) -> None:
    with torch.no_grad():
        for mean, value in zip(averaged.parameters(), current.parameters(), strict=True):
            mean.lerp_(value, 1 - share)


def _within(noise: torch.Tensor) -> torch.Tensor:
    """Noise within what the denoiser was trained for; beyond it the guess is the mean anyway."""
    return noise.float().clamp(NOISE_MIN, NOISE_MAX)
