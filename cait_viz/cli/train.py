"""`cait-viz finetune` and `cait-viz distil`; their options are the fields of `cait_viz.training.config`."""

import contextlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from cait_viz._backend import BACKENDS
from cait_viz._checks import check_choice
from cait_viz.cli.options import (
    ModelOptions,
    Output,
    StudentModel,
    TaughtModel,
    TeacherSize,
    TrainedModel,
    report,
)
from cait_viz.errors import UsageError
from cait_viz.training.config import (
    VALIDATION_SHARE,
    Augmentation,
    DistillationConfig,
    RunOptions,
    Stage,
    TrainingConfig,
    parse_stages,
)

if TYPE_CHECKING:
    from cait_viz.training.run import Outcome

_TRAINING, _RUN = Group("Training", sort_key=1), Group("Run", sort_key=2)
_LENGTH, _VALIDATION = (Group(show=False, validator=mutually_exclusive) for _ in range(2))
_ONE_VALIDATION = Parameter(group=("Parameters", _VALIDATION))
_FOLDER = Parameter(metavar="FOLDER")
_ONE_LENGTH = Parameter(group=(_TRAINING, _LENGTH), n_tokens=1)
_CONFIG = Parameter(name="*", group=_TRAINING, parse="^(?!(stages|augmentation)$)")
_NO_TEACHER = Parameter(parse="^(?!(stages|augmentation|label_weight|feature_weight|kept_views)$)")

Epochs = Annotated[
    tuple[Stage, ...],
    _ONE_LENGTH,
    Parameter(
        converter=lambda _, tokens: (Stage(None, float(tokens[0].value)),),
        show_default=lambda stages: f"{stages[0].epochs:g}",
        metavar="E",
        help="how often each image is shown, at the network's own resolution.",
    ),
]
Stages = Annotated[
    tuple[Stage, ...],
    _ONE_LENGTH,
    Parameter(
        converter=lambda _, tokens: parse_stages(tokens[0].value),
        show_default=False,
        metavar="SIZE:EPOCHS,…",
        help="in place of --epochs, several resolutions one after the other, in pixels, such as "
        "112:20,224:4; low first saves time (default: none).",
    ),
]
ValidationShare = Annotated[
    float | None,
    _ONE_VALIDATION,
    Parameter(
        help="share of each class that is held back to validate with, 0 for none; of a split, only the part "
        "to train on is used then "
        f"(default: {VALIDATION_SHARE:g} where nothing else is there to validate with).",
    ),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Training:
    """What both commands take.

    Attributes:
        output: the folder to write to: model.safetensors, labels.txt, card.json, log.csv.
        backend: Keras' backend: tensorflow, jax or torch (default: KERAS_BACKEND, or the first that is
            installed).
    """

    output: Annotated[Output, Parameter(group="Parameters")]
    augmentation: Annotated[Augmentation, Parameter(name="*", group=_TRAINING)] = Augmentation()
    options: Annotated[RunOptions, Parameter(name="*", group=_RUN, parse="^(?!(command|tell)$)")] = (
        RunOptions()
    )
    backend: Annotated[str | None, Parameter(group=_RUN)] = None
    start: TrainedModel = ModelOptions()

    def arguments(self, config: TrainingConfig, stages: tuple[Stage, ...], command: str) -> dict[str, Any]:
        """Import Keras on the backend that was asked for, and give what both trainings are called with."""
        from cait_viz._backend import import_keras, installed_backend, keep_freed_memory

        backend = check_choice("backend", self.backend or installed_backend(), BACKENDS)
        try:
            import_keras(backend, self.options.threads)
        except ImportError:
            message = f"the backend {backend} is not installed; install it, or choose another"
            raise UsageError(message) from None
        keep_freed_memory()
        given = {name: getattr(self.start, name) for name in ("model", "weights", "labels")}
        config = replace(config, stages=stages, augmentation=self.augmentation)
        options = replace(self.options, command=command)
        return {"out": self.output, "config": config, "options": options, **given}


@dataclass(frozen=True, kw_only=True)
class Distillation(Training):
    """What `distil` takes: the same, but for what its student starts from."""

    start: TaughtModel = StudentModel()


def finetune(
    images: Annotated[Path, Parameter(name="FOLDER")],
    /,
    *,
    validation: Annotated[Path | None, _ONE_VALIDATION, _FOLDER] = None,
    validation_share: ValidationShare = None,
    epochs: Epochs = TrainingConfig.stages,
    stages: Stages = (),
    config: Annotated[TrainingConfig, _CONFIG, _NO_TEACHER] = TrainingConfig(),
    training: Training,
    command_line: Annotated[str, Parameter(parse=False)],
) -> None:
    """Train a pretrained CaiT on labeled images of your own.

    The training starts from --model or --weights; where the images' classes are those of --labels, it keeps
    the classifier. It writes weights with timm's tensor names, which every command and the app open by
    --weights and --labels.

    Args:
        images: a folder that holds a folder of images for each class; or one with a split, such as train/ and
            val/.
        validation: a folder of images to validate with, in folders of the same names (default: that of the
            split, or else --validation-share).
    """
    arguments = training.arguments(config, stages or epochs, command_line)
    from cait_viz.training.api import finetune

    _report(finetune(images, validation=validation_share if validation is None else validation, **arguments))


def distil(
    images: Annotated[list[Path], Parameter(name="FOLDER...")],
    /,
    *,
    teacher: Path,
    teacher_size: TeacherSize = None,
    folder_weight: Annotated[tuple[str, ...], Parameter(metavar="FOLDER=W", show_default=False)] = (),
    validation: Annotated[tuple[Path, ...], Parameter(show_default=False), _FOLDER] = (),
    epochs: Epochs = DistillationConfig.stages,
    stages: Stages = (),
    config: Annotated[DistillationConfig, _CONFIG] = DistillationConfig(),
    training: Distillation,
    command_line: Annotated[str, Parameter(parse=False)],
) -> None:
    """Train a CaiT to give the answers of a teacher.

    The teacher is an ONNX file with one input, RGB in [0, 1] as (B, 3, S, S), and two outputs, logits and
    features, its last feature map. The student has the architecture of --model and starts from --weights, or
    else from random weights; --labels names the teacher's classes. The images need no labels; those in a
    folder that is named as a class, or after its WordNet id, have one.

    Args:
        images: folders of images, searched to any depth; of one with a split, such as train/ and val/, the
            part to train on.
        teacher: the teacher's file, .onnx.
        folder_weight: show each image of a folder W times an epoch on average, 0.1 being a tenth of them; a
            folder within another may have a weight of its own (default: 1); can be repeated.
        validation: a folder of images to validate with, in folders named as classes (default: that of a
            split); can be repeated.
    """
    arguments: dict[str, Any] = {"teacher": teacher, "teacher_size": teacher_size, "validation": validation}
    arguments["folder_weights"] = dict(map(_folder_weight, folder_weight))
    arguments |= training.arguments(config, stages or epochs, command_line)
    from cait_viz.training.api import distil

    _report(distil(images, **arguments))


def _folder_weight(text: str) -> tuple[Path, float]:
    folder, _, weight = text.rpartition("=")
    with contextlib.suppress(ValueError):
        if folder:
            return Path(folder), float(weight)
    raise UsageError(f"{text!r} is no folder with a weight; write FOLDER=W, such as images/dogs=0.1")


def _report(outcome: "Outcome") -> None:
    measured = ", ".join(f"{name} {100 * share:.1f} %" for name, share in outcome.accuracy.items())
    report(outcome.weights, f"validation {measured}" if measured else "not validated")
    files = shlex.join(["--weights", str(outcome.weights), "--labels", str(outcome.labels)])
    print(f"look at it with: cait-viz app {files}")
