"""Labeled folders of images, one folder per class: their files, and the images in them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from cait_viz._text import listed, one_line, path_text
from cait_viz.errors import DatasetError, ImageError
from cait_viz.images.read import load_image

UNKNOWN = -1
_NAMED = 3  # unknown folders in an error message

Item = TypeVar("Item")


@dataclass(frozen=True)
class Example:
    """An image file and the index of its class, `UNKNOWN` if it has none."""

    path: Path
    label: int


def class_folders(folder: Path, without: Sequence[Path] = ()) -> dict[str, list[Path]]:
    """The files of each class, at any depth, by the name of the class's folder; both sorted, none hidden.

    Args:
        folder: holds one folder per class.
        without: folders in it that are not classes.

    Raises:
        DatasetError: the folder does not exist, cannot be read or contains no folders.
    """
    apart = {other.resolve() for other in without}
    classes = [path for path in subfolders(folder) if not apart or path.resolve() not in apart]
    if not classes:
        raise DatasetError(
            f"{path_text(folder)}: holds no folders; put the images of each class into a folder of their own"
        )
    return {path.name: files_below(path) for path in classes}


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; hidden ones are ignored."""
    return [Path(entry.path) for entry in _visible(folder) if entry.is_dir()]


def loose_files(folder: Path) -> list[Path]:
    """The files that lie beside the class folders and so belong to no class; hidden ones are ignored."""
    return [Path(entry.path) for entry in _visible(folder) if entry.is_file()]


def labeled_files(folder: Path, index: Mapping[str, int], others: int = UNKNOWN) -> list[Example]:
    """All files of the class folders, with the labels of their classes.

    Args:
        folder: holds one folder per class.
        index: the label of each class by its name.
        others: the label of folders that are not named after a class, provided that at least one folder
            is; by default they are an error.

    Raises:
        DatasetError: there are no class folders, no files in them, or a folder has an unknown name.
    """
    files = class_folders(folder)
    unknown = [name for name in files if name not in index]
    if unknown and (others == UNKNOWN or len(unknown) == len(files)):
        raise DatasetError(
            f"{path_text(folder)}: the model has no class named {listed(unknown[:_NAMED])}"
            f"{' …' if len(unknown) > _NAMED else ''}; give a folder whose folders are named after the "
            "model's classes (ImageNet's: their WordNet ids), or name the classes with --labels"
        )
    examples = [Example(path, index.get(name, others)) for name, paths in files.items() for path in paths]
    if not examples:
        raise DatasetError(f"{path_text(folder)}: its class folders are all empty; put images into them")
    return examples


def spread(groups: Iterable[Sequence[Item]], seed: int) -> list[Item]:
    """All members of the groups, ordered so that every beginning of the list is spread evenly over them.

    The seed decides the order within a group and among the groups.
    """
    generator = np.random.default_rng(seed)
    shuffled = [[group[i] for i in generator.permutation(len(group))] for group in groups]
    among = [shuffled[i] for i in generator.permutation(len(shuffled))]
    rounds = range(max(map(len, among), default=0))
    return [group[place] for place in rounds for group in among if place < len(group)]


def read_images(
    examples: Sequence[Example], tell: Callable[[str], object]
) -> Iterator[tuple[Image.Image, Example]]:
    """Each image, upright, mode "RGB", and what it is an example of.

    Files that cannot be read as images are skipped. `tell` is called with a sentence on each, and on what an
    image lacks or was assumed of its pixels.

    Raises:
        DatasetError: none of the files can be read.
    """
    count = 0
    for example in examples:
        try:
            loaded = load_image(example.path)
        except ImageError as error:
            tell(f"{folder_prefix(example.path)}{error}; skipped")
            continue
        if loaded.remark:
            tell(f"{folder_prefix(example.path)}{loaded.remark}")
        count += 1
        yield loaded.image, example
    if not count:
        raise DatasetError(
            f"{path_text(examples[0].path.parent)}: none of the {len(examples)} files here and in the other "
            "class folders can be read as an image"
        )


def files_below(folder: Path) -> list[Path]:
    """The files in a folder at any depth, sorted; hidden ones are ignored. Raises as `class_folders` does."""
    return sorted(walk(folder))


def folder_prefix(path: Path) -> str:
    """The name of a file's folder and a slash: files of the same name may lie in several folders."""
    return f"{one_line(path.parent.name, 80)}/" if path.parent.name else ""


def walk(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files that `files_below` gives, one after the other, sorted folder by folder.

    Links are followed, except back to one of the folders `above`. Raises as `class_folders` does.
    """
    real = folder.resolve()
    if real in above:
        return
    for entry in _visible(folder):
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself: it cannot be read, which whoever reads it tells
            is_folder, is_file = False, True
        if is_folder:
            yield from walk(Path(entry.path), above | {real})
        elif is_file:
            yield Path(entry.path)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder and is not hidden; whether an entry is a folder is known without a look at it."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith(".")), key=attrgetter("name")
            )
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetError(f"{path_text(folder)}: there is no such folder; give a folder of images") from None
    except OSError as error:
        raise DatasetError(f"{path_text(folder)}: cannot be read ({error.strerror or error})") from None
