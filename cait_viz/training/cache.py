"""What a training computes once and keeps in a folder: its images, decoded, and the teacher's outputs.

Each folder is named after a digest of what its content depends on, so that none is taken for another.
No Keras.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from PIL import Image
from tqdm import tqdm

from cait_viz._files import atomic_write
from cait_viz._text import path_text
from cait_viz.errors import DatasetError, ImageError
from cait_viz.images.folders import folder_prefix
from cait_viz.images.preprocess import resized_size
from cait_viz.images.read import load_image
from cait_viz.training.datasets import PrintLine

_INDEX, _VALUES, _LOCK = "images.json", "images.bin", "lock"
IMAGES, TEACHER = "images", "teacher"
# Images that are read before the first of them is written, and after which the index is written too.
_READ_AHEAD, _INDEXED = 64, 2048


class DecodedImages:
    """Decoded images in one file, which the operating system keeps in memory as far as it can.

    For each file that was to be decoded the index has its height and width, or why it was skipped.
    """

    def __init__(self, folder: Path, index: Sequence[Sequence[int] | str]) -> None:
        self.digest = folder.name  # of what they were made of
        self.skipped = [entry for entry in index if isinstance(entry, str)]
        # The number of the file that each of the P images was, and height and width of each, (P, 2).
        self.kept = np.array([n for n, entry in enumerate(index) if not isinstance(entry, str)], np.int64)
        self.sizes = np.array([index[number] for number in self.kept], np.int64).reshape(-1, 2)
        self._starts = np.concatenate([[0], np.cumsum(3 * self.sizes.prod(axis=1))])
        self._values = np.memmap(folder / _VALUES, np.uint8, "r", shape=(int(self._starts[-1]),))

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> Image.Image:
        """One image, mode "RGB"."""
        values = self._values[self._starts[number] : self._starts[number + 1]]
        return Image.fromarray(values.reshape(*self.sizes[number], 3))


def decode(files: Sequence[Path], side: int, cache: Path, print_line: PrintLine) -> DecodedImages:
    """Decode images into a folder of `cache`; what an earlier call with the same files left there is used.

    Files that cannot be read are named and skipped; an image whose shorter side is longer than `side`, in
    pixels, is reduced to that. A DatasetError if none can be read, or the folder not be written.
    """
    folder = cache_folder(cache, IMAGES, [side, [[os.fsencode(path).hex(), *_stamp(path)] for path in files]])
    try:
        # Another training may be about to decode the same images.
        with one_at_a_time(folder, print_line):
            try:
                index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                index = []
            if len(index) < len(files):
                _decode_rest(files, side, folder, index, print_line)
    except OSError as error:
        raise DatasetError(
            f"{path_text(folder)}: the decoded images cannot be kept there ({error.strerror or error}); "
            "free some space, or name another folder"
        ) from None
    if all(isinstance(entry, str) for entry in index):
        raise DatasetError(f"none of the {len(files)} files is an image that can be read")
    return DecodedImages(folder, index)


def _decode_rest(
    files: Sequence[Path], side: int, folder: Path, index: list[list[int] | str], print_line: PrintLine
) -> None:
    """Decode the files that the index does not have yet."""

    def read(path: Path) -> tuple[np.ndarray | None, str]:
        try:
            loaded = load_image(path)
        except ImageError as error:
            return None, f"{folder_prefix(path)}{error}; skipped"
        image = loaded.image
        if min(image.size) > side:  # as for the network's evaluation, which then resizes it no more
            image = image.resize(resized_size(image.size, side), Image.Resampling.BICUBIC)
        return np.asarray(image), loaded.remark and f"{folder_prefix(path)}{loaded.remark}"

    def save_index() -> None:
        values.flush()
        with atomic_write(folder / _INDEX) as file:
            file.write(json.dumps(index).encode())

    bar = tqdm(desc="decoding", total=len(files), initial=len(index), unit=" images", disable=None)
    with (folder / _VALUES).open("ab") as values, ThreadPoolExecutor(os.cpu_count()) as pool, bar:
        values.truncate(sum(3 * entry[0] * entry[1] for entry in index if not isinstance(entry, str)))
        try:
            # Some at a time, so that few wait in memory to be written.
            for start in range(len(index), len(files), _READ_AHEAD):
                for pixels, remark in pool.map(read, files[start : start + _READ_AHEAD]):
                    if remark:
                        print_line(remark)
                    if pixels is None:
                        index.append(remark)
                    else:
                        values.write(pixels.tobytes())
                        index.append(list(pixels.shape[:2]))
                    bar.update()
                    if len(index) % _INDEXED == 0:
                        save_index()
        finally:
            save_index()


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def cache_folder(cache: Path, kind: str, content: object) -> Path:
    """Where to keep `IMAGES` or `TEACHER` outputs that depend on `content`, which JSON can hold."""
    return cache / f"{kind}-{digest(content)[:16]}"


def digest(content: object) -> str:
    """SHA-256 of what JSON can hold, in hexadecimal."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def remove_cache(cache: Path) -> None:
    """Delete what trainings keep in a folder, and the folder if nothing else lies in it."""
    for folder in (*cache.glob(f"{IMAGES}-*"), *cache.glob(f"{TEACHER}-*")):
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        cache.rmdir()


@contextlib.contextmanager
def one_at_a_time(folder: Path, print_line: PrintLine) -> Iterator[None]:
    """A block that one training at a time enters for the same folder, which is created if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK)
    try:
        held = lock.acquire(timeout=1)
    except Timeout:
        print_line(f"{path_text(folder)}: another training is using it; waiting")
        held = lock.acquire()
    with held:
        yield
