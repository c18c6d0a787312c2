"""Names of the classes.

The ImageNet-1k names are the first two WordNet lemmas of each class in timm's order
(`imagenet_synsets.txt` and `imagenet_synset_to_lemma.txt` of timm 1.0.31, Apache-2.0). The two cranes,
which WordNet calls the same, are told apart by hand.
"""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cait_viz._resources import IMAGENET_LABELS, IMAGENET_SYNSETS
from cait_viz._text import one_line
from cait_viz.errors import CheckpointError

IMAGENET_CLASSES = 1000

# ImageNet-21k's names fill 1.5 MB; what is larger is another kind of file.
_MAX_BYTES = 10_000_000


def class_names(num_classes: int, labels_file: Path | str | None = None) -> tuple[str, ...]:
    """Names of a model's classes, in the order of its head.

    Args:
        num_classes: how many there are.
        labels_file: UTF-8 text with one name a line. Without it: ImageNet-1k's names where there are
            1000 classes, else "class 0", "class 1", ….

    Raises:
        CheckpointError: the file cannot be read, is no such text, or names another number of classes.
    """
    if labels_file is not None:
        return _named_in(Path(labels_file).expanduser(), num_classes)
    if num_classes == IMAGENET_CLASSES:
        return imagenet_names()
    return tuple(f"class {index}" for index in range(num_classes))


@lru_cache(maxsize=1)
def imagenet_names() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1k."""
    return _named_in(IMAGENET_LABELS, IMAGENET_CLASSES)


@lru_cache(maxsize=1)
def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k's classes ("n01440764"), in the same order."""
    return tuple(IMAGENET_SYNSETS.read_text(encoding="ascii").split())


def class_index(names: Sequence[str]) -> dict[str, int]:
    """Index of each class by its name and, where that is one of ImageNet-1k's, by its WordNet id."""
    index = {name: label for label, name in enumerate(names)}
    ids = zip(imagenet_synsets(), imagenet_names(), strict=True)
    return {synset: index[name] for synset, name in ids if name in index} | index


def _named_in(path: Path, num_classes: int) -> tuple[str, ...]:
    file = one_line(path.name or str(path), 100)
    names = [name.strip() for name in _lines(path, file)]
    while names and not names[-1]:
        names.pop()
    for number, name in enumerate(names, start=1):
        if not name:
            raise CheckpointError(
                f"{file}: line {number} is empty; give each class a name on a line of its own"
            )
        if any(unicodedata.category(char) == "Cc" for char in name):
            raise CheckpointError(
                f"{file}: line {number} holds control characters; save the names as plain text"
            )
    if len(names) != num_classes:
        raise CheckpointError(
            f"{file}: names {len(names)} classes and the model has {num_classes}; give one name a line, "
            "in the order of the model's classes"
        )
    return tuple(names)


def _lines(path: Path, file: str) -> list[str]:
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or one_line(str(error))
        raise CheckpointError(f"{file}: the labels cannot be read ({reason}); check the path") from None
    if len(content) > _MAX_BYTES:
        raise CheckpointError(
            f"{file}: is larger than {_MAX_BYTES // 10**6} MB and no list of names; give a text with one "
            "name a line"
        )
    try:
        # Not str.splitlines: it also parts a name at rare characters such as U+2028.
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    except UnicodeDecodeError:
        raise CheckpointError(f"{file}: is not UTF-8 text; save the names as UTF-8, one a line") from None
