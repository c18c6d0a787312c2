"""The options of a training: plain data, checked; no Keras, no files.

The Python API takes these dataclasses, and the command line reads its options, their help and their defaults
off them: an attribute's description below is what `cait-viz finetune --help` says of it. A value out of its
range is a ValueError that names both.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Literal, get_args

from cait_viz._checks import check_choice, check_number
from cait_viz.model.config import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Optimizer = Literal["adamw", "muon"]
OPTIMIZERS: tuple[Optimizer, ...] = get_args(Optimizer)
# Where nothing else is there to validate with, this share of each class is held back.
VALIDATION_SHARE = 0.1


def _require(options: object, wanted: str, *names: str, whole: bool = False) -> None:
    """Refuse options whose fields of those names are no numbers, or out of a range of `check_number`."""
    for name in names:
        check_number(name, getattr(options, name), wanted, whole=whole)


@dataclass(frozen=True)
class Stage:
    """Some epochs at one resolution.

    Attributes:
        image_size: side of the network's input in pixels, a multiple of the patch's; None for the
            network's own.
        epochs: how often each image is shown; parts of an epoch count.
    """

    image_size: int | None
    epochs: float

    def __post_init__(self) -> None:
        if self.image_size is not None:
            _require(self, "at least 1", "image_size", whole=True)
        _require(self, "above 0", "epochs")


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much the views of an image differ.

    Attributes:
        crop_scale: least share of an image's area that a random resized crop shows.
        flip: probability that a view is mirrored.
        color_jitter: brightness, contrast and saturation are each multiplied by up to 1 ± this.
        mixup: alpha of mixup's Beta(alpha, alpha) (Zhang et al. 2018, arXiv:1710.09412); 0 for none.
    """

    crop_scale: float = 0.3
    flip: float = 0.5
    color_jitter: float = 0.3
    mixup: float = 0.2

    def __post_init__(self) -> None:
        _require(self, "above 0 and at most 1", "crop_scale")
        _require(self, "from 0 to 1", "flip")
        _require(self, "at least 0 and below 1", "color_jitter")
        _require(self, "at least 0", "mixup")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything that decides on the weights besides the images and the weights to start from.

    The defaults are for fine-tuning.

    Attributes:
        stages: resolutions one after the other; low first saves time (Touvron et al. 2019,
            arXiv:1906.06423; section 4.1 of the CaiT paper trains at 224 and goes on at 384 pixels).
        batch_size: images in a step.
        optimizer: AdamW, or Muon with AdamW for what is no kernel of a block (Liu et al. 2025,
            arXiv:2502.16982): a quarter slower at each step, and better after as many minutes.
        learning_rate: highest learning rate; it rises linearly and falls along a cosine.
        warmup: share of the steps in which the learning rate rises.
        weight_decay: decoupled weight decay, for the kernels alone, not for biases, norms, LayerScale, class
            token and position embedding.
        clip_norm: norm that the gradient of all weights together is clipped to.
        label_smoothing: share of a label that is spread over all classes.
        sd_prob: probability that stochastic depth drops a residual branch.
        ema: the weights that are kept are an exponential moving average over about this share of the steps;
            0 for the last weights.
        class_balance: share of the logarithm of each class's frequency that is taken from its score: with 0 a
            class that was seldom shown is seldom named, with 1 all classes count as equally frequent
            (Menon et al. 2021, arXiv:2007.07314, post-hoc logit adjustment). Of several trainings in a
            row, it is for the last.
        label_weight: share of the label, where an image has one, in what the student learns; the rest is the
            teacher's.
        feature_weight: weight of the teacher's feature map in the loss.
        kept_views: number of views of each image for which the teacher's answers are kept; 0 for a
            new view each time.
        augmentation: how views differ.
        precision: number format of the arithmetic; the weights are float32.
        seed: random seed.
    """

    stages: tuple[Stage, ...] = (Stage(None, 10),)
    batch_size: int = 64
    optimizer: Optimizer = "adamw"
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    label_smoothing: float = 0.1
    sd_prob: float = 0.05
    ema: float = 0.05
    class_balance: float = 0.0
    label_weight: float = 0.0
    feature_weight: float = 0.5
    kept_views: int = 0
    augmentation: Augmentation = Augmentation()
    precision: Precision = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.stages or not all(isinstance(stage, Stage) for stage in self.stages):
            raise ValueError(f"stages must be at least one Stage, not {self.stages!r}")
        if not isinstance(self.augmentation, Augmentation):
            raise ValueError(f"augmentation must be an Augmentation, not {self.augmentation!r}")
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("precision", self.precision, PRECISIONS)
        _require(self, "at least 1", "batch_size", whole=True)
        _require(self, "above 0", "learning_rate", "clip_norm")
        _require(self, "at least 0", "weight_decay", "feature_weight")
        _require(self, "at least 0", "kept_views", whole=True)
        _require(self, "from 0 to 1", "class_balance", "label_weight")
        _require(self, "at least 0 and below 1", "warmup", "label_smoothing", "sd_prob", "ema")
        _require(self, "at least 0 and below 2**32", "seed", whole=True)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The resolution of each stage, in pixels; a ValueError unless they are `resolved`."""
        known = tuple(stage.image_size for stage in self.stages if stage.image_size is not None)
        if len(known) < len(self.stages):
            raise ValueError("the config leaves a resolution to the network; choose it first")
        return known

    def resolved(self, image_size: int) -> "TrainingConfig":
        """The config for a network whose own input has that side."""
        stages = tuple(Stage(stage.image_size or image_size, stage.epochs) for stage in self.stages)
        return replace(self, stages=stages)


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(TrainingConfig):
    """A `TrainingConfig` with the defaults for learning from a teacher."""

    stages: tuple[Stage, ...] = (Stage(None, 30),)
    learning_rate: float = 1e-3
    label_smoothing: float = 0.0


FINETUNING, DISTILLATION = TrainingConfig(), DistillationConfig()


def _print_sentence(sentence: str) -> None:
    from tqdm import tqdm

    tqdm.write(sentence, file=sys.stderr)  # above a progress bar


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What does not decide on the weights.

    Attributes:
        resume: go on with the training that was interrupted in the same folder.
        state_minutes: minutes from one saved training state to the next; a training that is killed loses no
            more than that.
        cache: folder in which what is computed once, such as decoded images, is kept for later trainings
            (default: in the output's folder, and removed at the end).
        half: write the weights as float16, half as large.
        tensorboard: write logs for TensorBoard as well.
        threads: number of threads on the CPU (default: one a core; JAX always takes all).
        command: what the card names as the command.
        tell: called with sentences for a person.
    """

    resume: bool = False
    state_minutes: float = 10.0
    cache: Path | None = None
    half: bool = False
    tensorboard: bool = False
    threads: int | None = None
    command: str = ""
    tell: Callable[[str], None] = _print_sentence

    def __post_init__(self) -> None:
        _require(self, "at least 0", "state_minutes")
        if self.threads is not None:
            _require(self, "at least 1", "threads", whole=True)


def parse_stages(text: str) -> tuple[Stage, ...]:
    """Stages from "112:5,160:2,224:0.5", sizes and epochs; a ValueError for other text."""
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple(Stage(int(size), float(epochs)) for size, epochs in pairs)
    except ValueError:
        wanted = "write SIZE:EPOCHS for each, such as 112:5,224:1"
        raise ValueError(f"{text!r} is no list of stages; {wanted}") from None


def stage_ends(stages: Sequence[Stage], steps_per_epoch: float) -> tuple[int, ...]:
    """For each stage, the number of steps after which it ends; each has at least one step."""
    return tuple(accumulate(max(1, round(stage.epochs * steps_per_epoch)) for stage in stages))
