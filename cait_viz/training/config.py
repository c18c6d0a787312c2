"""How a network is trained: plain data, checked; no Keras, no files."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from cait_viz.training.augmentation import Augmentation

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Stage:
    """Some epochs at one resolution.

    Attributes:
        image_size: side of the network's input in pixels, a multiple of the patch's; None for the
            network's own.
        epochs: how often each picture is shown; parts of an epoch count.

    Raises:
        ValueError: a value out of its range.
    """

    image_size: int | None
    epochs: float

    def __post_init__(self) -> None:
        if (self.image_size is not None and self.image_size < 1) or not 0 < self.epochs < math.inf:
            raise ValueError(
                f"a stage needs a size and epochs above 0, not {self.image_size or 'its own'}:{self.epochs:g}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that decides on a training besides the pictures and the weights it starts from.

    Attributes:
        stages: resolutions one after the other; low first saves time (Touvron et al. 2019,
            arXiv:1906.06423; section 4.1 of the CaiT paper trains at 224 and goes on at 384 pixels).
        batch_size: pictures in a step.
        learning_rate: of AdamW, at its highest; it rises linearly and falls along a cosine.
        warmup: share of the steps in which it rises.
        weight_decay: of AdamW, for the kernels alone: not for biases, norms, LayerScale, class token and
            position embedding.
        clip_norm: norm that the gradient of all weights together is clipped to.
        label_smoothing: share of a label that is spread over all classes.
        sd_prob: probability that stochastic depth drops a residual branch.
        averaging: the weights kept are averaged exponentially over about this share of the steps; 0: not.
        label_weight: share of the label, where there is one, in what a student learns; the rest is the
            teacher's.
        feature_weight: weight of the teacher's feature map in the loss.
        kept_views: how many views of each picture a teacher's answers are kept for; 0: every view is new.
        augmentation: how views differ.
        precision: of the arithmetic; the weights are float32.
        seed: decides on all that is random.

    Raises:
        ValueError: a value out of its range; the message names both.
    """

    stages: tuple[Stage, ...]
    batch_size: int = 64
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    sd_prob: float = 0.05
    averaging: float = 0.05
    label_weight: float = 0.0
    feature_weight: float = 0.5
    kept_views: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        shares = ("warmup", "label_smoothing", "sd_prob", "averaging")
        for name, holds, wanted in (
            ("stages", bool(self.stages), "at least one"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("clip_norm", 0 < self.clip_norm < math.inf, "above 0"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0"),
            ("feature_weight", 0 <= self.feature_weight < math.inf, "at least 0"),
            ("label_weight", 0 <= self.label_weight <= 1, "from 0 to 1"),
            ("kept_views", self.kept_views >= 0, "at least 0"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("seed", 0 <= self.seed < 2**32, "at least 0 and below 2**32"),
            *((name, 0 <= getattr(self, name) < 1, "at least 0 and below 1") for name in shares),
        ):
            if not holds:
                raise ValueError(f"{name} must be {wanted}, not {getattr(self, name)!r}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """The resolution of each stage, in pixels.

        Raises:
            ValueError: one is not settled yet; see `settled`.
        """
        known = tuple(stage.image_size for stage in self.stages if stage.image_size is not None)
        if len(known) < len(self.stages):
            raise ValueError("the recipe leaves a resolution to the network; settle it first")
        return known

    def settled(self, image_size: int) -> "TrainingConfig":
        """The recipe for a network whose own input has that side."""
        return replace(
            self, stages=tuple(Stage(stage.image_size or image_size, stage.epochs) for stage in self.stages)
        )

    def to_dict(self) -> dict[str, Any]:
        """The options, for JSON."""
        return asdict(self)


FINETUNING = TrainingConfig(stages=(Stage(None, 10),))
DISTILLATION = TrainingConfig(stages=(Stage(None, 30),), learning_rate=1e-3, label_smoothing=0.0)


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Stages from "112:5,160:2,224:0.5": sizes and epochs.

    Raises:
        ValueError: it is no such text.
    """
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple(Stage(int(size), float(epochs)) for size, epochs in pairs)
    except ValueError:
        raise ValueError(
            f"{text!r} is no list of stages; write SIZE:EPOCHS for each, such as 112:5,224:1"
        ) from None


@dataclass(frozen=True)
class Schedule:
    """Which step belongs to which stage.

    Attributes:
        ends: for each stage, the number of the first step that is no longer its.
    """

    ends: tuple[int, ...]

    @property
    def steps(self) -> int:
        """All of them."""
        return self.ends[-1]

    def stage(self, step: int) -> int:
        """Index of the stage that a step belongs to."""
        return next(index for index, end in enumerate(self.ends) if step < end)


def schedule(stages: Sequence[Stage], steps_per_epoch: float) -> Schedule:
    """Lay the stages out in steps; each has at least one."""
    ends, end = [], 0
    for stage in stages:
        end += max(1, round(stage.epochs * steps_per_epoch))
        ends.append(end)
    return Schedule(tuple(ends))
