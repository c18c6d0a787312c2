"""A teacher to distil from: an ONNX file, and what it said of each view, kept.

"Knowledge distillation: a good teacher is patient and consistent" (Beyer et al. 2022, arXiv:2106.05237): the
teacher sees the very view that the student sees, mixup included. What it says of a fixed number of views of
each picture may be kept, so that nobody waits for it a second time.
"""

import json
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cait_viz._files import sha256
from cait_viz._text import file_text, listed, one_line
from cait_viz.errors import TeacherError
from cait_viz.training.config import Precision
from cait_viz.training.datasets import one_at_a_time

Floats = NDArray[np.float32]
Pictures = NDArray[np.uint8]

# The most that float16 holds; logits and features beyond it are of no network in use.
_FLOAT16_MAX = float(np.finfo(np.float16).max)
# Pictures at a time; more are no faster on a CPU and take memory.
_BATCH = 32


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher said of some views.

    Attributes:
        logits: (B, classes) float32, rounded to float16, as it is kept.
        features: (B, rows, cols, channels) float32, rounded likewise; its last feature map.
    """

    logits: Floats
    features: Floats


class Teacher:
    """An ONNX network with one input, pictures (B, 3, S, S) float32, RGB in [0, 1], its normalisation inside,
    and two outputs, `logits` (B, classes) and `features` (B, channels, rows, cols).

    Args:
        path: the file.
        size: side of its input in pixels; by default what the file fixes, else 224.
        precision: of the arithmetic; bfloat16 is twice as fast on processors that have it.
        threads: how many it may use; all by default.

    Attributes:
        size: side of its input.
        classes: how many it tells apart.
        grid: rows, cols and channels of its features.

    Raises:
        TeacherError: OpenVINO is missing, or the file is no such network.
    """  # noqa: D205 - one sentence, and the shapes are part of it

    def __init__(
        self,
        path: Path,
        size: int | None = None,
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        self.path = path
        self.precision = precision
        network = _read(path)
        inputs, outputs = network.inputs, {name for output in network.outputs for name in output.get_names()}
        if len(inputs) != 1 or not {"logits", "features"} <= outputs:
            given = listed(entry.get_any_name() for entry in inputs)
            raise TeacherError(
                f"{file_text(path)}: has the inputs {given} and the outputs "
                f"{listed(sorted(outputs))}; a teacher has one input and the outputs logits and features"
            )
        shape = [entry.get_length() if entry.is_static else None for entry in inputs[0].get_partial_shape()]
        batch, _, side, _ = shape if len(shape) == 4 else (None,) * 4
        self._batch = batch or _BATCH
        self.size = size or side or 224
        # A thread of its own: where denormal numbers are switched off, they are for the thread that calls.
        self._thread = ThreadPoolExecutor(1)
        self._compiled = self._in_thread(
            _compile, network, (self._batch, 3, self.size, self.size), precision, threads
        )
        logits, features = self._run(np.zeros((self._batch, self.size, self.size, 3), np.uint8))
        counts = {array.shape[0] if array.ndim else 0 for array in (logits, features)}
        if logits.ndim != 2 or features.ndim != 4 or counts != {self._batch} or 0 in features.shape:
            raise TeacherError(
                f"{file_text(path)}: gives logits of shape {logits.shape} and features of {features.shape} "
                f"for {self._batch} pictures; a teacher gives (pictures, classes) and (pictures, channels, "
                "rows, cols)"
            )
        self._require_finite(logits, features)
        self.classes = logits.shape[1]
        self.grid = features.shape[1:]

    @cached_property
    def sha256(self) -> str:
        """Of the file and, where it keeps its weights in one beside it, of that too; in hexadecimal."""
        beside = self.path.with_name(f"{self.path.name}.data")
        return sha256(self.path) + (sha256(beside) if beside.is_file() else "")

    def __call__(self, pictures: Pictures) -> TeacherOutput:
        """What it says of pictures (B, S, S, 3), uint8 RGB.

        Raises:
            TeacherError: it fails, or says what is not a finite number.
        """
        # Filled up: some files fix how many pictures they take.
        whole = -(-len(pictures) // self._batch) * self._batch
        filled = np.resize(pictures, (whole, *pictures.shape[1:]))
        chunks = [self._run(filled[start : start + self._batch]) for start in range(0, whole, self._batch)]
        logits, features = (np.concatenate(arrays)[: len(pictures)] for arrays in zip(*chunks, strict=True))
        self._require_finite(logits, features)
        return TeacherOutput(_rounded(logits), _rounded(features))

    def _require_finite(self, *arrays: Floats) -> None:
        if not all(np.isfinite(array).all() for array in arrays):
            raise TeacherError(
                f"{file_text(self.path)}: says what is not a finite number; give another teacher"
            )

    def _run(self, pictures: Pictures) -> tuple[Floats, Floats]:
        """Logits, and features with the channels last."""
        planes = np.ascontiguousarray(pictures.transpose(0, 3, 1, 2)).astype(np.float32)
        planes /= np.float32(255)
        answer = self._in_thread(self._compiled, planes)
        logits, features = answer["logits"], answer["features"]
        return logits, features.transpose(0, 2, 3, 1) if features.ndim == 4 else features

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._thread.submit(function, *arguments).result()
        except RuntimeError as error:  # OpenVINO knows no others
            raise TeacherError(
                f"{file_text(self.path)}: cannot teach at {self.size} pixels ({one_line(str(error))})"
            ) from None


def _read(path: Path) -> Any:
    try:
        import openvino
    except ImportError:
        raise TeacherError(
            "distilling needs OpenVINO, which runs the teacher; install it with `pip install openvino`"
        ) from None
    if not path.is_file():
        raise TeacherError(f"{file_text(path)}: there is no such file; give the teacher's ONNX file")
    try:
        return openvino.Core().read_model(path)
    except RuntimeError as error:  # OpenVINO knows no others
        raise TeacherError(
            f"{file_text(path)}: cannot be opened as an ONNX file ({one_line(str(error))})"
        ) from None


def _compile(network: Any, shape: tuple[int, ...], precision: Precision, threads: int | None) -> Any:
    import openvino

    network.reshape(shape)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        # Some trained weights give denormal numbers, with which a CPU is several times slower.
        "CPU_DENORMALS_OPTIMIZATION": True,
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }
    return openvino.Core().compile_model(network, "CPU", options)


class TeacherCache:
    """What the teacher says of each view, computed when first asked for and kept in `folder`.

    Args:
        teacher: the teacher.
        pictures: how many pictures there are.
        views: how many views of each are kept; 0 keeps none.
        folder: where to; what an earlier training with the same `identity` kept there is used again.
        identity: what the views depend on.

    Raises:
        TeacherError: the folder cannot be written or has no room.
    """

    def __init__(self, teacher: Teacher, pictures: int, views: int, folder: Path, identity: object) -> None:
        self.teacher = teacher
        self._views = views
        self._kept: dict[str, np.memmap] = {}
        if not views:
            return
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "logits": ((pictures * views, teacher.classes), np.float16),
            "features": ((pictures * views, *teacher.grid), np.float16),
            "done": ((pictures * views,), np.bool_),
        }
        try:
            with one_at_a_time(folder, lambda _: None):
                self._open(folder, shapes, json.dumps(identity, sort_keys=True))
        except OSError as error:
            raise TeacherError(
                f"{file_text(folder)}: what the teacher says cannot be kept there "
                f"({error.strerror or error}); free some space, or keep fewer views"
            ) from None

    def _open(self, folder: Path, shapes: dict[str, tuple[tuple[int, ...], type]], identity: str) -> None:
        described = folder / "lessons.json"
        same = described.is_file() and described.read_text(encoding="utf-8") == identity
        if not same:
            described.unlink(missing_ok=True)
        sizes = {name: math.prod(shape) * np.dtype(dtype).itemsize for name, (shape, dtype) in shapes.items()}
        paths = {name: folder / f"lessons-{name}.bin" for name in shapes}
        if not same or any(not _has_size(paths[name], sizes[name]) for name in shapes):
            for name, path in paths.items():
                with path.open("wb") as file:
                    _allocate(file.fileno(), sizes[name])
        for name, (shape, dtype) in shapes.items():
            self._kept[name] = np.memmap(paths[name], dtype, "r+", shape=shape)
        described.write_text(identity, encoding="utf-8")

    def get(
        self, pictures: NDArray[np.int64], numbers: NDArray[np.int64], show: Callable[..., Pictures]
    ) -> TeacherOutput:
        """What the teacher says of some views.

        Args:
            pictures: (B,) the pictures' numbers.
            numbers: (B,) which of its views, for each; with `views` kept, below `views`.
            show: makes pictures (B, S, S, 3), uint8, of such two arrays.
        """
        if not self._views:
            return self.teacher(show(pictures, numbers))
        rows = pictures * self._views + numbers
        missing = ~self._kept["done"][rows]
        if missing.any():
            lesson = self.teacher(show(pictures[missing], numbers[missing]))
            self._kept["logits"][rows[missing]] = lesson.logits
            self._kept["features"][rows[missing]] = lesson.features
            self._kept["done"][rows[missing]] = True
        return TeacherOutput(
            self._kept["logits"][rows].astype(np.float32), self._kept["features"][rows].astype(np.float32)
        )


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _allocate(descriptor: int, size: int) -> None:
    """Zeros, for which there is room: a disk that fills under a mapped file would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)


def _rounded(values: Floats) -> Floats:
    return np.clip(values, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16).astype(np.float32)
