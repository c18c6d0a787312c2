"""Pictures for the programs of this folder: found in class folders, chosen evenly, read if they can be."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from cait_viz._text import listed, one_line
from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images.preprocess import resize_and_crop
from cait_viz.images.read import read_image
from cait_viz.training.datasets import beside, class_folders

Item = TypeVar("Item")


class Example(NamedTuple):
    """A picture's file, and the index of its class among the model's."""

    path: Path
    label: int


def examples(folder: Path, index: Mapping[str, int]) -> list[Example]:
    """Every file of the class folders, with the index of its class, in the order of their names.

    Raises:
        CaitVizError: no folder of class folders, one that is called after no class, or nothing in any.
    """
    files = class_folders(folder)
    unknown = [name for name in files if name not in index]
    if unknown:
        raise CaitVizError(
            f"{_shown(folder)}: no class of the model is called {listed(unknown[:3])}"
            f"{' …' if len(unknown) > 3 else ''}; name a folder whose folders are called after the model's "
            "classes (ImageNet's: their WordNet ids), or name the classes with --labels"
        )
    found = [Example(path, index[name]) for name, paths in files.items() for path in paths]
    if not found:
        raise CaitVizError(f"{_shown(folder)}: its class folders are all empty; put pictures into them")
    return found


def spread(groups: Iterable[Sequence[Item]], seed: int) -> list[Item]:
    """All members of the groups, in an order of which every beginning is spread evenly over the groups.

    Args:
        groups: the pictures of each class.
        seed: decides on the order within a group and among the groups; the same one gives the same order.
    """
    generator = np.random.default_rng(seed)
    shuffled = [[group[i] for i in generator.permutation(len(group))] for group in groups]
    among = [shuffled[i] for i in generator.permutation(len(shuffled))]
    rounds = range(max(map(len, among), default=0))
    return [group[place] for place in rounds for group in among if place < len(group)]


def readable(found: Iterable[Example], side: int) -> Iterator[tuple[Example, np.ndarray]]:
    """Each picture with what the network sees of it, (side, side, 3) uint8.

    A file that is no picture is named on standard error and passed over.
    """
    for example in found:
        try:
            picture = read_image(example.path)
        except ImageError as error:
            pass_over(example.path, error)
            continue
        yield example, np.asarray(resize_and_crop(picture, side))


def pass_over(path: Path, error: ImageError) -> None:
    """Name a file that is no picture on standard error, above the progress bar if there is one."""
    tqdm.write(f"{beside(path)}{error}; passed over", file=sys.stderr)


def progress(total: int, what: str) -> Any:
    """A bar with pictures a second and the time left on standard error, if that is a terminal."""
    return tqdm(total=total, desc=what, unit=" pictures", file=sys.stderr, disable=None, leave=False)


def _shown(path: Path) -> str:
    return one_line(str(path), 200)
