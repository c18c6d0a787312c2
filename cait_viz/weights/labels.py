"""Names of the classes.

ImageNet-1k's are the first two WordNet lemmas of each class, as in timm 1.0.31 (Apache-2.0). The two cranes,
to which WordNet gives the same name, are renamed by hand.
"""

import ast
import json
import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from cait_viz._resources import IMAGENET_KINDS, IMAGENET_LABELS, IMAGENET_SYNSETS
from cait_viz._text import file_text, one_line
from cait_viz.errors import CheckpointError

IMAGENET_CLASSES = 1000

# A file of names, or the names themselves.
Labels = Path | str | tuple[str, ...]

# ImageNet-21k's names fill 1.5 MB; what is larger is another kind of file.
_MAX_BYTES = 10_000_000
_LINE_END = r"\r\n|\r|\n"
# How a line of text begins that is a name and no damaged JSON, such as "[unused]".
_BRACKETED_NAME = r"\s*[\[{][\w .-]+[\]}]"


def class_names(num_classes: int, labels: Labels | None = None) -> tuple[str, ...]:
    """Names of a model's classes, in the order of its head.

    Args:
        num_classes: how many there are.
        labels: the names themselves, or a file: UTF-8 text with one name a line; or JSON, JSON lines or a
            Python literal: a list of names, `{"0": "cat"}`, `{"cat": 0}`, Keras'
            `{"0": ["n02123045", "cat"]}`, or a config.json with one of them as `id2label` or `label2id`.
            Without: ImageNet-1k's 1000 names, or "class 0", ….

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
    names = _read(path, file)
    if len(names) != num_classes:
        raise CheckpointError(
            f"{file}: names {len(names)} classes and the model has {num_classes}; give each class "
            "one name, in the order of the model's classes"
        )
    for place, name in names.items():
        if not name:
            raise CheckpointError(f"{file}: {place} is empty; give each class a name")
        if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):  # Cs: half a character
            raise CheckpointError(f"{file}: {place} holds control characters; save the names as plain text")
    return tuple(names.values())


def _read(path: Path, file: str) -> dict[str, str]:
    """The name of each class, by what to call its line or entry."""
    text = _text(path, file)
    json_file = path.suffix.lower() in (".json", ".jsonl")
    if json_file or text.lstrip().startswith(("[", "{")):
        try:
            content = _parsed(text)
        except ValueError as error:
            if json_file or not re.match(_BRACKETED_NAME, text):
                raise CheckpointError(
                    f"{file}: is not valid JSON ({one_line(str(error))}); correct it, or give a text "
                    "with one name a line"
                ) from None
        else:
            return _entries(content, file)
    # Not str.splitlines: it also splits a name at rare characters such as U+2028.
    names = [name.strip() for name in re.split(_LINE_END, text.rstrip())] if text.strip() else []
    return {f"line {number}": name for number, name in enumerate(names, start=1)}


def _parsed(text: str) -> Any:
    """The content of JSON, even with a comma too many or one value a line, or of a Python literal.

    A ValueError with JSON's fault if it is none of them.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        fault = str(error)
    for parse in (_without_last_commas, _each_line, _python_literal):
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return parse(text)
    raise ValueError(fault)


def _without_last_commas(text: str) -> Any:
    return json.loads(re.sub(r'("(?:[^"\\]|\\.)*"?)|,(?=\s*[\]}])', r"\1", text, flags=re.DOTALL))


def _each_line(text: str) -> list[Any]:
    return [json.loads(line) for line in re.split(_LINE_END, text.strip())]


def _python_literal(text: str) -> Any:
    with warnings.catch_warnings(action="ignore"):  # of backslashes
        return ast.literal_eval(text.strip())


def _entries(content: Any, file: str) -> dict[str, str]:
    if isinstance(content, dict):
        # In transformers' and in timm's config.json.
        parts = (content.get(key) for key in ("id2label", "label_names", "label2id"))
        content = next((part for part in parts if part is not None), content)
    pairs = [_numbered(*entry) for entry in _pairs(content)]
    usual = all(isinstance(key, int | str) and isinstance(name, str) for key, name in pairs)
    if not usual or not isinstance(content, dict | list | tuple):
        raise CheckpointError(
            f'{file}: holds other JSON than names; give ["cat", "dog"], {{"0": "cat", "1": "dog"}}, or a '
            "config.json with id2label"
        )
    by_key = dict(pairs)
    names = {number: by_key.get(number, by_key.get(str(number))) for number in range(len(pairs))}
    missing = next((number for number, name in names.items() if name is None), None)
    if missing is not None:
        raise CheckpointError(
            f"{file}: has {len(names)} names and none for class {missing}; number the "
            "classes from 0 without gaps"
        )
    return {f"class {number}": str(name).strip() for number, name in names.items()}


def _pairs(content: Any) -> Iterable[tuple[Any, Any]]:
    """The entries of a mapping; the values of a list by their places, or the entries that it holds."""
    if isinstance(content, dict):
        return content.items()
    if not isinstance(content, list | tuple):
        return []
    if content and all(isinstance(one, dict) and len(one) == 1 for one in content):
        return [entry for one in content for entry in one.items()]
    if content and all(isinstance(one, dict) and len(one) == 2 for one in content):
        return [tuple(one.values()) for one in content]  # {"id": 0, "name": "cat"}
    return enumerate(content)


def _numbered(key: Any, value: Any) -> tuple[Any, Any]:
    """An entry as a class's number and its name."""
    if type(value) is int and isinstance(key, str):  # label2id
        return value, key
    if isinstance(value, list | tuple) and len(value) == 2:  # Keras' class index: a WordNet id and a name
        return key, value[1]
    return key, value


def _text(path: Path, file: str) -> str:
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
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CheckpointError(f"{file}: is not UTF-8 text; save the names as UTF-8, one a line") from None
