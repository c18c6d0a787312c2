"""Folders of pictures to train on: what lies in them, how they are split, and their pixels, decoded once.

NumPy and Pillow only.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images import read_image
from cait_viz.wording import listed, one_line

UNKNOWN = -1

Tell = Callable[[str], None]


class DatasetError(CaitVizError, ValueError):
    """A folder of pictures that cannot be trained on."""


@dataclass(frozen=True)
class Example:
    """One picture of a folder: its file and the index of its class, `UNKNOWN` if it has none."""

    path: Path
    label: int


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """The files of a folder that holds one folder a class, by the class' name, both in their order.

    Hidden files and folders are passed over; a class' folder is searched to any depth.

    Raises:
        DatasetError: there is no such folder, or it holds no folders.
    """
    _require_folder(folder)
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _hidden(entry))
    if not classes:
        raise DatasetError(f"{_shown(folder)}: holds no folders; put each class' pictures in one of its own")
    return {entry.name: _files(entry) for entry in classes}


def labelled(folder: Path, tell: Tell) -> tuple[list[Example], tuple[str, ...]]:
    """The pictures of a folder with one folder a class, and the names of the classes.

    A folder without files makes no class, which is told.

    Args:
        folder: the folder of the classes' folders.
        tell: called with a sentence for a person.

    Raises:
        DatasetError: there is no such folder, or it has fewer than two classes.
    """
    classes = class_folders(folder)
    empty = [name for name, files in classes.items() if not files]
    if empty:
        tell(f"{_shown(folder)}: no pictures in {listed(empty)}, which is left out")
    names = tuple(name for name in classes if name not in empty)
    if len(names) < 2:
        raise DatasetError(
            f"{_shown(folder)}: holds {len(names)} class{'' if len(names) == 1 else 'es'} with pictures; "
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
    _require_folder(folder)
    files = _files(folder)
    if not files:
        raise DatasetError(f"{_shown(folder)}: holds no pictures; name the folder that does")
    return [Example(path, _class_of(path, index)) for path in files]


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

    Attributes:
        sizes: (P, 2) int64, height and width of each.
        skipped: the files that are no pictures, and why, as sentences.
        kept: (P,) int64, which of the files given each of the pictures is.
    """

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        self.sizes = np.array(index["sizes"], np.int64).reshape(-1, 2)
        self.skipped: list[str] = index["skipped"]
        self.kept = np.array(index["kept"], np.int64)
        lengths = 3 * self.sizes.prod(axis=1)
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self._values = np.memmap(folder / _VALUES, np.uint8, "r", shape=(int(self._starts[-1]),))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> Image.Image:
        """One picture, mode "RGB"."""
        height, width = self.sizes[number]
        values = self._values[self._starts[number] : self._starts[number + 1]]
        return Image.fromarray(values.reshape(height, width, 3))


_INDEX, _VALUES = "pictures.json", "pictures.bin"
_READ_AHEAD = 64


def decode(
    files: Sequence[Path],
    side: int,
    folder: Path,
    tell: Tell,
    progress: Callable[[Iterable[object], int], Iterable[object]] = lambda steps, _: steps,
) -> Pixels:
    """Decode pictures into `folder`, or take what an earlier call with the same files left there.

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
    identity = {
        "side": side,
        "files": [[str(path), *_stamp(path)] for path in files],
    }
    try:
        kept = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        if kept["identity"] == identity:
            return Pixels(folder)
    except (OSError, ValueError, KeyError):
        pass
    try:
        _decode_all(files, side, folder, identity, tell, progress)
    except OSError as error:
        raise DatasetError(
            f"{_shown(folder)}: the decoded pictures cannot be kept there ({error.strerror or error}); free "
            "some space, or name another folder"
        ) from None
    return Pixels(folder)


def _decode_all(
    files: Sequence[Path],
    side: int,
    folder: Path,
    identity: object,
    tell: Tell,
    progress: Callable[..., object],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _INDEX).unlink(missing_ok=True)
    sizes, skipped, kept = [], [], []

    def read(path: Path) -> np.ndarray | ImageError:
        try:
            return _reduced(read_image(path), side)
        except ImageError as error:
            return error

    with (folder / _VALUES).open("wb") as values, ThreadPoolExecutor(os.cpu_count()) as pool:
        # Some at a time: no more of them wait in memory to be written.
        starts = range(0, len(files), _READ_AHEAD)
        results = (
            result for start in starts for result in pool.map(read, files[start : start + _READ_AHEAD])
        )
        for number, read_file in enumerate(progress(results, len(files))):  # type: ignore[arg-type,var-annotated]
            if isinstance(read_file, ImageError):
                skipped.append(str(read_file))
                tell(f"{read_file}; passed over")
                continue
            values.write(read_file.tobytes())
            sizes.append(read_file.shape[:2])
            kept.append(number)
    if not sizes:
        raise DatasetError(f"none of the {len(files)} files is a picture that can be read")
    index = {"sizes": sizes, "kept": kept, "skipped": skipped, "identity": identity}
    (folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")


def _reduced(picture: Image.Image, side: int) -> np.ndarray:
    shorter = min(picture.size)
    if shorter > side:
        width, height = (max(side, round(side * length / shorter)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def _class_of(path: Path, index: Mapping[str, int]) -> int:
    return next((index[parent.name] for parent in path.parents if parent.name in index), UNKNOWN)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path))


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DatasetError(f"{_shown(folder)}: there is no such folder; name a folder of pictures")


def _shown(path: Path) -> str:
    return one_line(str(path), 200)
