"""From folders of images to your own CaiT: fine-tuned on labels, or distilled from a teacher.

The result is what the rest of the program takes: a safetensors file with timm's tensor names and a text file
with the names of the classes; and a card, in JSON, that says how they were made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cait_viz._checks import check_number
from cait_viz._keras import keras
from cait_viz._text import counted, listed, one_line, path_text
from cait_viz.errors import CheckpointError, DatasetError, OutputError, SelectionError
from cait_viz.images.folders import UNKNOWN, Example
from cait_viz.model.config import CaiTConfig
from cait_viz.training import datasets
from cait_viz.training.config import DISTILLATION, FINETUNING, VALIDATION_SHARE, RunOptions, TrainingConfig
from cait_viz.training.datasets import PrintLine, is_image
from cait_viz.training.job import Job
from cait_viz.training.run import Outcome, train
from cait_viz.training.teacher import Teacher
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.labels import class_index, class_names, imagenet_names, imagenet_synsets
from cait_viz.weights.registry import BUNDLED, get_variant
from cait_viz.weights.resolve import Checkpoint, resolve

__all__ = ["Outcome", "distil", "finetune"]


def finetune(
    images: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    validation: str | Path | float | None = None,
    config: TrainingConfig = FINETUNING,
    options: RunOptions = RunOptions(),
) -> Outcome:
    """Teach a pretrained CaiT the classes of your images.

    The classifier is new, unless its classes are those of the images; the rest starts from the weights.

    Args:
        images: a folder with a folder of images for each class; or one with a split, such as train/ and val/
            or training_set/ and test_set/, see `datasets.find_split`.
        out: the folder to write to.
        model: name of a variant to start from; the bundled one by default.
        weights: a checkpoint to start from, in place of the variant's own, as for `cait_viz.load_engine`.
        labels: a file with the names of its classes, as for `cait_viz.load_engine`.
        validation: another folder of class folders to validate with, or the share of each class that is held
            back for it, 0 for none; by default the split's own part, or where there is none a share of 0.1.
        config: how to train.
        options: what does not decide on the weights.

    Raises:
        DatasetError, CheckpointError: the images, the weights or the labels cannot be used.
        SelectionError: a share, a weight or a resolution is out of its range.
        TrainingError: the training diverged, or cannot be resumed.
        OutputError: the output cannot be written.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    images, out = Path(images), Path(out)
    named = [Path(validation)] if isinstance(validation, str | Path) else []
    share = VALIDATION_SHARE if validation is None or isinstance(validation, str | Path) else validation
    check_number("the share of images to validate with", share, "at least 0 and below 1")
    _refuse_output_among_images(out, options.cache, [images, *named])
    skipped, note = _noted(options)
    folder, elsewhere, others = _parts(images, named, lambda _: validation is None, options.tell, note)
    if folder != images:
        datasets.report_loose_images(images, note)
    found, folders = datasets.find_classes(folder, note, [*elsewhere, *others])
    if elsewhere:
        index = {name: label for label, name in enumerate(folders)}
        training, held_back = _hold_back(found, elsewhere, index, note)
    else:
        training, held_back = datasets.split(found, share, config.seed)
    synsets = dict(zip(imagenet_synsets(), imagenet_names(), strict=True))
    names = tuple(synsets[name] for name in folders) if set(folders) <= set(synsets) else folders
    start = _start(model, weights, options)
    config = _resolved(config, start.config)
    architecture = replace(start.config, num_classes=len(names), pre_logits=False)
    tensors = read_tensors(start)
    if start.config.pre_logits or class_names(start.config.num_classes, labels) != names:
        tensors |= _new_head(architecture, config.seed)
        options.tell(f"a new classifier of {len(names)} classes; the rest starts from {start.name}")
    datasets.report_classes(names, training, held_back, options.tell)
    return train(
        Job(
            kind="finetune",
            out=out,
            config=config,
            options=options,
            architecture=architecture,
            start=start,
            tensors=tensors,
            names=names,
            training=training,
            weights=np.ones(len(training)),
            validation=held_back,
            skipped=skipped,
            data={
                "folders": [str(folder)],
                "validation": str(elsewhere[0] if elsewhere else share),
                "classes": len(names),
            },
        )
    )


def distil(
    images: Sequence[str | Path],
    out: str | Path,
    *,
    teacher: str | Path,
    folder_weights: Mapping[str | Path, float] = MappingProxyType({}),
    teacher_size: int | None = None,
    model: str | None = None,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    validation: Sequence[str | Path] = (),
    config: TrainingConfig = DISTILLATION,
    options: RunOptions = RunOptions(),
) -> Outcome:
    """Train a CaiT to give a teacher's outputs for images, which need no labels.

    Follows "Knowledge distillation: a good teacher is patient and consistent" (Beyer et al. 2022): both see
    the very same views, mixup included, for as many epochs as one has time for.

    Raises what `finetune` does, and a TeacherError if the teacher cannot be used.

    Args:
        images: folders, searched to any depth. An image in a folder that is named after a class, or its
            WordNet id, has a label. Of a folder with a split, the part to train on is used, and the other one
            is validated with if it has labels and `validation` is empty.
        out: the folder to write to.
        teacher: an ONNX file, see `Teacher`.
        folder_weights: how often an epoch shows each image of a folder, on average: 2 for twice, 0.1 for a
            tenth of them. The innermost folder with a weight decides; without one it is once.
        teacher_size: side of the teacher's input in pixels; by default what the file fixes, else 224.
        model: name of the variant whose architecture the student has; the bundled one by default.
        weights: a checkpoint with as many classes as the teacher, as for `cait_viz.load_engine`; random
            weights by default.
        labels: a file with the names of the teacher's classes, as for `cait_viz.load_engine`.
        validation: folders as `images`, not trained on; their images with a label are validated with.
        config: how to train.
        options: what does not decide on the weights.
    """
    folders, out, held_folders = [*map(Path, images)], Path(out), [*map(Path, validation)]
    weight_of = {Path(folder): weight for folder, weight in folder_weights.items()}
    if len(set(folders)) < len(folders):
        raise DatasetError("a folder is named twice; give it a weight of 2 to show its images twice as often")
    _refuse_output_among_images(out, options.cache, [*folders, *held_folders])
    start = None if weights is None else _start(model, weights, options)
    architecture = start.config if start else (BUNDLED if model is None else get_variant(model)).config
    config = _resolved(config, architecture)
    network = Teacher(Path(teacher), teacher_size, config.precision, options.threads)
    names = class_names(network.classes, labels)
    if start and (start.config.pre_logits or start.config.num_classes != network.classes):
        raise CheckpointError(
            f"{one_line(start.origin.name)}: has {start.config.num_classes} classes and the teacher "
            f"{network.classes}; start from weights with the teacher's classes, or from none"
        )
    index = class_index(names)

    def labeled(folder: Path) -> bool:
        return any(example.label != UNKNOWN for example in datasets.find_images(folder, index))

    skipped, note = _noted(options)
    parts = [_parts(folder, held_folders, labeled, options.tell, note) for folder in folders]
    folders = [folder for folder, _, _ in parts]
    held_folders = list(dict.fromkeys(path for _, own, _ in parts for path in own))
    found = [
        example
        for folder, _, others in parts
        for example in datasets.find_images(folder, index, without=others)
    ]
    training, held_back = _hold_back(found, held_folders, index, note)
    shares = datasets.example_weights(training, weight_of)
    datasets.report_classes(names, training, held_back, options.tell)
    return train(
        Job(
            kind="distil",
            out=out,
            config=config,
            options=options,
            architecture=replace(architecture, num_classes=network.classes),
            start=start,
            tensors=read_tensors(start) if start else None,
            names=names,
            training=training,
            weights=shares,
            validation=held_back,
            skipped=skipped,
            teacher=network,
            data={
                "folders": [str(folder) for folder in folders],
                "folder_weights": {str(folder): weight for folder, weight in weight_of.items()},
                "validation": [str(folder) for folder in held_folders],
                "classes": len(names),
                "labeled": sum(example.label >= 0 for example in training),
            },
        )
    )


def _refuse_output_among_images(out: Path, cache: Path | None, folders: Sequence[Path]) -> None:
    """Refuse to write where the next training would take the output for images."""
    for place, folder in product([out, *([cache] if cache else [])], folders):
        if place.resolve().is_relative_to(folder.resolve()):
            raise OutputError(
                f"{path_text(place)}: lies among the images of {path_text(folder)}; choose a folder outside"
            )


def _noted(options: RunOptions) -> tuple[list[str], PrintLine]:
    """A list for the card, and a function that prints a sentence and adds it to the list."""
    sentences: list[str] = []

    def note(sentence: str) -> None:
        sentences.append(sentence)
        options.tell(sentence)

    return sentences, note


def _parts(
    folder: Path, named: Sequence[Path], wanted: Callable[[Path], bool], tell: PrintLine, note: PrintLine
) -> tuple[Path, Sequence[Path], Sequence[Path]]:
    """The folder to train on, those to validate with, and those in it that are not trained on.

    Of a split these are its parts, unless folders to validate with are `named`. `wanted` says whether to
    validate with the split's own.
    """
    split = datasets.find_split(folder)
    if split is None:
        return folder, named, []
    own = [split.validation] if split.validation else []
    validation = named or [part for part in own if wanted(part)]
    apart = [*own, *split.others]

    def text(path: Path) -> str:
        return path_text(path.relative_to(folder) if path.is_relative_to(folder) else path) + "/"

    trained = "its class folders" if split.training == folder else text(split.training)
    used = [f"trains on {trained}", *(f"validates with {text(path)}" for path in validation)]
    tell(f"{path_text(folder)}: holds a split; {' and '.join(used)}")
    places = [path.resolve() for path in validation]
    if skipped := [text(part) for part in apart if not any(map(part.resolve().is_relative_to, places))]:
        note(f"{path_text(folder)}: {listed(skipped)} neither trained on nor validated with; skipped")
    return split.training, validation, apart


def _hold_back(
    found: list[Example], validation: Sequence[Path], index: Mapping[str, int], note: PrintLine
) -> tuple[list[Example], list[Example]]:
    """The images found that lie in no folder to validate with, and those in one that have a class."""
    labeled: list[Example] = []
    inside: list[Example] = []
    for folder in validation:
        examples = datasets.find_images(folder, index)
        inside += examples
        if all(example.label < 0 for example in examples):
            raise DatasetError(f"{path_text(folder)}: none of its folders is named after a class to train on")
        labeled += [example for example in examples if example.label >= 0 and is_image(example.path, note)]
        unlabeled = (example.path for example in examples if example.label < 0)
        unknown = [str(path.relative_to(folder)) for path in unlabeled if is_image(path, lambda _: None)]
        if unknown:
            images = counted(len(unknown), "image")
            note(f"{path_text(folder)}: {images} of no known class ({listed(unknown)}); skipped")
    training = datasets.exclude(found, inside)
    if left_out := len(found) - len(training):
        belong = ("image belongs to the validation and is", "images belong to the validation and are")
        note(f"{counted(left_out, *belong)} not trained on")
    return training, labeled


def _start(model: str | None, weights: str | Path | None, options: RunOptions) -> Checkpoint:
    """The weights to start from; how their file was understood is told."""
    start = resolve(model, weights)
    if start.remark:
        options.tell(start.remark)
    return start


def _resolved(config: TrainingConfig, architecture: CaiTConfig) -> TrainingConfig:
    """The config with every resolution given; each has to be a multiple of the patch size."""
    resolved = config.resolved(architecture.image_shape[0])
    patch = architecture.patch_size
    for size in resolved.sizes:
        if size % patch:
            raise SelectionError(
                f"a resolution of {size} pixels is not a multiple of the patch size of {patch}; choose "
                f"{max(size - size % patch, patch)}"
            )
    return resolved


def _new_head(architecture: CaiTConfig, seed: int) -> dict[str, np.ndarray]:
    """A classifier to start with: timm's `trunc_normal_(std=.02)`, no bias."""
    initializer = keras.initializers.TruncatedNormal(stddev=0.02, seed=seed)
    kernel = keras.ops.convert_to_numpy(
        initializer((architecture.num_classes, architecture.projection_dim), dtype="float32")
    )
    return {"head.weight": np.asarray(kernel), "head.bias": np.zeros(architecture.num_classes, np.float32)}
