"""A teacher to distil from: an ONNX file that OpenVINO runs, and its outputs for each view, kept.

The teacher sees the very view that the student sees, mixup included (Beyer et al. 2022, arXiv:2106.05237).
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cait_viz._backend import openvino_core
from cait_viz._checks import all_finite
from cait_viz._files import sha256
from cait_viz._text import file_text, listed, one_line
from cait_viz.errors import TeacherError
from cait_viz.model.config import Precision
from cait_viz.training.cache import one_at_a_time

Floats = NDArray[np.float32]
Images = NDArray[np.uint8]

# The largest float16; no network in use gives logits or features beyond it.
_FLOAT16_MAX = float(np.finfo(np.float16).max)
# Images at a time; more are no faster on a CPU and take memory.
_BATCH = 32


class TeacherOutput(NamedTuple):
    """A teacher's outputs for some views, float32, rounded to float16, as which they are kept."""

    logits: Floats  # (B, classes)
    features: Floats  # (B, rows, cols, channels), the last feature map


class Teacher:
    """An ONNX network to learn from, with `classes` and a `grid` (rows, cols, channels) of features.

    The input are images (B, 3, S, S), float32 RGB in [0, 1], which the network itself normalizes; the outputs
    are called `logits` (B, classes) and `features` (B, channels, rows, cols).

    Args:
        path: the file; a TeacherError if it is not such a network, or OpenVINO is missing.
        size: side of its input in pixels; by default what the file fixes, else 224.
        precision: of the arithmetic; bfloat16 is twice as fast on processors that have it.
        threads: number of CPU threads; all by default.
    """

    def __init__(
        self,
        path: Path,
        size: int | None = None,
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        self.path, self.precision = path, precision
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
        # A thread of its own: OpenVINO switches denormal numbers off in the thread that calls it.
        self._thread = ThreadPoolExecutor(1)
        input_shape = (self._batch, 3, self.size, self.size)
        self._compiled = self._in_thread(_compile, network, input_shape, precision, threads)
        logits, features = self._run(np.zeros((self._batch, self.size, self.size, 3), np.uint8))
        dims, counts = (logits.ndim, features.ndim), {logits.shape[:1], features.shape[:1]}
        if dims != (2, 4) or counts != {(self._batch,)} or 0 in features.shape:
            raise TeacherError(
                f"{file_text(path)}: gives logits of shape {logits.shape} and features of {features.shape} "
                f"for {self._batch} images; a teacher gives (images, classes) and (images, channels, rows, "
                "cols)"
            )
        self._rounded(logits, features)
        self.classes = logits.shape[1]
        self.grid = features.shape[1:]

    @cached_property
    def sha256(self) -> str:
        """Of the file and of the one beside it that holds its weights, if there is one; in hexadecimal."""
        beside = self.path.with_name(f"{self.path.name}.data")
        return sha256(self.path) + (sha256(beside) if beside.is_file() else "")

    def __call__(self, images: Images) -> TeacherOutput:
        """Its outputs for images (B, S, S, 3), uint8 RGB; a TeacherError if it fails or gives NaN."""
        # Padded to whole batches: some files fix the number of images.
        whole = -(-len(images) // self._batch) * self._batch
        filled = np.resize(images, (whole, *images.shape[1:]))
        chunks = [self._run(filled[start : start + self._batch]) for start in range(0, whole, self._batch)]
        return self._rounded(*(np.concatenate(part)[: len(images)] for part in zip(*chunks, strict=True)))

    def _rounded(self, *outputs: Floats) -> TeacherOutput:
        if not all_finite(*outputs):
            raise TeacherError(
                f"{file_text(self.path)}: gives numbers that are not finite; give another teacher"
            )
        halves = (np.clip(array, -_FLOAT16_MAX, _FLOAT16_MAX).astype(np.float16) for array in outputs)
        return TeacherOutput(*(array.astype(np.float32) for array in halves))

    def _run(self, images: Images) -> tuple[Floats, Floats]:
        """Logits, and features with the channels last."""
        planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
        planes /= np.float32(255)
        outputs = self._in_thread(self._compiled, planes)
        logits, features = outputs["logits"], outputs["features"]
        return logits, features.transpose(0, 2, 3, 1) if features.ndim == 4 else features

    def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return self._thread.submit(function, *arguments).result()
        except RuntimeError as error:  # the only kind that OpenVINO raises
            raise TeacherError(
                f"{file_text(self.path)}: fails at {self.size} pixels ({one_line(str(error))})"
            ) from None


def _read(path: Path) -> Any:
    try:
        core = openvino_core()
    except ImportError:
        raise TeacherError(
            "distilling needs OpenVINO to run the teacher; install it with `pip install openvino`"
        ) from None
    if not path.is_file():
        raise TeacherError(f"{file_text(path)}: there is no such file; give the teacher's ONNX file")
    try:
        return core.read_model(path)
    except RuntimeError as error:
        raise TeacherError(
            f"{file_text(path)}: cannot be opened as an ONNX file ({one_line(str(error))})"
        ) from None


def _compile(network: Any, shape: tuple[int, ...], precision: Precision, threads: int | None) -> Any:
    network.reshape(shape)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        # Some trained weights lead to denormal numbers, which slow a CPU down several times.
        "CPU_DENORMALS_OPTIMIZATION": True,
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }
    return openvino_core().compile_model(network, "CPU", options)


class TeacherCache:
    """A teacher's outputs for each view, computed when first asked for and kept in a folder.

    Args:
        teacher: the teacher.
        images: number of images.
        views: number of views of each that are kept; 0 keeps none.
        folder: where to keep them, a TeacherError if that fails; what an earlier training kept there is used,
            so that its name has to depend on all that the views depend on.
    """

    def __init__(self, teacher: Teacher, images: int, views: int, folder: Path) -> None:
        self.teacher = teacher
        self._views = views
        if not views:
            return
        outputs = [("logits", np.float16, teacher.classes), ("features", np.float16, teacher.grid)]
        row = np.dtype([*outputs, ("done", np.bool_)], align=True)
        try:
            with one_at_a_time(folder, lambda _: None):
                self._kept = _open(folder / "outputs.bin", images * views, row)
        except OSError as error:
            raise TeacherError(
                f"{file_text(folder)}: the teacher's outputs cannot be kept there "
                f"({error.strerror or error}); free some space, or keep fewer views"
            ) from None

    def get(
        self, images: NDArray[np.int64], numbers: NDArray[np.int64], render: Callable[..., Images]
    ) -> TeacherOutput:
        """The teacher's outputs for some views.

        Args:
            images: (B,) the numbers of the images.
            numbers: (B,) the view's number for each; with `views` kept, below `views`.
            render: renders the views (B, S, S, 3), uint8, of two such arrays.
        """
        if not self._views:
            return self.teacher(render(images, numbers))
        rows = images * self._views + numbers
        missing = ~self._kept["done"][rows]
        if missing.any():
            output = self.teacher(render(images[missing], numbers[missing]))
            for name, value in (*output._asdict().items(), ("done", True)):
                self._kept[name][rows[missing]] = value
        kept = self._kept[rows]
        return TeacherOutput(*(kept[name].astype(np.float32) for name in TeacherOutput._fields))


def _open(path: Path, rows: int, row: np.dtype) -> np.memmap:
    """A file as an array in memory; a new one is all zeros."""
    size = rows * row.itemsize
    if not path.is_file() or path.stat().st_size != size:
        with path.open("wb") as file:
            # Its room is taken at once: a disk that fills up under a mapped file would end the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                os.truncate(file.fileno(), size)
    return np.memmap(path, row, "r+", shape=rows)
