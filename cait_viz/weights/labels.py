"""Names of the classes.

ImageNet-1k's are the first two WordNet lemmas of each class, as in timm 1.0.31 (Apache-2.0). The two cranes,
to which WordNet gives the same name, are renamed by hand.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cait_viz._resources import IMAGENET_KINDS, IMAGENET_LABELS, IMAGENET_SYNSETS
from cait_viz._text import file_text
from cait_viz.errors import CheckpointError

IMAGENET_CLASSES = 1000

# But not as a list of names whose first is "[background]".
_BEGINS_AS_JSON = re.compile(r"\s*(?:\{|\[(?![^\W\d][^\",\n]*\]\s*\n))")

# A file of names, or the names themselves.
Labels = Path | str | tuple[str, ...]


def class_names(num_classes: int, labels: Labels | None = None) -> tuple[str, ...]:
    """Names of a model's classes, in the order of its head.

    Args:
        num_classes: how many there are.
        labels: the names themselves, or a file: UTF-8 text with one name a line; or JSON: a list of names,
            `{"0": "cat"}`, or a config.json with one of them as `id2label` or `label_names`. Without:
            ImageNet-1k's 1000 names, or "class 0", ….

    Raises:
        CheckpointError: the file cannot be read, is of another kind, or names another number of classes.
    """
    if isinstance(labels, tuple):
        return labels
    if labels is not None:
        return _named_in(Path(labels).expanduser(), num_classes)
    if num_classes == IMAGENET_CLASSES:
        return imagenet_names()
    return tuple(f"class {index}" for index in range(num_classes))


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1000 names of ImageNet-1k."""
    return _named_in(IMAGENET_LABELS, IMAGENET_CLASSES)


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The WordNet ids of ImageNet-1k's classes ("n01440764"), in the same order."""
    return tuple(IMAGENET_SYNSETS.read_text(encoding="ascii").split())


def class_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """The kind of each of ImageNet-1k's classes in plain words ("dog", "cup, glass or drink").

    `scripts/make_kinds.py` makes them from WordNet's hypernyms.

    Args:
        names: the names of a model's classes.

    Returns:
        A kind for each class; nothing where the classes are not ImageNet-1k's.
    """
    return _imagenet_kinds() if tuple(names) == imagenet_names() else ()


@cache
def _imagenet_kinds() -> tuple[str, ...]:
    return tuple(IMAGENET_KINDS.read_text(encoding="utf-8").splitlines())


def class_index(names: Sequence[str]) -> dict[str, int]:
    """Index of each class by its name and, where that is one of ImageNet-1k's, by its WordNet id."""
    index = {name: label for label, name in enumerate(names)}
    ids = zip(imagenet_synsets(), imagenet_names(), strict=True)
    return {synset: index[name] for synset, name in ids if name in index} | index


def _named_in(path: Path, num_classes: int) -> tuple[str, ...]:
    file = file_text(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CheckpointError(
            f"{file}: the labels cannot be read ({error.strerror}); check the path"
        ) from None
    except UnicodeDecodeError:
        raise CheckpointError(f"{file}: is not UTF-8 text; save the names as UTF-8, one a line") from None
    if path.suffix.lower() == ".json" or _BEGINS_AS_JSON.match(text):
        names, place, first = _in_json(text, file), "class", 0
    else:  # not str.splitlines, which also splits a name at rare characters such as U+2028
        names, place, first = text.rstrip().split("\n") if text.strip() else [], "line", 1
    if len(names) != num_classes:
        raise CheckpointError(
            f"{file}: names {len(names)} classes and the model has {num_classes}; give each class "
            "one name, in the order of the model's classes"
        )
    names = [name.strip() for name in names]
    for number, name in enumerate(names, first):
        if not name:
            raise CheckpointError(f"{file}: {place} {number} is empty; give each class a name")
        if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):  # Cs: half a character
            raise CheckpointError(
                f"{file}: {place} {number} holds control characters; save the names as plain text"
            )
    return tuple(names)


def _in_json(text: str, file: str) -> list[str]:
    """The names in a list, by their numbers in an object, or in transformers' or timm's config.json."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: is not valid JSON ({error}); correct it, or give a text with one name a line"
        ) from None
    if isinstance(content, dict):
        content = content.get("id2label", content.get("label_names", content))
    numbered = dict(enumerate(content)) if isinstance(content, list) else content
    if not isinstance(numbered, dict) or not all(
        str(number).isdecimal() and isinstance(name, str) for number, name in numbered.items()
    ):
        raise CheckpointError(
            f'{file}: holds other JSON than names; give ["cat", "dog"], {{"0": "cat", "1": "dog"}}, or a '
            "config.json with id2label"
        )
    by_number = {str(number): name for number, name in numbered.items()}
    for number in range(len(by_number)):
        if str(number) not in by_number:
            raise CheckpointError(
                f"{file}: has {len(by_number)} names and none for class {number}; number the classes from 0 "
                "without gaps"
            )
    return [by_number[str(number)] for number in range(len(by_number))]
