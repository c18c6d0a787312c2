"""From folders of pictures to a CaiT of one's own: fine-tuned on labels, or distilled from a teacher.

What comes out is what the rest of the program takes in: a safetensors file with timm's tensor names and a
text with the classes' names; and a card, in JSON, that says how they came about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import keras
import numpy as np

from cait_viz._text import one_line, path_text
from cait_viz.errors import CheckpointError, DatasetError, OutputError, SelectionError
from cait_viz.images.folders import Example
from cait_viz.model.config import CaiTConfig
from cait_viz.training.config import DISTILLATION, FINETUNING, RunOptions, TrainingConfig
from cait_viz.training.datasets import (
    Tell,
    example_weights,
    labelled,
    matched,
    split,
)
from cait_viz.training.run import Outcome, Plan, train
from cait_viz.training.teacher import Teacher
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.labels import class_index, class_names, imagenet_names, imagenet_synsets
from cait_viz.weights.registry import BUNDLED, get_variant
from cait_viz.weights.resolve import resolve

__all__ = ["Outcome", "distil", "finetune"]


def finetune(
    pictures: Path,
    out: Path,
    *,
    model: str | None = None,
    weights: Path | None = None,
    labels: Path | None = None,
    validation: Path | float = 0.1,
    config: TrainingConfig = FINETUNING,
    options: RunOptions = RunOptions(),
) -> Outcome:
    """Teach a pretrained CaiT the classes of one's own pictures.

    The classifier is new, unless its classes are the pictures' already; everything else starts from the
    weights given.

    Args:
        pictures: a folder that holds a folder of pictures for each class.
        out: the folder to write to.
        model: name of a variant to start from; the bundled one by default.
        weights: a safetensors file to start from, in place of the variant's own.
        labels: a text with the names of its classes, one a line.
        validation: another such folder, or the share of each class that is held back to validate with.
        config: how; by default ten epochs at the network's own resolution.
        options: what does not decide on the weights.

    Raises:
        DatasetError: the pictures cannot be trained on.
        CheckpointError: the weights cannot be used.
        TrainingError: the training went astray, or cannot be taken up again.
        OutputError: the output cannot be written.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    elsewhere = [validation] if isinstance(validation, Path) else []
    _refuse_output_among_pictures(out, options.cache, [pictures, *elsewhere])
    passed_over: list[str] = []

    def note(sentence: str) -> None:
        passed_over.append(sentence)
        options.tell(sentence)

    found, folders = labelled(pictures, note, elsewhere)
    held_back: Sequence[Example]
    if isinstance(validation, Path):
        index = {name: label for label, name in enumerate(folders)}
        held_back, others = _validation([validation], index, options.tell)
        training = _apart(found, [*held_back, *others], options.tell)
    else:
        training, held_back = split(found, validation, config.seed)
    names = _readable(folders)
    start = resolve(model, weights)
    recipe = _settled(config, start.config)
    architecture = replace(start.config, num_classes=len(names), pre_logits=False)
    tensors: dict[str, np.ndarray] | None = read_tensors(start.path, start.config)
    assert tensors is not None
    if start.config.pre_logits or class_names(start.config.num_classes, labels) != names:
        tensors |= _new_head(architecture, recipe.seed)
        options.tell(f"a new classifier of {len(names)} classes; the rest starts from {start.name}")
    return train(
        Plan(
            kind="finetune",
            out=out,
            recipe=recipe,
            config=architecture,
            start=start,
            tensors=tensors,
            names=names,
            training=training,
            weights=np.ones(len(training)),
            validation=held_back,
            passed_over=passed_over,
            data={"folders": [str(pictures)], "validation": str(validation), "classes": len(names)},
            teacher=None,
        ),
        options,
    )


def distil(
    pictures: Sequence[Path],
    out: Path,
    *,
    folder_weights: Mapping[Path, float] = MappingProxyType({}),
    teacher: Path,
    teacher_size: int | None = None,
    model: str | None = None,
    weights: Path | None = None,
    labels: Path | None = None,
    validation: Sequence[Path] = (),
    config: TrainingConfig = DISTILLATION,
    options: RunOptions = RunOptions(),
) -> Outcome:
    """Let a CaiT learn from a teacher what it says of pictures, which need no labels.

    Follows "Knowledge distillation: a good teacher is patient and consistent" (Beyer et al. 2022): both see
    the very same views, mixup included, for as many epochs as one has time for.

    Args:
        pictures: folders, searched to any depth. A picture in a folder that is named as a class, or after its
            WordNet id, has a label.
        out: the folder to write to.
        folder_weights: how often an epoch shows each picture of a folder, on average: 2 for twice, 0.1 for a
            tenth of them. The innermost folder that is named decides; without one it is once.
        teacher: an ONNX file, see `Teacher`.
        teacher_size: side of the teacher's input in pixels; by default what its file fixes, else 224.
        model: name of the variant whose architecture the student has; the bundled one's by default.
        weights: a safetensors file to start from, with as many classes as the teacher has; by default the
            student starts from random weights.
        labels: a text with the names of the teacher's classes, one a line.
        validation: folders as `pictures`, not trained on, of which those with a label are validated with.
        config: how; by default thirty epochs at the network's own resolution.
        options: what does not decide on the weights.

    Raises:
        TeacherError: the teacher cannot teach.
        DatasetError, CheckpointError, TrainingError, OutputError, KeyboardInterrupt: as `finetune`.
    """
    if len(set(pictures)) < len(pictures):
        raise DatasetError(
            "a folder is named twice; give it a weight of 2 to show its pictures twice as often"
        )
    _refuse_output_among_pictures(out, options.cache, [*pictures, *validation])
    start = None if weights is None else resolve(model, weights)
    architecture = start.config if start else (BUNDLED if model is None else get_variant(model)).config
    recipe = _settled(config, architecture)
    master = Teacher(teacher, teacher_size, recipe.precision, options.threads)
    names = class_names(master.classes, labels)
    if start and (start.config.pre_logits or start.config.num_classes != master.classes):
        raise CheckpointError(
            f"{one_line(start.path.name)}: has {start.config.num_classes} classes and the teacher "
            f"{master.classes}; start from weights with the teacher's classes, or from none"
        )
    index = class_index(names)
    held_back, others = _validation(validation, index, options.tell)
    found = {
        folder: _apart(matched(folder, index), [*held_back, *others], options.tell) for folder in pictures
    }
    examples = [example for folder in found for example in found[folder]]
    return train(
        Plan(
            kind="distil",
            out=out,
            recipe=recipe,
            config=replace(architecture, num_classes=master.classes),
            start=start,
            tensors=read_tensors(start.path, start.config) if start else None,
            names=names,
            training=examples,
            weights=example_weights(examples, folder_weights),
            validation=held_back,
            data={
                "folders": [str(folder) for folder in pictures],
                "folder_weights": {str(folder): weight for folder, weight in folder_weights.items()},
                "validation": [str(folder) for folder in validation],
                "classes": len(names),
                "labelled": sum(example.label >= 0 for example in examples),
            },
            teacher=master,
        ),
        options,
    )


def _refuse_output_among_pictures(out: Path, cache: Path | None, folders: Sequence[Path]) -> None:
    """Refuse to write where the next look for pictures would find it.

    Raises:
        OutputError: the output or the cache lies within one of the folders.
    """
    for place in (out, *([cache] if cache else [])):
        for folder in folders:
            if place.resolve().is_relative_to(folder.resolve()):
                raise OutputError(
                    f"{path_text(place)}: lies among the images of {path_text(folder)}; choose a folder "
                    "beside them"
                )


def _validation(
    folders: Sequence[Path], index: Mapping[str, int], tell: Tell
) -> tuple[list[Example], list[Example]]:
    """The pictures to validate with, and the others that lie beside them.

    Raises:
        DatasetError: there is no such folder, or none of its folders names a class.
    """
    known, others = [], []
    for folder in folders:
        examples = matched(folder, index)
        with_label = [example for example in examples if example.label >= 0]
        if not with_label:
            raise DatasetError(
                f"{path_text(folder)}: none of its folders is named as a class of the training is"
            )
        if len(with_label) < len(examples):
            tell(f"{path_text(folder)}: {len(examples) - len(with_label)} pictures of other classes left out")
        known += with_label
        others += [example for example in examples if example.label < 0]
    return known, others


def _apart(training: Sequence[Example], validation: Sequence[Example], tell: Tell) -> tuple[Example, ...]:
    """The pictures to train on without those of the validation."""
    kept_back = {example.path.resolve() for example in validation}
    apart = tuple(example for example in training if example.path.resolve() not in kept_back)
    if len(apart) < len(training):
        tell(f"{len(training) - len(apart)} pictures belong to the validation and are not trained on")
    return apart


def _settled(recipe: TrainingConfig, config: CaiTConfig) -> TrainingConfig:
    """The recipe with every resolution named; all of them have to be whole patches."""
    settled = recipe.settled(config.image_size)
    for size in settled.sizes:
        if size % config.patch_size:
            raise SelectionError(
                f"a resolution of {size} pixels is no multiple of the patches of {config.patch_size}; choose "
                f"{size - size % config.patch_size or config.patch_size}"
            )
    return settled


def _new_head(config: CaiTConfig, seed: int) -> dict[str, np.ndarray]:
    """A classifier that knows nothing yet: timm's `trunc_normal_(std=.02)`, no bias."""
    initializer = keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)
    kernel = keras.ops.convert_to_numpy(initializer((config.num_classes, config.projection_dim)))
    return {"head.weight": np.asarray(kernel), "head.bias": np.zeros(config.num_classes, np.float32)}


def _readable(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Names of classes from those of their folders: WordNet ids of ImageNet in words."""
    words = dict(zip(imagenet_synsets(), imagenet_names(), strict=True))
    if all(folder in words for folder in folders):
        return tuple(words[folder] for folder in folders)
    return folders
