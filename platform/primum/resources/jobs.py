"""What a Study's job may be: the blocks of the built-in kinds, and parameters for a plug-in's kind.

Each block is read by its job kind as a plain mapping of these names, decimals as strings. What a
mechanism costs is decided by the kind's plan, never here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator
from pydantic.alias_generators import to_snake

from primum.resources.fields import (
    Parameters,
    Part,
    PositiveDecimal,
    UnitInterval,
    Word,
    broken,
    cel,
    with_rules,
)
from primum.resources.train_job import BATCH_MAX, EPOCHS_MAX, Train, model_parameters

BLOCK_OF_KIND = {
    "Train": "train",
    "Synthesize": "synthesize",
    "Federate": "federate",
    "PrivateFeatures": "privateFeatures",
}

_SAMPLES_MAX = 10_000_000
_FEATURES_MAX = 100_000


class SynthesisMethod(enum.StrEnum):
    """How synthetic records are made."""

    DPMERF = "DPMERF"


class SynthesisMechanism(enum.StrEnum):
    """What protects the statistics that a generator learns from."""

    GAUSSIAN = "Gaussian"
    NONE = "None"


class Aggregation(enum.StrEnum):
    """How the sites' models become one."""

    SIZE_WEIGHTED = "SizeWeighted"


class FilterDeduplication(enum.StrEnum):
    """Whether exact copies are removed before a sample filter is fitted."""

    KEEP = "Keep"
    DROP = "Drop"


class FilterCharge(enum.StrEnum):
    """What a sample filter's look at the training data is charged."""

    NONE = "None"


class SampleFilter(Part):
    """A filter that rejects synthetic samples which resemble training records.

    It is itself a look at the data.
    """

    name: Word = Field(
        description="name names a registered sample filter such as PixelL2. Required.",
    )
    deduplicate: FilterDeduplication = Field(
        default=FilterDeduplication.KEEP,
        description=(
            "deduplicate is Drop to remove exact copies before fitting, or Keep. Optional, Keep."
        ),
    )
    charge: FilterCharge = Field(
        description=(
            "charge is what its look at training data costs; None makes the claim Void. Required."
        )
    )


class Synthesize(Part):
    """A generator and the samples drawn from it."""

    method: SynthesisMethod = Field(
        default=SynthesisMethod.DPMERF, description="method is DPMERF. Optional, DPMERF."
    )
    mechanism: SynthesisMechanism = Field(
        default=SynthesisMechanism.GAUSSIAN,
        description=(
            "mechanism is Gaussian, or None for no protection (claim Void). Optional, Gaussian."
        ),
    )
    noise_multiplier: PositiveDecimal | None = Field(
        default=None,
        description=(
            "noiseMultiplier fixes the noise relative to the sensitivity. Optional; without "
            "it the plan takes the "
            "least noise that keeps the claim."
        ),
    )
    features: Annotated[int, Field(strict=True, ge=2, le=_FEATURES_MAX)] | None = Field(
        default=None,
        description=(
            "features is the number of random features of the embedding. Optional, the method's "
            "default."
        ),
    )
    samples: Annotated[int, Field(strict=True, ge=1, le=_SAMPLES_MAX)] = Field(
        description="samples is how many synthetic records are drawn. Required."
    )
    iterations: Annotated[int, Field(strict=True, ge=1, le=_SAMPLES_MAX)] | None = Field(
        default=None,
        description=(
            "iterations is how many steps the generator is fitted to the released "
            "statistics; they cost no privacy. "
            "Optional, the method's default."
        ),
    )
    sample_filter: SampleFilter | None = Field(
        default=None,
        description="sampleFilter rejects samples near training records. Optional, none.",
    )


class Federate(Part):
    """Federated training: each site keeps its data, adds noise, and spends its own budget."""

    model: Word = Field(description="model names a registered model such as Logistic. Required.")
    model_parameters: Parameters = model_parameters()
    rounds: Annotated[int, Field(strict=True, ge=1, le=EPOCHS_MAX)] = Field(
        description="rounds is how often the sites' models are put together. Required."
    )
    local_epochs: Annotated[int, Field(strict=True, ge=1, le=EPOCHS_MAX)] = Field(
        default=1,
        description=(
            "localEpochs is the expected number of passes per round at each site. Optional, 1."
        ),
    )
    batch_size: Annotated[int, Field(strict=True, ge=1, le=BATCH_MAX)] = Field(
        description=(
            "batchSize is the expected size of a Poisson-sampled batch at each site, in units. "
            "Required."
        )
    )
    max_grad_norm: PositiveDecimal = Field(
        description=(
            "maxGradNorm is the L2 bound to which each unit's gradient is clipped. Required."
        )
    )
    learning_rate: PositiveDecimal | None = Field(
        default=None, description="learningRate is the step size. Optional, the job kind's default."
    )
    aggregation: Aggregation = Field(
        default=Aggregation.SIZE_WEIGHTED,
        description=(
            "aggregation is SizeWeighted: by the declared number of units. Optional, SizeWeighted."
        ),
    )
    noise_multiplier: PositiveDecimal | None = Field(
        default=None,
        description=(
            "noiseMultiplier fixes every site's noise relative to maxGradNorm. Optional; "
            "without it the plan takes "
            "the least noise that keeps each site's claim."
        ),
    )


class PrivateFeatures(Part):
    """Experimental: a noisy table of what a frozen extractor makes of each unit."""

    model: Word = Field(
        description=(
            "model names a registered model such as SmallCNN; what its last layer is given are the "
            "features. Required."
        )
    )
    model_parameters: Parameters = model_parameters()
    epochs: Annotated[int, Field(strict=True, ge=1, le=EPOCHS_MAX)] | None = Field(
        default=None,
        description=(
            "epochs is how many passes over the Study's public and released inputs the extractor "
            "learns for, before it is frozen. Required with such inputs, otherwise absent, and "
            "then its weights are random ones that everybody knows; optional."
        ),
    )
    clip: PositiveDecimal = Field(
        default="1",
        description=(
            "clip is the L2 bound to which each unit's features and label are clipped together. "
            "Optional, 1."
        ),
    )
    label_share: UnitInterval = Field(
        default="0.5",
        description=(
            "labelShare is the share of clip, squared, that is kept for the label, 0.01 to 0.99. "
            "Optional, 0.5."
        ),
    )
    rows: Annotated[int, Field(strict=True, ge=1, le=_SAMPLES_MAX)] | None = Field(
        default=None,
        description=(
            "rows is the public number of rows of the table, at least the training units; rows "
            "without a unit are noise alone. Optional, the training units."
        ),
    )
    noise_multiplier: PositiveDecimal | None = Field(
        default=None,
        description=(
            "noiseMultiplier fixes the noise relative to clip. Optional; without it the plan takes "
            "the least noise that keeps the claim."
        ),
    )


class JobResources(Part):
    """What the job may use of the machines."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                # The default of the whole, {}, is judged before its own defaults are filled in.
                "!has(self.workersPerGpu) || self.workersPerGpu == 1 || self.gpusPerWorker == 1",
                "workersPerGpu must be 1 unless gpusPerWorker is 1",
            ),
            cel(
                "!has(self.workersPerGpu) || self.workers % self.workersPerGpu == 0",
                "workers must be a multiple of workersPerGpu",
            ),
        )
    )

    workers: Annotated[int, Field(strict=True, ge=1, le=1024)] = Field(
        default=1,
        description=(
            "workers is the number of workers that train together; it never changes while they do, "
            "and changes no epsilon. Optional, 1."
        ),
    )
    gpus_per_worker: Annotated[int, Field(strict=True, ge=0, le=16)] = Field(
        default=0, description="gpusPerWorker is the number of GPUs of each worker. Optional, 0."
    )
    workers_per_gpu: Annotated[int, Field(strict=True, ge=1, le=16)] | None = Field(
        default=None,
        description=(
            "workersPerGpu is how many workers share one GPU, each with its part of it. Optional, "
            "none do."
        ),
    )
    cpus_per_worker: Annotated[int, Field(strict=True, ge=1, le=256)] | None = Field(
        default=None,
        description=(
            "cpusPerWorker is the number of CPUs of each worker. Optional, what the site gives a "
            "worker."
        ),
    )

    @model_validator(mode="after")
    def _whole_gpus(self) -> JobResources:
        sharing = self.workers_per_gpu or 1
        if sharing > 1 and self.gpus_per_worker != 1:
            raise broken("must have workersPerGpu 1 unless gpusPerWorker is 1", sharing)
        if self.workers % sharing:
            raise broken("must have workers that are a multiple of workersPerGpu", self.workers)
        return self


def _block_rules() -> list[dict[str, str]]:
    rules = [
        cel(
            f"has(self.{block}) == (self.kind == '{kind}')",
            f"{block} must be given exactly when kind is {kind}",
        )
        for kind, block in BLOCK_OF_KIND.items()
    ]
    kinds = ", ".join(f"'{kind}'" for kind in BLOCK_OF_KIND)
    rules.append(
        cel(
            f"!has(self.parameters) || !(self.kind in [{kinds}])",
            f"parameters are for plug-in kinds; {', '.join(BLOCK_OF_KIND)} have blocks",
        )
    )
    return rules


class Job(Part):
    """What is run: exactly one block, that of the kind."""

    model_config = ConfigDict(json_schema_extra=with_rules(*_block_rules()))

    kind: Word = Field(
        description=(
            "kind is Train, Synthesize, Federate, PrivateFeatures (experimental), or the name of "
            "an installed plug-in's kind. Required."
        )
    )
    train: Train | None = Field(
        default=None,
        description=(
            "train is the block of kind Train. Required with that kind, otherwise absent; optional."
        ),
    )
    synthesize: Synthesize | None = Field(
        default=None,
        description=(
            "synthesize is the block of kind Synthesize. Required with that kind, otherwise "
            "absent; optional."
        ),
    )
    federate: Federate | None = Field(
        default=None,
        description=(
            "federate is the block of kind Federate. Required with that kind, otherwise absent; "
            "optional."
        ),
    )
    private_features: PrivateFeatures | None = Field(
        default=None,
        description=(
            "privateFeatures is the block of kind PrivateFeatures. Required with that kind, "
            "otherwise absent; optional."
        ),
    )
    parameters: Parameters | None = Field(
        default=None,
        description=(
            "parameters are the settings of a plug-in's kind, as quoted text. Optional, none."
        ),
    )
    resources: JobResources = Field(
        default_factory=JobResources,
        description=(
            "resources are what the job may use of the machines. Optional, one worker without a "
            "GPU."
        ),
        json_schema_extra={"default": {}},
    )

    @model_validator(mode="after")
    def _block_of_the_kind(self) -> Job:
        for kind, block in BLOCK_OF_KIND.items():
            given = getattr(self, to_snake(block)) is not None
            if given and kind != self.kind:
                rule = f"must have the block of its kind {self.kind}, and no other"
                raise broken(rule, block, f"Write kind: {kind}, or remove {block}.")
            if not given and kind == self.kind:
                raise broken(f"must have a block {block}, because its kind is {kind}", "none")
        if self.parameters is not None and self.kind in BLOCK_OF_KIND:
            block = BLOCK_OF_KIND[self.kind]
            raise broken(
                f"must have no parameters, because {self.kind} has a block of its own",
                "parameters",
                f"Move them into {block}.",
            )
        return self

    def block(self) -> Mapping[str, Any]:
        """What the job kind reads: camelCase names, decimals as strings, absent ones left out."""
        name = BLOCK_OF_KIND.get(self.kind)
        if name is None:
            return dict(self.parameters or {})
        part: Part = getattr(self, to_snake(name))
        dumped: dict[str, Any] = part.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped
