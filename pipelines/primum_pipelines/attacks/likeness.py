"""How like their records reconstructions are, beside the best guess that never saw them. Heavy.

Every attack that rebuilds records is measured here, by the same figures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from primum.domain.canonical import decimal_text
from primum_pipelines.attacks.figures import Array, ncc, psnr, ssim

DATA_RANGE = 2.0  # Inputs are scaled to [-1, 1] by public bounds.
RECOGNIZABLE = 0.5  # NCC from which people see the resemblance.
_PICTURES_MAX = 8


@dataclass(frozen=True, slots=True)
class Likeness:
    """What an attack on updates reached, on average over its targets. Restricted.

    Args:
        identified: Targets whose reconstruction is nearer to them than to any other candidate.
        ncc_mean: Correlation with the record, under the Study's noise.
        ncc_worst: The largest of them.
        ncc_without_noise: Without the noise: how well the attack works at all.
        ncc_baseline: Of the best guess without the update.
        psnr_mean: Peak signal-to-noise ratio in dB; likewise for the others.
        mse_mean: Mean squared error with records scaled to [0, 1]; likewise.
        ssim_mean: Structural similarity; likewise. ``None`` for tables.
        feature_distance: One minus the cosine between what the model's last hidden layer sees in
            record and reconstruction; ``None`` for networks without such a layer.
        recognizable: Share of targets with an NCC of at least 0.5.
    """

    identified: int
    ncc_mean: float
    ncc_worst: float
    ncc_without_noise: float
    ncc_baseline: float
    psnr_mean: float
    psnr_without_noise: float
    psnr_baseline: float
    mse_mean: float
    mse_baseline: float
    ssim_mean: float | None
    ssim_without_noise: float | None
    ssim_baseline: float | None
    feature_distance: float | None
    feature_distance_baseline: float | None
    recognizable: float
    recognizable_baseline: float

    def to_json(self) -> dict[str, str]:
        """Decimal texts by name; what does not exist is absent."""
        figures = {
            "ncc": self.ncc_mean,
            "nccWorst": self.ncc_worst,
            "nccWithoutNoise": self.ncc_without_noise,
            "nccBaseline": self.ncc_baseline,
            "psnr": self.psnr_mean,
            "psnrWithoutNoise": self.psnr_without_noise,
            "psnrBaseline": self.psnr_baseline,
            "mse": self.mse_mean,
            "mseBaseline": self.mse_baseline,
            "ssim": self.ssim_mean,
            "ssimWithoutNoise": self.ssim_without_noise,
            "ssimBaseline": self.ssim_baseline,
            "featureDistance": self.feature_distance,
            "featureDistanceBaseline": self.feature_distance_baseline,
            "recognizable": self.recognizable,
            "recognizableBaseline": self.recognizable_baseline,
        }
        return {name: decimal_text(value) for name, value in figures.items() if value is not None}


@dataclass(frozen=True, slots=True, repr=False)
class Rebuilt:
    """Records, what was made of their updates with and without noise, and the guess without one.

    Each is ``(n, d)``, scaled to [-1, 1], in the same order.
    """

    truth: Array
    found: Array
    clean: Array
    guess: Array


def likeness(
    module: nn.Module, parts: Rebuilt, shape: tuple[int, ...], *, identified: int
) -> Likeness:
    """Figures of reconstructions.

    Args:
        module: The attacked model; says which features are compared.
        parts: The reconstructions.
        shape: Of one record.
        identified: Targets whose reconstruction names them.
    """

    def similarity(values: Array) -> float | None:
        if len(shape) == 1:
            return None
        return float(ssim(values, parts.truth, shape=shape, data_range=DATA_RANGE).mean())

    def loudness(values: Array) -> float:
        return float(psnr(values, parts.truth, data_range=DATA_RANGE).mean())

    def error(values: Array) -> float:
        return float((((values - parts.truth) / DATA_RANGE) ** 2).mean())

    with_noise, alone = ncc(parts.found, parts.truth), ncc(parts.guess, parts.truth)
    return Likeness(
        identified=identified,
        ncc_mean=float(with_noise.mean()),
        ncc_worst=float(with_noise.max()),
        ncc_without_noise=float(ncc(parts.clean, parts.truth).mean()),
        ncc_baseline=float(alone.mean()),
        psnr_mean=loudness(parts.found),
        psnr_without_noise=loudness(parts.clean),
        psnr_baseline=loudness(parts.guess),
        mse_mean=error(parts.found),
        mse_baseline=error(parts.guess),
        ssim_mean=similarity(parts.found),
        ssim_without_noise=similarity(parts.clean),
        ssim_baseline=similarity(parts.guess),
        feature_distance=_apart(module, parts.found, parts.truth, shape),
        feature_distance_baseline=_apart(module, parts.guess, parts.truth, shape),
        recognizable=float((with_noise >= RECOGNIZABLE).mean()),
        recognizable_baseline=float((alone >= RECOGNIZABLE).mean()),
    )


def _apart(module: nn.Module, found: Array, truth: Array, shape: tuple[int, ...]) -> float | None:
    """Mean distance of features: what enters the module's last linear layer."""
    last = [layer for layer in module.modules() if isinstance(layer, nn.Linear)][-1:]
    if not last:
        return None
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, told: seen.append(told[0])) for layer in last
    ]
    try:
        with torch.no_grad():
            for values in (found, truth):
                module(torch.from_numpy(values.astype(np.float32)).reshape(-1, *shape))
    finally:
        for hook in hooks:
            hook.remove()
    left, right = (part.reshape(len(found), -1).double() for part in seen)
    return float((1 - nn.functional.cosine_similarity(left, right, dim=1)).mean())


def side_by_side(parts: Rebuilt, shape: tuple[int, ...]) -> bytes:
    """A contact sheet of some of them; empty for tables."""
    if len(shape) == 1:
        return b""
    from primum_pipelines.evaluation import plots

    rows = {"record": parts.truth, "attack": parts.found, "no noise": parts.clean}
    few = {name: values[:_PICTURES_MAX] for name, values in rows.items()}
    return plots.contact_sheet(few, shape=shape, low=-1, high=1)
