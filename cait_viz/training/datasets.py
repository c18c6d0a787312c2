"""Image folders to train on: which images they hold, of which classes, and how they are split. No Keras."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cait_viz._text import listed, one_line, path_text
from cait_viz.errors import DatasetError
from cait_viz.images.folders import (
    UNKNOWN,
    Example,
    class_folders,
    files_below,
    folder_prefix,
    loose_files,
    subfolders,
)
from cait_viz.images.formats import image_format

PrintLine = Callable[[str], None]

# As much of a file as shows its format.
_BEGINNING = 4096
# Classes that are listed one by one before a training.
_CLASSES_LISTED = 20
# Usual names of the parts of a split, in order of preference.
_TRAINING_NAMES = ("train", "training")
_VALIDATION_NAMES = ("val", "valid", "validation", "dev", "eval", "test")


def find_classes(
    folder: Path, print_line: PrintLine, without: Sequence[Path] = ()
) -> tuple[list[Example], tuple[str, ...]]:
    """The images of a folder with a folder per class, but for those `without`; and the names of the classes.

    Files that are not images, images beside the class folders and classes without images are skipped, and
    named. A DatasetError if there are fewer than two classes, or one that cannot be a label.
    """
    classes = {
        name: [path for path in files if _is_image(path, print_line)]
        for name, files in class_folders(folder, without).items()
    }
    report_loose_images(folder, print_line)
    empty = [name for name, files in classes.items() if not files]
    if empty:
        print_line(f"{path_text(folder)}: no images in {listed(empty)}; skipped")
    names = tuple(name for name in classes if name not in empty)
    for name in names:
        if not name.isprintable() or name != name.strip():
            raise DatasetError(
                f"{path_text(folder)}: the folder {name!r} cannot be the name of a class; rename it without "
                "unprintable characters or spaces at its ends"
            )
    if len(names) < 2:
        raise DatasetError(
            f"{path_text(folder)}: holds {len(names)} class{'' if len(names) == 1 else 'es'} with images; "
            "training needs at least two, each in a folder of its own"
        )
    return [Example(path, label) for label, name in enumerate(names) for path in classes[name]], names


def find_split(folder: Path) -> tuple[Path, Path] | None:
    """The folders to train on and to validate with, of a folder such as one with train/ and val/.

    None unless most of the class folders to validate with have a namesake among those to train on: classes
    that happen to be called "train" and "test" are classes. A DatasetError if there is no such folder.
    """
    parts = {path.name.lower(): path for path in subfolders(folder)}
    classes = {
        name: {path.name for path in subfolders(parts[name])} if name in parts else set[str]()
        for name in (*_TRAINING_NAMES, *_VALIDATION_NAMES)
    }
    for one, other in product(_TRAINING_NAMES, _VALIDATION_NAMES):
        if 2 * len(classes[one] & classes[other]) > len(classes[other]):
            return parts[one], parts[other]
    return None


def find_images(folder: Path, index: Mapping[str, int]) -> list[Example]:
    """Every file below a folder, labeled by the innermost of its folders that is named after a class.

    The folder's own name counts, those above it do not. A DatasetError if it does not exist or is empty.
    """
    files = files_below(folder)
    if not files:
        raise DatasetError(f"{path_text(folder)}: holds no images; name a folder that does")

    @cache
    def label(parent: Path) -> int:
        names = (*reversed(parent.relative_to(folder).parts), folder.resolve().name)
        return next((index[name] for name in names if name in index), UNKNOWN)

    return [Example(path, label(path.parent)) for path in files]


def example_weights(examples: Sequence[Example], folder_weights: Mapping[Path, float]) -> NDArray[np.float64]:
    """How often an epoch shows each image on average: the weight of its innermost folder with one, else 1.

    A DatasetError if a weight is below 0 or not finite, or its folder decides for none of the images.
    """
    weights = {folder.resolve(): weight for folder, weight in folder_weights.items()}

    @cache
    def innermost(parent: Path) -> Path | None:
        real = parent.resolve()
        return next((folder for folder in (real, *real.parents) if folder in weights), None)

    folders = [innermost(example.path.parent) for example in examples]
    used = set(folders)
    for folder, weight in folder_weights.items():
        if not 0 <= weight < math.inf:
            raise DatasetError(f"{path_text(folder)}: a weight must be at least 0 and finite, not {weight}")
        if folder.resolve() not in used:
            raise DatasetError(f"{path_text(folder)}: has a weight, but none of the images lies in it")
    return np.array([1.0 if folder is None else weights[folder] for folder in folders])


def check_share(share: float) -> None:
    """Refuse a share of images to validate with that is not in [0, 1), with a DatasetError."""
    if not 0 <= share < 1:
        raise DatasetError(f"the share of images to validate with must be from 0 to below 1, not {share}")


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split images for training and validation, class by class; the same seed gives the same split.

    The share of each class is validated with, see `check_share`. Every class keeps an image to train on; a
    class of one image has none to validate with.
    """
    check_share(share)
    generator = np.random.default_rng(seed)
    held_back: set[int] = set()
    labels = np.array([example.label for example in examples])
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(share * len(members)), int(share > 0)), len(members) - 1)
        held_back.update(members[:count].tolist())
    training = [example for index, example in enumerate(examples) if index not in held_back]
    return training, [examples[index] for index in sorted(held_back)]


def exclude(examples: Sequence[Example], others: Sequence[Example]) -> list[Example]:
    """The examples without the files of the others, by whatever path or link these lead there."""
    folder = cache(Path.resolve)

    def real(path: Path) -> Path:
        return path.resolve() if path.is_symlink() else folder(path.parent) / path.name

    excluded = {real(example.path) for example in others}
    return [example for example in examples if not excluded or real(example.path) not in excluded]


def report_classes(
    names: Sequence[str], training: Sequence[Example], validation: Sequence[Example], print_line: PrintLine
) -> None:
    """Print how many images of each class there are to train on and to validate with, and of all."""
    counts, held_back = (Counter(example.label for example in part) for part in (training, validation))
    present = [label for label in range(len(names)) if counts[label] or held_back[label]]
    for label in present[:_CLASSES_LISTED]:
        print_line(f"  {one_line(names[label])}: {_counted(counts[label], held_back[label])}")
    if len(present) > _CLASSES_LISTED:
        print_line(f"  … and {len(present) - _CLASSES_LISTED} more classes")
    unlabeled = f"; {counts[UNKNOWN]} have no label" if counts[UNKNOWN] else ""
    print_line(f"{len(names)} classes: {_counted(len(training), len(validation))}{unlabeled}")


def _counted(training: int, validation: int) -> str:
    return f"{training} image{'' if training == 1 else 's'} to train on, {validation} to validate with"


def report_loose_images(folder: Path, print_line: PrintLine) -> None:
    """Name the images that lie beside the class folders, where nothing says what they show."""
    loose = [path.name for path in loose_files(folder) if _is_image(path, lambda _: None)]
    if loose:
        print_line(f"{path_text(folder)}: {listed(loose)} in no class folder; skipped")


def _is_image(path: Path, print_line: PrintLine) -> bool:
    """Whether a file begins as an image; if not, that is printed."""
    try:
        with path.open("rb") as file:
            fault = "" if image_format(file.read(_BEGINNING)) else "is not an image of a known format"
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error})"
    if fault:
        print_line(f"{folder_prefix(path)}{one_line(path.name)}: {fault}; skipped")
    return not fault
