"""Image folders to train on: which images they hold, of which classes, and how they are split. No Keras."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cait_viz._checks import check_number
from cait_viz._text import counted, listed, one_line, path_text
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
# What the parts of a split are called, in order of preference.
_TRAINING_WORDS = ("train", "training", "trainval", "tr")
_VALIDATION_WORDS = (
    *("val", "valid", "validate", "validation", "dev", "eval", "evaluation"),
    *("test", "testing", "holdout", "va", "te", "ts"),
)


class Split(NamedTuple):
    """The parts of a folder of images.

    Attributes:
        training: the folder with the class folders to train on.
        validation: the one to validate with, if there is one.
        others: the folders beside them, which belong to neither.
    """

    training: Path
    validation: Path | None
    others: tuple[Path, ...]


def find_classes(
    folder: Path, print_line: PrintLine, without: Sequence[Path] = ()
) -> tuple[list[Example], tuple[str, ...]]:
    """The images of a folder with a folder per class, but for those `without`; and the names of the classes.

    Files that are not images, images beside the class folders and classes without images are skipped, and
    named. A DatasetError if there are fewer than two classes, or one that cannot be a label.
    """
    classes = {
        name: [path for path in files if is_image(path, print_line)]
        for name, files in class_folders(folder, without).items()
    }
    report_loose_images(folder, print_line)
    empty = [name for name, files in classes.items() if not files]
    if empty:
        print_line(f"{path_text(folder)}: no images in {listed(empty)}; skipped")
    names = tuple(name for name in classes if name not in empty)
    _report_folders_alike(folder, names, print_line)
    for name in names:
        if not name.isprintable() or name != name.strip():
            raise DatasetError(
                f"{path_text(folder)}: the folder {name!r} cannot be the name of a class; rename it without "
                "unprintable characters or spaces at its ends"
            )
    if len(names) < 2:
        raise DatasetError(
            f"{path_text(folder)}: holds {counted(len(names), 'class', 'classes')} with images; "
            "training needs at least two, each in a folder of its own"
        )
    return [Example(path, label) for label, name in enumerate(names) for path in classes[name]], names


def _report_folders_alike(folder: Path, names: Sequence[str], print_line: PrintLine) -> None:
    """Name the folders that all classes have within: they may be the classes, or the parts of a split."""
    within = {frozenset(path.name for path in subfolders(folder / name)) for name in names}
    alike = sorted(within.pop()) if len(within) == 1 else []
    if len(alike) > 1 and len(names) > 1:
        print_line(
            f"{path_text(folder)}: each of its folders is a class, with all that is in {listed(alike)}; if "
            "those are the classes, or one is not to be trained on, arrange the folders anew"
        )


def find_split(folder: Path) -> Split | None:
    """The parts of a folder such as one with train/ and val/, or with the classes to train on and val/.

    A part has a word such as "train" or "test" in its name, as "training_set" and "seg_test" do. That alone
    makes no split, as classes may be called so: at least half of the class folders to validate with need a
    namesake among those to train on, in upper or lower case; or all of the folder's folders are named as
    parts, and one of those to train on holds classes. A DatasetError if there is no such folder.
    """
    within = subfolders(folder)
    to_train = _named(within, _TRAINING_WORDS)
    to_validate = [part for part in _named(within, _VALIDATION_WORDS) if part not in to_train]
    classes = {part: _folded(subfolders(_classes_folder(part))) for part in (*to_train, *to_validate)}
    classes[folder] = _folded(part for part in within if part not in to_validate)
    pairs: list[tuple[Path, Path | None]] = [
        (one, other)
        for one, other in product([*to_train, folder], to_validate)
        if 2 * len(classes[one] & classes[other]) >= max(1, len(classes[other]))
    ]
    if not pairs and len(to_train) + len(to_validate) == len(within):
        pairs = [(part, None) for part in to_train if len(classes[part]) > 1]
    if not pairs:
        return None
    training, validation = pairs[0]
    if training == folder:
        return Split(folder, validation, tuple(part for part in to_validate if part != validation))
    others = tuple(part for part in within if part not in (training, validation))
    return Split(_classes_folder(training), validation and _classes_folder(validation), others)


def _folded(folders: Iterable[Path]) -> set[str]:
    return {folder.name.casefold() for folder in folders}


def _named(folders: Sequence[Path], words: Sequence[str]) -> list[Path]:
    """The folders with one of the words in their names, in the order of these, plain names first."""

    def rank(folder: Path) -> int:
        parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", folder.name)
        found = {re.sub("(set|data|images)$", "", part.lower()) for part in parts}
        return next((place for place, word in enumerate(words) if word in found), len(words))

    named = [folder for folder in folders if rank(folder) < len(words)]
    return sorted(named, key=lambda folder: (rank(folder), len(folder.name)))


def _classes_folder(part: Path) -> Path:
    """The folder in a part of a split that holds the classes; in seg_train/ perhaps seg_train/seg_train/."""
    within = subfolders(part)
    return within[0] if len(within) == 1 and subfolders(within[0]) else part


def find_images(folder: Path, index: Mapping[str, int], without: Sequence[Path] = ()) -> list[Example]:
    """Every file below a folder, labeled by the innermost of its folders that is named after a class.

    Those in the folders `without` are left out. The folder's own name counts, those above it do not. Upper
    and lower case make no difference where no class is named exactly so. A DatasetError if the folder does
    not exist or is empty.
    """
    files = [path for path in files_below(folder) if not any(map(path.is_relative_to, without))]
    if not files:
        raise DatasetError(f"{path_text(folder)}: holds no images; name a folder that does")
    known = {name.casefold(): label for name, label in index.items()} | dict(index)

    @cache
    def label(parent: Path) -> int:
        names = (*reversed(parent.relative_to(folder).parts), folder.resolve().name)
        labels = (known.get(name, known.get(name.casefold())) for name in names)
        return next((label for label in labels if label is not None), UNKNOWN)

    return [Example(path, label(path.parent)) for path in files]


def example_weights(examples: Sequence[Example], folder_weights: Mapping[Path, float]) -> NDArray[np.float64]:
    """How often an epoch shows each image on average: the weight of its innermost folder with one, else 1.

    A SelectionError if a weight is below 0 or not finite, a DatasetError if its folder decides for no image.
    """
    weights = {folder.resolve(): weight for folder, weight in folder_weights.items()}

    @cache
    def innermost(parent: Path) -> Path | None:
        real = parent.resolve()
        return next((folder for folder in (real, *real.parents) if folder in weights), None)

    folders = [innermost(example.path.parent) for example in examples]
    used = set(folders)
    for folder, weight in folder_weights.items():
        check_number(f"{path_text(folder)}: a weight", weight, "at least 0")
        if folder.resolve() not in used:
            raise DatasetError(f"{path_text(folder)}: has a weight, but none of the images lies in it")
    return np.array([1.0 if folder is None else weights[folder] for folder in folders])


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split images for training and validation, class by class; the same seed gives the same split.

    The share of each class, in [0, 1), is validated with. Every class keeps an image to train on; a
    class of one image has none to validate with.
    """
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
        print_line(f"  {one_line(names[label])}: {_numbers(counts[label], held_back[label])}")
    if len(present) > _CLASSES_LISTED:
        print_line(f"  … and {counted(len(present) - _CLASSES_LISTED, 'more class', 'more classes')}")
    unlabeled = f"; {counted(counts[UNKNOWN], 'has', 'have')} no label" if counts[UNKNOWN] else ""
    classes = counted(len(names), "class", "classes")
    print_line(f"{classes}: {_numbers(len(training), len(validation))}{unlabeled}")


def _numbers(training: int, validation: int) -> str:
    return f"{counted(training, 'image')} to train on, {validation} to validate with"


def report_loose_images(folder: Path, print_line: PrintLine) -> None:
    """Name the images that lie beside the class folders, where nothing says what they show."""
    loose = [path.name for path in loose_files(folder) if is_image(path, lambda _: None)]
    if loose:
        print_line(f"{path_text(folder)}: {listed(loose)} in no class folder; skipped")


def is_image(path: Path, print_line: PrintLine) -> bool:
    """Whether a file begins as an image; if not, that is printed."""
    try:
        with path.open("rb") as file:
            fault = "" if image_format(file.read(_BEGINNING)) else "is not an image of a known format"
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error})"
    if fault:
        print_line(f"{folder_prefix(path)}{one_line(path.name)}: {fault}; skipped")
    return not fault
