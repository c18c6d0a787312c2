"""`cait-viz finetune` and `cait-viz distil`; their options are the fields of `cait_viz.training.config`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.validators import mutually_exclusive

from cait_viz._backend import BACKENDS
from cait_viz.attention.maps import check_choice
from cait_viz.cli.options import Count, interrupted_at_once, report
from cait_viz.errors import UsageError
from cait_viz.training.config import (
    DISTILLATION,
    FINETUNING,
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

# Fields of a config that have options of their own, and those of a distillation alone.
_APART = "stages|augmentation"
_DISTILLATION = "label_weight|feature_weight|kept_views"


def _folder_weight(_type: Any, tokens: Sequence[Any]) -> dict[Path, float]:
    weights = {}
    for token in tokens:
        folder, _, weight = token.value.rpartition("=")
        try:
            if not folder:
                raise ValueError
            weights[Path(folder)] = float(weight)
        except ValueError:
            raise ValueError(
                f"{token.value!r} is no folder with a weight; write FOLDER=W, such as images/dogs=0.1"
            ) from None
    return weights


Folder = Annotated[
    Path,
    Parameter(
        name=("--output", "-o"),
        help="the folder to write to: model.safetensors, labels.txt, card.json, log.csv.",
    ),
]
Epochs = Annotated[
    tuple[Stage, ...],
    Parameter(
        group=(_TRAINING, _LENGTH),
        converter=lambda _, tokens: (Stage(None, float(tokens[0].value)),),
        n_tokens=1,
        metavar="E",
        show_default=lambda stages: f"{stages[0].epochs:g}",
        help="how often each image is shown, at the network's resolution.",
    ),
]
Stages = Annotated[
    tuple[Stage, ...],
    Parameter(
        group=(_TRAINING, _LENGTH),
        converter=lambda _, tokens: parse_stages(tokens[0].value),
        n_tokens=1,
        metavar="SIZE:EPOCHS,…",
        show_default=False,
        help="several resolutions one after the other in place of --epochs, in pixels, such as "
        "112:20,224:4; low first saves time.",
    ),
]
Views = Annotated[Augmentation, Parameter(name="*", group=_TRAINING)]
CommandLine = Annotated[str, Parameter(parse=False)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Run:
    """How a training is run: what both commands take.

    Attributes:
        options: fields of `RunOptions`.
        backend: of Keras: tensorflow, jax or torch (default: KERAS_BACKEND, or the first that is installed).
    """

    options: Annotated[RunOptions, Parameter(name="*", group=_RUN, parse="^(?!command|tell)")] = RunOptions()
    backend: Annotated[str | None, Parameter(group=_RUN)] = None

    def start(self, command_line: str) -> RunOptions:
        """Import Keras on the backend that was asked for, and give the options of the run."""
        from cait_viz._backend import import_keras, installed_backend, keep_freed_memory

        backend = self.backend or installed_backend()
        check_choice("backend", backend, BACKENDS)
        try:
            with interrupted_at_once():
                import_keras(backend, self.options.threads)
        except ImportError:
            raise UsageError(
                f"the backend {backend} is not installed; install it, or choose another"
            ) from None
        keep_freed_memory()
        return replace(self.options, command=command_line)


def finetune(
    images: Annotated[Path, Parameter(name="FOLDER")],
    /,
    *,
    output: Folder,
    model: str | None = None,
    weights: Path | None = None,
    labels: Path | None = None,
    validation: Annotated[Path | None, _ONE_VALIDATION] = None,
    validation_share: Annotated[float, _ONE_VALIDATION] = 0.1,
    epochs: Epochs = FINETUNING.stages,
    stages: Stages = (),
    config: Annotated[
        TrainingConfig, Parameter(name="*", group=_TRAINING, parse=f"^(?!{_APART}|{_DISTILLATION})")
    ] = TrainingConfig(),
    augmentation: Views = FINETUNING.augmentation,
    run: Run = Run(),
    command_line: CommandLine,
) -> None:
    """Train a pretrained CaiT on labelled images of your own.

    The weights are written with timm's tensor names; every command and the app open them by --weights and
    --labels.

    Args:
        images: a folder that holds a folder of images for each class.
        model: the model to start from, a name that `cait-viz models` lists (default: bundled).
        weights: a checkpoint to start from, in place of the model's own.
        labels: the names of its classes, one a line; where they are those of the images, its classifier is
            kept.
        validation: a folder of images to validate with, in folders of the same names.
        validation_share: share of each class that is held back to validate with where --validation names no
            folder.
    """
    config = replace(config, stages=stages or epochs, augmentation=augmentation)
    options = run.start(command_line)
    from cait_viz.training.api import finetune

    outcome = finetune(
        images,
        output,
        model=model,
        weights=weights,
        labels=labels,
        validation=validation or validation_share,
        config=config,
        options=options,
    )
    _report(outcome)


def distil(
    images: Annotated[list[Path], Parameter(name="FOLDER")],
    /,
    *,
    output: Folder,
    teacher: Path,
    teacher_size: Count | None = None,
    folder_weight: Annotated[
        dict[Path, float] | None,
        Parameter(converter=_folder_weight, n_tokens=1, accepts_keys=False, metavar="FOLDER=W"),
    ] = None,
    model: str | None = None,
    weights: Path | None = None,
    labels: Path | None = None,
    validation: Annotated[tuple[Path, ...], Parameter(show_default=False)] = (),
    epochs: Epochs = DISTILLATION.stages,
    stages: Stages = (),
    config: Annotated[
        DistillationConfig, Parameter(name="*", group=_TRAINING, parse=f"^(?!{_APART})")
    ] = DistillationConfig(),
    augmentation: Views = DISTILLATION.augmentation,
    run: Run = Run(),
    command_line: CommandLine,
) -> None:
    """Train a CaiT to give the answers of a teacher.

    The teacher is an ONNX file with one input, RGB in [0, 1] as (B, 3, S, S), and two outputs, logits and
    features, its last feature map. The images need no labels; those in a folder that is named as a class, or
    after its WordNet id, have one.

    Args:
        images: folders of images, searched to any depth.
        teacher: the teacher's file, .onnx.
        teacher_size: side of its input in pixels (default: its own, or 224).
        folder_weight: show each image of a folder W times an epoch on average, 0.1 being a tenth of them; a
            folder within another may have a weight of its own; may be given several times (default: 1).
        model: the student's architecture, a name that `cait-viz models` lists (default: bundled).
        weights: a checkpoint to start from (default: random weights).
        labels: the names of the teacher's classes, one a line.
        validation: a folder of images to validate with, in folders named as classes; may be given several
            times.
    """
    config = replace(config, stages=stages or epochs, augmentation=augmentation)
    options = run.start(command_line)
    from cait_viz.training.api import distil

    outcome = distil(
        images,
        output,
        folder_weights=folder_weight or {},
        teacher=teacher,
        teacher_size=teacher_size,
        model=model,
        weights=weights,
        labels=labels,
        validation=validation,
        config=config,
        options=options,
    )
    _report(outcome)


def _report(outcome: "Outcome") -> None:
    measured = ", ".join(f"{name} {100 * share:.1f} %" for name, share in outcome.accuracy.items())
    report(outcome.weights, f"validation {measured}" if measured else "not validated")
    files = shlex.join(["--weights", str(outcome.weights), "--labels", str(outcome.labels)])
    print(f"look at it with: cait-viz app {files}")
