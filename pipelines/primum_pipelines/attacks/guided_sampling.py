"""Gradient inversion with a diffusion prior: sample records whose gradient is the one observed.

Diffusion posterior sampling (Chung, Kim, McCann, Klasky & Ye 2023, equation 16 and algorithm 1):
each step of the reverse process is followed by one against the derivative of the distance between
the observation and what the guessed record would have caused. The step has the length of the noise
that the process would add there (Yang et al. 2024, *Guidance with Spherical Gaussian Constraint*),
so there is no step size to tune. Targets and restarts run as one batched program; the best of the
restarts is chosen by the distance alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from primum_pipelines.attacks.diffusion_prior import DiffusionPrior, noise_levels
from primum_pipelines.attacks.local_updates import Caused

_START = 4.0  # Twice the range of records: nothing of them is seen behind so much noise.
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class GuidanceEffort:
    """How hard the attack tries.

    Args:
        steps: Of the reverse process.
        restarts: Random starts per target.
    """

    steps: int
    restarts: int


def sample(
    prior: DiffusionPrior,
    observed: torch.Tensor,
    labels: torch.Tensor,
    *,
    caused: Caused,
    effort: GuidanceEffort,
    generator: torch.Generator,
) -> torch.Tensor:
    """Plausible records that explain observations.

    Args:
        prior: What records look like.
        observed: One (noisy) observation per target, ``(n, m)``.
        labels: ``(n,)``, known to the adversary.
        caused: What a record would have caused (``local_updates.caused_by``); differentiable.
        effort: How hard to try.
        generator: Draws the starts.

    Returns:
        ``(n, *shape)`` in [-1, 1]: of each target's restarts the one that explains it best.
    """
    n, r = len(observed), effort.restarts
    targets, known = observed.repeat_interleave(r, dim=0), labels.repeat_interleave(r)

    def misfit(records: torch.Tensor) -> torch.Tensor:
        return _misfit(caused(records, known), targets)

    shape = prior.denoiser.shape
    state = torch.randn((n * r, *shape), generator=generator) * _START
    length = math.sqrt(math.prod(shape))
    levels = noise_levels(torch.full((n * r,), _START), effort.steps)
    for now, after in itertools.pairwise(levels):
        guess, derivative = _guided(prior, state, noise=now, misfit=misfit)
        own = after.view(-1, *(1,) * len(shape))
        kept = own / now.view(own.shape)
        # Ancestral step: what the process forgets between two levels, it would draw anew.
        fresh = own * (1 - kept**2).sqrt()
        mean = guess + kept**2 * (state - guess)
        size = derivative.flatten(1).norm(dim=1).clamp_min(_TINY).view(own.shape)
        state = mean - length * fresh * derivative / size
    with torch.no_grad():
        found = prior.denoise(state, noise=levels[-1])
        left = misfit(found)
    best = left.view(n, r).argmin(dim=1) + torch.arange(n) * r
    return found[best]


def _guided(
    prior: DiffusionPrior,
    state: torch.Tensor,
    *,
    noise: torch.Tensor,
    misfit: Callable[[torch.Tensor], torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """The guessed records, and the derivative of their misfit by the state."""
    with torch.enable_grad():
        leaf = state.detach().requires_grad_()
        guess = prior.denoiser(leaf, noise)
        (derivative,) = torch.autograd.grad(misfit(guess).sum(), leaf)
    return guess.detach(), derivative


def _misfit(found: torch.Tensor, observed: torch.Tensor) -> torch.Tensor:
    """One minus the cosine between what was observed and what would have been, ``(n,)``.

    Directions alone: clipping has taken the length away, and noise says it is another.
    """
    return 1 - torch.nn.functional.cosine_similarity(found, observed, dim=1, eps=_TINY)
