"""What a Study's block ``train`` may be: central training under differential privacy.

Also what the other training kinds have in common with it. What a mechanism costs is decided by the
kind's plan, never here.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from primum.resources.answers import Answers
from primum.resources.fields import (
    NonNegativeDecimal,
    Parameters,
    Part,
    PositiveDecimal,
    UnitInterval,
    Word,
    broken,
    cel,
    with_rules,
)
from primum.resources.search import Search

EPOCHS_MAX = 10_000  # Far above any Study of ours; a slip of the finger should not run for a year.
BATCH_MAX = 1_000_000


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


class Loss(enum.StrEnum):
    """What is made small; each a mean or a ratio within one example."""

    CROSS_ENTROPY = "CrossEntropy"
    DICE = "Dice"
    DICE_CROSS_ENTROPY = "DiceCrossEntropy"


class Schedule(enum.StrEnum):
    """How the learning rate changes over the planned steps."""

    CONSTANT = "Constant"
    COSINE = "Cosine"
    STEP = "Step"
    LINEAR = "Linear"


class Precision(enum.StrEnum):
    """In which numbers the model is passed through."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class StoppingScore(enum.StrEnum):
    """Whose accuracy decides when a training ends."""

    PUBLIC = "Public"
    SYNTHETIC = "Synthetic"
    HELD_OUT = "HeldOut"


class Flip(enum.StrEnum):
    """Whether views of an image may be mirrored."""

    NONE = "None"
    HORIZONTAL = "Horizontal"


class Trainable(enum.StrEnum):
    """Which layers private training changes."""

    ALL = "All"
    HEAD = "Head"


def model_parameters() -> Any:
    """The field of a model's own settings, as every training kind has it."""
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

    epochs: Annotated[int, Field(strict=True, ge=2, le=EPOCHS_MAX)] = Field(
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


class TrainingMechanism(enum.StrEnum):
    """What protects the units that a model is trained on."""

    GAUSSIAN = "Gaussian"
    NONE = "None"


class Defenses(Part):
    """What makes attacks on a model harder and promises nothing, for comparison."""

    mixup: NonNegativeDecimal | None = Field(
        default=None,
        description=(
            "mixup is the alpha of the Beta distribution by which pairs of rows are mixed. "
            "Optional, none."
        ),
    )
    mmd: NonNegativeDecimal | None = Field(
        default=None,
        description=(
            "mmd is the weight of the distance between outputs on training rows and on rows that "
            "are kept apart. Optional, none."
        ),
    )
    mem_guard: PositiveDecimal | None = Field(
        default=None,
        description=(
            "memGuard bounds the expected L1 distance by which MemGuard changes the confidences "
            "that the model answers. Optional, none."
        ),
    )


class Langevin(Part):
    """Each step's noise is at least that of Langevin dynamics, so that kept states are samples."""

    temperature: PositiveDecimal = Field(
        default="1",
        description=(
            "temperature is that of the posterior; 1 is the posterior itself. Where privacy needs "
            "more noise, the plan says the higher one. Optional, 1."
        ),
    )


class EarlyStopping(Part):
    """The training ends once the accuracy on data that is not trained on no longer rises."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "(self.score == 'HeldOut') == has(self.noiseMultiplier)",
                "noiseMultiplier must be given exactly when score is HeldOut",
            )
        )
    )

    score: StoppingScore = Field(
        description=(
            "score is Public or Synthetic (the held-out part of the Study's own inputs with that "
            "role; free) or HeldOut (private units that are not trained on; charged). Required."
        )
    )
    every_epochs: Annotated[int, Field(strict=True, ge=1, le=EPOCHS_MAX)] = Field(
        default=1,
        description="everyEpochs is the expected number of passes between two looks. Optional, 1.",
    )
    patience: Annotated[int, Field(strict=True, ge=1, le=1000)] = Field(
        description="patience is how many looks in a row without a new best end it. Required."
    )
    noise_multiplier: PositiveDecimal | None = Field(
        default=None,
        description=(
            "noiseMultiplier is the noise of each look at private held-out units, on the number of "
            "them that are classified right. Required with HeldOut, otherwise absent; optional."
        ),
    )

    @model_validator(mode="after")
    def _noise_where_private(self) -> EarlyStopping:
        if (self.score is StoppingScore.HELD_OUT) != (self.noise_multiplier is not None):
            rule = "must have noiseMultiplier exactly when score is HeldOut"
            raise broken(rule, self.score.value)
        return self


class Train(Part):
    """Central training under differential privacy."""

    model_config = ConfigDict(
        json_schema_extra=with_rules(
            cel(
                "!has(self.individualFilter) || self.individualFilter.epochs > self.epochs",
                "individualFilter.epochs must be above epochs",
            ),
            cel(
                "!has(self.langevin) || (has(self.ensemble) && has(self.weightDecay))",
                "langevin needs ensemble, which keeps the samples, and weightDecay, the prior",
            ),
            cel(
                "!has(self.defenses) || self.mechanism == 'None'",
                "defenses are for mechanism None alone: they mix units, or learn from them without "
                "noise",
            ),
            cel(
                "!has(self.answers) || !has(self.answers.abstainBelow) || has(self.ensemble)",
                "answers.abstainBelow needs ensemble, whose members are asked",
            ),
        )
    )

    model: Word = Field(description="model names a registered model such as Logistic. Required.")
    model_parameters: Parameters = model_parameters()
    epochs: Annotated[int, Field(strict=True, ge=1, le=EPOCHS_MAX)] = Field(
        description="epochs is the expected number of passes over the data. Required."
    )
    batch_size: Annotated[int, Field(strict=True, ge=1, le=BATCH_MAX)] = Field(
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
    loss: Loss = Field(
        default=Loss.CROSS_ENTROPY,
        description=(
            "loss is CrossEntropy (of several labels the mean of binary ones), or for masks Dice "
            "or DiceCrossEntropy, their sum. Dice is of each mask, never over a batch, which "
            "would mix units. Optional, CrossEntropy."
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
    answers: Answers | None = Field(
        default=None,
        description=(
            "answers is how the released model answers: its temperature, and when it abstains. "
            "Optional, as it was trained."
        ),
    )
    langevin: Langevin | None = Field(
        default=None,
        description=(
            "langevin makes the states that ensemble keeps samples of a posterior, by more noise "
            "where the mechanism's own is less; weightDecay is the prior. Costs nothing. Optional, "
            "none."
        ),
    )
    early_stopping: EarlyStopping | None = Field(
        default=None,
        description=(
            "earlyStopping may end the training before epochs are over; what was not run is "
            "charged only where the budget's accounting is not sound for that. Optional, none."
        ),
    )
    mechanism: TrainingMechanism = Field(
        default=TrainingMechanism.GAUSSIAN,
        description=(
            "mechanism is Gaussian, or None for a training without protection, for comparison: "
            "its claim is Void, and spec.privacy must be absent. Optional, Gaussian."
        ),
    )
    defenses: Defenses | None = Field(
        default=None,
        description=(
            "defenses are never counted as privacy; with a mechanism they are refused, because "
            "they mix units, or learn from them without noise. Optional, none."
        ),
    )
    precision: Precision = Field(
        default=Precision.FLOAT32,
        description=(
            "precision is BFloat16 if the model may be passed through in fewer bits; weights, "
            "clipping and noise never are. Optional, Float32."
        ),
    )
    rows_at_once: Annotated[int, Field(strict=True, ge=1, le=BATCH_MAX)] | None = Field(
        default=None,
        description=(
            "rowsAtOnce is the most rows whose gradients are held at a time; fewer need less "
            "memory and change nothing else. Optional, what the first rows were found to need."
        ),
    )

    search: Search | None = Field(
        default=None,
        description=(
            "search trains at several points of a space of hyper-parameters and keeps the best; "
            "what is searched replaces the value given here. Optional, none."
        ),
    )

    @model_validator(mode="after")
    def _filter_runs_longer(self) -> Train:
        wanted = self.individual_filter
        if wanted is not None and wanted.epochs <= self.epochs:
            rule = f"must have individualFilter.epochs above epochs ({self.epochs})"
            raise broken(rule, wanted.epochs, "Give more, or leave individualFilter out.")
        return self

    @model_validator(mode="after")
    def _members_to_ask(self) -> Train:
        asked = self.answers is not None and self.answers.abstain_below is not None
        if asked and self.ensemble is None:
            raise broken("must have ensemble with answers.abstainBelow", "no ensemble")
        return self

    @model_validator(mode="after")
    def _defenses_without_mechanism(self) -> Train:
        if self.defenses is not None and self.mechanism is not TrainingMechanism.NONE:
            given = [*self.defenses.model_dump(by_alias=True, exclude_none=True)]
            rule = (
                "must have no defenses with a mechanism: Mixup and MMD mix units, and MemGuard's "
                "attacker is fitted on them without noise"
            )
            remedy = "Set mechanism: None for a comparison."
            raise broken(rule, ", ".join(given) or "defenses", remedy)
        return self

    @model_validator(mode="after")
    def _samples_of_a_posterior(self) -> Train:
        if self.langevin is not None and (self.ensemble is None or self.weight_decay is None):
            missing = "ensemble" if self.ensemble is None else "weightDecay"
            raise broken("must have ensemble and weightDecay with langevin", f"no {missing}")
        return self
