"""A small conditional generator, trained on a released embedding. Must never see private data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from primum.domain.errors import InvalidValue
from primum_pipelines.synthesis.merf import Embedding, FourierFeatures

LATENT = 32
_HIDDEN = 256
_BATCH_PER_CLASS = 128
_LEARNING_RATE = 2e-3


class ConditionalGenerator:
    """An MLP from noise and a class to a vector in [0, 1]^d.

    Args:
        dimension: Length d of a generated vector.
        classes: Number of classes.
        seed: Seed of the initial weights.
    """

    def __init__(self, *, dimension: int, classes: int, seed: int) -> None:
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Linear(LATENT + classes, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, dimension),
            nn.Sigmoid(),
        )
        source = torch.Generator().manual_seed(seed)
        for parameter in self.layers.parameters():
            width = parameter.shape[1] if parameter.dim() > 1 else _HIDDEN
            bound = 1.0 / math.sqrt(width)
            nn.init.uniform_(parameter, -bound, bound, generator=source)

    def __call__(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Vectors ``(n, d)`` from noise ``(n, LATENT)`` and labels ``(n,)``."""
        condition = nn.functional.one_hot(labels, self.classes).to(noise.dtype)
        generated: torch.Tensor = self.layers(torch.cat([noise, condition], dim=1))
        return generated

    def to_bytes(self, metadata: Mapping[str, str]) -> bytes:
        """The weights as safetensors, with metadata."""
        from safetensors.torch import save

        weights = {name: value.contiguous() for name, value in self.layers.state_dict().items()}
        data: bytes = save(weights, metadata=dict(metadata))
        return data


def generator_from_bytes(data: bytes) -> tuple[ConditionalGenerator, Mapping[str, str]]:
    """A stored generator with its metadata.

    Raises:
        InvalidValue: If these are not the bytes of one.
    """
    import json

    import safetensors
    from safetensors.torch import load

    try:
        weights = load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        classes, dimension = weights["0.weight"].shape[1] - LATENT, len(weights["4.bias"])
        generator = ConditionalGenerator(dimension=dimension, classes=classes, seed=0)
        generator.layers.load_state_dict(weights, strict=True)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        rule = "must be a generator that Synthesize wrote"
        raise InvalidValue("generator file", rule, type(error).__name__) from None
    generator.layers.eval().requires_grad_(requires_grad=False)
    return generator, {str(name): str(value) for name, value in metadata.items()}


@dataclass(frozen=True, slots=True, repr=False)
class GeneratorTask:
    """What a generator is trained on: an embedding and the public features it was taken in.

    Args:
        embedding: As released.
        features: The random features.
        dimension: Length of a generated vector.
        steps: Optimization steps; they cost no privacy.
        seed: Public seed.
    """

    embedding: Embedding
    features: FourierFeatures
    dimension: int
    steps: int
    seed: int


def train_generator(
    task: GeneratorTask, *, on_step: Callable[[int, int], None] | None = None
) -> ConditionalGenerator:
    """Match the class-wise mean features of generated vectors to the released ones.

    Harder et al. (2021), equation 9, with class means in place of the joint embedding.

    Args:
        task: What to match.
        on_step: Called after each step with (steps done, steps planned).

    Returns:
        The trained generator: post-processing of ``task.embedding``, no further charge.
    """
    if task.steps < 1:
        raise InvalidValue("steps", "must be at least 1", task.steps)
    classes = len(task.embedding.shares)
    source = torch.Generator().manual_seed(task.seed)
    generator = ConditionalGenerator(dimension=task.dimension, classes=classes, seed=task.seed)
    optimizer = torch.optim.Adam(generator.layers.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, task.steps)
    labels = torch.arange(classes).repeat_interleave(_BATCH_PER_CLASS)
    for step in range(task.steps):
        noise = torch.randn((len(labels), LATENT), generator=source)
        embedded = task.features.embed(generator(noise, labels))
        means = embedded.view(classes, _BATCH_PER_CLASS, -1).mean(dim=1)
        loss = (means - task.embedding.means).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, task.steps)
    return generator


def draw(
    generator: ConditionalGenerator, *, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generated vectors ``(count, d)`` and labels ``(count,)``.

    Classes come in equal shares: a public uniform prior.
    """
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % generator.classes
    noise = torch.randn((count, LATENT), generator=source)
    with torch.no_grad():
        return generator(noise, labels), labels
