"""Folders of pictures to train on: what lies in them, how they are split, and their pixels, decoded once.

No Keras.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image

from cait_viz._files import replacing
from cait_viz._text import listed, one_line, path_text
from cait_viz.errors import DatasetError, ImageError
from cait_viz.images.folders import (
    UNKNOWN,
    Example,
    beside,
    class_folders,
    files_below,
    require_folder,
)
from cait_viz.images.formats import image_format
from cait_viz.images.preprocess import resized_size
from cait_viz.images.read import read_image

Tell = Callable[[str], None]


def labelled(folder: Path, tell: Tell, without: Sequence[Path] = ()) -> tuple[list[Example], tuple[str, ...]]:
    """The pictures of a folder with one folder a class, and the names of the classes.

    A file that does not begin as a picture does is passed over, and a folder without pictures makes no
    class; both are told.

    Args:
        folder: the folder of the classes' folders.
        tell: called with a sentence for a person.
        without: folders that are none of a class, should they lie there.

    Raises:
        DatasetError: there is no such folder, it has fewer than two classes, or one that cannot be named.
    """
    classes = {
        name: [path for path in files if _begins_as_picture(path, tell)]
        for name, files in class_folders(folder, without).items()
    }
    empty = [name for name, files in classes.items() if not files]
    if empty:
        tell(f"{path_text(folder)}: no pictures in {listed(empty)}, which is left out")
    names = tuple(name for name in classes if name not in empty)
    unusual = [name for name in names if not name.isprintable() or name != name.strip()]
    if unusual:
        raise DatasetError(
            f"{path_text(folder)}: the folder {unusual[0]!r} cannot name a class; rename it, without "
            "characters that do not print or spaces at its ends"
        )
    if len(names) < 2:
        raise DatasetError(
            f"{path_text(folder)}: holds {len(names)} class{'' if len(names) == 1 else 'es'} with pictures; "
            "training needs at least two, each in a folder of its own"
        )
    return [Example(path, label) for label, name in enumerate(names) for path in classes[name]], names


def matched(folder: Path, index: Mapping[str, int]) -> list[Example]:
    """Every picture below a folder, with the class that one of the folders it lies in is named after.

    Args:
        folder: searched to any depth.
        index: the class of each name; the innermost folder that is named there counts.

    Raises:
        DatasetError: there is no such folder, or it is empty.
    """
    require_folder(folder)
    files = files_below(folder)
    if not files:
        raise DatasetError(f"{path_text(folder)}: holds no pictures; name the folder that does")
    return [Example(path, _class_of(path, folder, index)) for path in files]


def example_weights(examples: Sequence[Example], folder_weights: Mapping[Path, float]) -> NDArray[np.float64]:
    """How often an epoch shows each picture, on average: the weight of the innermost folder that has one.

    Args:
        examples: the pictures.
        folder_weights: weights of folders, at least 0; a picture in none of them has 1.

    Raises:
        DatasetError: a weight is no such number, or of a folder that holds none of the pictures.
    """
    for folder, weight in folder_weights.items():
        if not 0 <= weight < math.inf:
            raise DatasetError(
                f"{path_text(folder)}: its weight must be a number of at least 0, not {weight}"
            )
    by_folder = {folder.resolve(): weight for folder, weight in folder_weights.items()}
    used: set[Path] = set()

    @cache
    def weight_of(folder: Path) -> float:
        named = next((place for place in (folder, *folder.parents) if place in by_folder), None)
        if named is None:
            return 1.0
        used.add(named)
        return by_folder[named]

    weights = np.array([weight_of(example.path.parent.resolve()) for example in examples], np.float64)
    for folder in folder_weights:
        if folder.resolve() not in used:
            raise DatasetError(f"{path_text(folder)}: has a weight, and none of the pictures lies in it")
    return weights


def split(
    examples: Sequence[Example], share: float, seed: int
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Part the pictures for training and for validation, class by class, the same way for the same seed.

    Every class keeps a picture to train on; a class of one picture has none to validate with.

    Args:
        examples: all of them.
        share: of each class that goes to validation, in [0, 1).
        seed: decides which.

    Raises:
        DatasetError: `share` is no share.
    """
    if not 0 <= share < 1:
        raise DatasetError(
            f"the share of pictures to validate with must be at least 0 and below 1, not {share}"
        )
    generator = np.random.default_rng(seed)
    held_back: set[int] = set()
    labels = np.array([example.label for example in examples])
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(round(share * len(members)), len(members) - 1)
        if share and len(members) > 1:
            count = max(count, 1)
        held_back.update(members[:count].tolist())
    training = tuple(example for index, example in enumerate(examples) if index not in held_back)
    return training, tuple(examples[index] for index in sorted(held_back))


class Pixels:
    """The pictures of a training, decoded once into one file that the system keeps in memory as it can.

    Args:
        folder: where `decode` put them.

    Attributes:
        sizes: (P, 2) int64, height and width of each.
        skipped: the files that are no pictures, and why, as sentences.
        kept: (P,) int64, which of the files given each of the pictures is.
    """

    def __init__(self, folder: Path) -> None:
        index = _read_index(folder)
        self.sizes = np.array(index["sizes"], np.int64).reshape(-1, 2)
        self.skipped: list[str] = index["skipped"]
        self.kept = np.array(index["kept"], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(3 * self.sizes.prod(axis=1))])
        self._values = np.memmap(folder / _VALUES, np.uint8, "r", shape=(int(self._starts[-1]),))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> Image.Image:
        """One picture, mode "RGB"."""
        height, width = self.sizes[number]
        values = self._values[self._starts[number] : self._starts[number + 1]]
        return Image.fromarray(values.reshape(height, width, 3))


_INDEX, _VALUES, _LOCK = "pictures.json", "pictures.bin", "lock"
# As much of a file as shows what it is.
_BEGINNING = 4096
# Pictures that are read before the first of them is written, and after which the index is.
_READ_AHEAD, _INDEXED = 64, 2048


def fingerprint(files: Sequence[Path], side: int) -> str:
    """A digest of what `decode` would make of these files: their paths, sizes and dates, and `side`."""
    facts = [[os.fsencode(path).hex(), *_stamp(path)] for path in files]
    return hashlib.sha256(json.dumps([side, facts]).encode()).hexdigest()


def decode(
    files: Sequence[Path],
    side: int,
    folder: Path,
    tell: Tell,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda steps, _: steps,
) -> Pixels:
    """Decode pictures into `folder`, or go on with what an earlier call with the same files left there.

    A file that is no picture is named and passed over.

    Args:
        files: the pictures.
        side: a picture whose shorter side is longer is made smaller to it, in pixels.
        folder: made if need be.
        tell: called with a sentence for a person.
        progress: wraps what is gone through, of the given length.

    Raises:
        DatasetError: none of the files is a picture, or the folder cannot be written.
    """
    identity = fingerprint(files, side)
    try:
        # Another training may be about to decode the same pictures into the same folder.
        with one_at_a_time(folder, tell):
            index = _begun(folder, identity)
            if index["seen"] < len(files):
                _decode_rest(files, side, folder, index, tell, progress)
    except OSError as error:
        raise DatasetError(
            f"{path_text(folder)}: the decoded pictures cannot be kept there ({error.strerror or error}); "
            "free some space, or name another folder"
        ) from None
    if not index["sizes"]:
        raise DatasetError(f"none of the {len(files)} files is a picture that can be read")
    return Pixels(folder)


@contextmanager
def one_at_a_time(folder: Path, tell: Tell) -> Iterator[None]:
    """A block that no other training is in for the same folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=1)
    except Timeout:
        tell(f"{path_text(folder)}: another training is at work there; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _begun(folder: Path, identity: str) -> dict[str, Any]:
    """What the folder holds of these pictures."""
    try:
        index = _read_index(folder)
        if index["identity"] == identity:
            return index
    except (OSError, ValueError, KeyError):
        pass
    return {"identity": identity, "seen": 0, "sizes": [], "kept": [], "skipped": []}


def _decode_rest(
    files: Sequence[Path],
    side: int,
    folder: Path,
    index: dict[str, Any],
    tell: Tell,
    progress: Callable[..., Iterable[Any]],
) -> None:
    """Decode the files that the index has not seen."""

    def read(path: Path) -> np.ndarray | ImageError:
        try:
            return _reduced(read_image(path), side)
        except ImageError as error:
            return error

    begun = index["seen"]
    with (folder / _VALUES).open("ab") as values, ThreadPoolExecutor(os.cpu_count()) as pool:
        values.truncate(sum(3 * height * width for height, width in index["sizes"]))
        # Some at a time: no more of them wait in memory to be written.
        chunks = (files[start : start + _READ_AHEAD] for start in range(begun, len(files), _READ_AHEAD))
        results = (result for chunk in chunks for result in pool.map(read, chunk))
        for number, result in enumerate(progress(results, len(files) - begun), start=begun):
            if isinstance(result, ImageError):
                sentence = f"{beside(files[number])}{result}"
                index["skipped"].append(sentence)
                tell(f"{sentence}; passed over")
            else:
                values.write(result.tobytes())
                index["sizes"].append(result.shape[:2])
                index["kept"].append(number)
            index["seen"] = number + 1
            if index["seen"] % _INDEXED == 0 or index["seen"] == len(files):
                values.flush()
                with replacing(folder / _INDEX) as file:
                    file.write(json.dumps(index).encode())


def _read_index(folder: Path) -> dict[str, Any]:
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    if not isinstance(index, dict):
        raise ValueError(f"{_INDEX} is no index")
    return index


def _reduced(picture: Image.Image, side: int) -> np.ndarray:
    """The picture as the network's evaluation resizes it, so that no second resizing follows."""
    width, height = picture.size
    if min(width, height) <= side:
        return np.asarray(picture)
    return np.asarray(picture.resize(resized_size((width, height), side), Image.Resampling.BICUBIC))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _class_of(path: Path, folder: Path, index: Mapping[str, int]) -> int:
    """The class that the innermost folder is named after, from the picture's own up to `folder`."""
    inside = (*reversed(path.relative_to(folder).parts[:-1]), folder.resolve().name)
    return next((index[name] for name in inside if name in index), UNKNOWN)


def _begins_as_picture(path: Path, tell: Tell) -> bool:
    """Whether the first bytes are a picture's; if not, that is told."""
    try:
        with path.open("rb") as file:
            fault = "" if image_format(file.read(_BEGINNING)) else "is no picture of a known format"
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error})"
    if fault:
        tell(f"{beside(path)}{one_line(path.name)}: {fault}; passed over")
    return not fault
