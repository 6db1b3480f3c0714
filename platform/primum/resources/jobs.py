"""What a Study's job may be: the blocks of the built-in kinds, and parameters for a plug-in's kind.

Each block is read by its job kind as a plain mapping of these names, decimals as strings. What a
mechanism costs is decided by the kind's plan, never here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from primum.resources.fields import (
    Part,
    PositiveDecimal,
    UnitInterval,
    Word,
    broken,
    cel,
    with_rules,
)

BLOCK_OF_KIND = {"Train": "train", "Synthesize": "synthesize", "Federate": "federate"}

ParameterText: TypeAlias = Annotated[str, Field(max_length=256)]
Parameters: TypeAlias = Annotated[dict[str, ParameterText], Field(max_length=32)]

_EPOCHS_MAX = 10_000  # Far above any Study of ours; a slip of the finger should not run for a year.
_BATCH_MAX = 1_000_000
_SAMPLES_MAX = 10_000_000
_FEATURES_MAX = 100_000


class Optimizer(enum.StrEnum):
    """How the noisy gradient moves the weights."""

    SGD = "SGD"
    ADAM = "Adam"
    NOISE_CORRECTED_ADAM = "NoiseCorrectedAdam"


class Clipping(enum.StrEnum):
    """How a unit's gradient is brought to the clipping bound."""

    FLAT = "Flat"
    PER_LAYER = "PerLayer"
    AUTOMATIC = "Automatic"


class Gradients(enum.StrEnum):
    """How unit gradients are computed."""

    AUTO = "Auto"
    GHOST = "Ghost"
    FORMED = "Formed"
    FUNCTIONAL = "Functional"


class Schedule(enum.StrEnum):
    """How the learning rate changes over the planned steps."""

    CONSTANT = "Constant"
    COSINE = "Cosine"
    STEP = "Step"
    LINEAR = "Linear"


class Flip(enum.StrEnum):
    """Whether views of an image may be mirrored."""

    NONE = "None"
    HORIZONTAL = "Horizontal"


class Trainable(enum.StrEnum):
    """Which layers private training changes."""

    ALL = "All"
    HEAD = "Head"


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


def _model_parameters() -> Any:
    return Field(
        default_factory=dict,
        json_schema_extra={"default": {}},
        description=(
            'modelParameters are the model\'s own settings as quoted text, such as width: "16". '
            "Optional, none."
        ),
    )


class UnitFilter(Part):
    """One Renyi filter per privacy unit: who contributes little may take part for longer."""

    epochs: Annotated[int, Field(strict=True, ge=2, le=_EPOCHS_MAX)] = Field(
        description=(
            "epochs is the expected number of passes that are run, more than the epochs of train. "
            "Required."
        )
    )


class Augmentation(Part):
    """Views of each example; their gradients are averaged before clipping."""

    multiplicity: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        description="multiplicity is the number of views of each example. Required."
    )
    shift: Annotated[int, Field(strict=True, ge=0, le=16)] = Field(
        default=0,
        description="shift is the most pixels by which a view is moved. Optional, 0.",
    )
    flip: Flip = Field(
        default=Flip.NONE,
        description="flip is Horizontal if views may be mirrored left to right. Optional, None.",
    )


class Train(Part):
    """Central training under differential privacy."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "!has(self.individualFilter) || self.individualFilter.epochs > self.epochs",
                "individualFilter.epochs must be above epochs",
            )
        )
    )

    model: Word = Field(description="model names a registered model such as Logistic. Required.")
    model_parameters: Parameters = _model_parameters()
    epochs: Annotated[int, Field(strict=True, ge=1, le=_EPOCHS_MAX)] = Field(
        description="epochs is the expected number of passes over the data. Required."
    )
    batch_size: Annotated[int, Field(strict=True, ge=1, le=_BATCH_MAX)] = Field(
        description="batchSize is the expected size of a Poisson-sampled batch, in units. Required."
    )
    max_grad_norm: PositiveDecimal = Field(
        description=(
            "maxGradNorm is the L2 bound to which each unit's gradient is clipped. Required."
        )
    )
    learning_rate: PositiveDecimal | None = Field(
        default=None, description="learningRate is the step size. Optional, the job kind's default."
    )
    momentum: UnitInterval | None = Field(
        default=None, description="momentum is for SGD, at least 0 and below 1. Optional, none."
    )
    optimizer: Optimizer = Field(
        default=Optimizer.SGD,
        description=(
            "optimizer is SGD, Adam, or NoiseCorrectedAdam, which takes the known variance of the "
            "noise off its second moments. Optional, SGD."
        ),
    )
    algorithm: Word = Field(
        default="DPSGD",
        description="algorithm names a registered training algorithm. Optional, DPSGD.",
    )
    noise_multiplier: PositiveDecimal | None = Field(
        default=None,
        description=(
            "noiseMultiplier fixes the noise relative to maxGradNorm. Optional; without it "
            "the plan takes the least noise that keeps the claim."
        ),
    )
    individual_filter: UnitFilter | None = Field(
        default=None,
        description=(
            "individualFilter lets the training go on after epochs: each unit takes part only "
            "while its own privacy loss stays within what epochs cost at full clipping. Optional, "
            "none: every unit may take part in every step."
        ),
    )

    clipping: Clipping = Field(
        default=Clipping.FLAT,
        description=(
            "clipping is Flat, PerLayer (every layer to its share of maxGradNorm) or Automatic "
            "(every unit scaled to nearly maxGradNorm). Optional, Flat."
        ),
    )
    gradients: Gradients = Field(
        default=Gradients.AUTO,
        description=(
            "gradients is how unit gradients are computed: Auto, Ghost (least memory), Formed, or "
            "Functional (slow, for models whose parameters are used outside of their layers). The "
            "result is the same. Optional, Auto."
        ),
    )
    schedule: Schedule = Field(
        default=Schedule.CONSTANT,
        description=(
            "schedule of the learning rate is Constant, Cosine, Linear (both to zero) or Step (a "
            "tenth from half-way, a hundredth from three quarters on). Optional, Constant."
        ),
    )
    warm_up: UnitInterval | None = Field(
        default=None,
        description=(
            "warmUp is the share of the steps in which the learning rate rises from zero, below 1. "
            "Optional, none."
        ),
    )
    averaging: UnitInterval | None = Field(
        default=None,
        description=(
            "averaging is the decay of the moving average of the weights that is released, below "
            "1, such as 0.99. Optional, the last weights are released."
        ),
    )
    weight_decay: UnitInterval | None = Field(
        default=None,
        description="weightDecay pulls the weights towards zero, below 1. Optional, none.",
    )
    augmentation: Augmentation | None = Field(
        default=None,
        description=(
            "augmentation makes several views of each example, which still contributes one clipped "
            "gradient. Optional, none."
        ),
    )
    bias_aware: UnitInterval | None = Field(
        default=None,
        description=(
            "biasAware is the strength lambda, below 1, of bias-aware minimization, which makes "
            "gradients shorter so that clipping cuts less; it doubles the work at least. Optional, "
            "none."
        ),
    )
    trainable: Trainable = Field(
        default=Trainable.ALL,
        description=(
            "trainable is Head if only the last layer is trained on private data, above what was "
            "learned from the Study's public and synthetic inputs. Optional, All."
        ),
    )

    ensemble: Annotated[int, Field(strict=True, ge=2, le=64)] | None = Field(
        default=None,
        description="ensemble keeps so many states of the last half of the steps. Optional, none.",
    )

    @model_validator(mode="after")
    def _filter_runs_longer(self) -> Train:
        wanted = self.individual_filter
        if wanted is not None and wanted.epochs <= self.epochs:
            rule = f"must have individualFilter.epochs above epochs ({self.epochs})"
            raise broken(rule, wanted.epochs, "Give more, or leave individualFilter out.")
        return self


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
    model_parameters: Parameters = _model_parameters()
    rounds: Annotated[int, Field(strict=True, ge=1, le=_EPOCHS_MAX)] = Field(
        description="rounds is how often the sites' models are put together. Required."
    )
    local_epochs: Annotated[int, Field(strict=True, ge=1, le=_EPOCHS_MAX)] = Field(
        default=1,
        description=(
            "localEpochs is the expected number of passes per round at each site. Optional, 1."
        ),
    )
    batch_size: Annotated[int, Field(strict=True, ge=1, le=_BATCH_MAX)] = Field(
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


class JobResources(Part):
    """What the job may use of the machines."""

    workers: Annotated[int, Field(strict=True, ge=1, le=1024)] = Field(
        default=1, description="workers is the number of compute workers. Optional, 1."
    )
    gpus_per_worker: Annotated[int, Field(strict=True, ge=0, le=16)] = Field(
        default=0, description="gpusPerWorker is the number of GPUs of each worker. Optional, 0."
    )


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
            "parameters are for plug-in kinds; Train, Synthesize and Federate have blocks of "
            "their own",
        )
    )
    return rules


class Job(Part):
    """What is run: exactly one block, that of the kind."""

    model_config = ConfigDict(json_schema_extra=with_rules(*_block_rules()))

    kind: Word = Field(
        description=(
            "kind is Train, Synthesize, Federate, or the name of an installed plug-in's kind. "
            "Required."
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
            given = getattr(self, block) is not None
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
        part: Part = getattr(self, name)
        dumped: dict[str, Any] = part.model_dump(mode="json", by_alias=True, exclude_none=True)
        return dumped
