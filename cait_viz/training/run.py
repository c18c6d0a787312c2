"""One training from beginning to end: decode, learn, log, save the state, write the files."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from cait_viz._files import remove_remains, replacing, sha256
from cait_viz._text import listed, path_text
from cait_viz.drawing.export import versions
from cait_viz.errors import DatasetError, OutputError, TrainingError
from cait_viz.images.folders import Example
from cait_viz.images.preprocess import prepare
from cait_viz.metrics.accuracy import accuracy, usual_measures
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.layers import zero_weights
from cait_viz.model.timm_names import assign
from cait_viz.training.config import RunOptions, TrainingConfig
from cait_viz.training.datasets import Pixels, Tell, decode, fingerprint
from cait_viz.training.loader import Batches
from cait_viz.training.logs import Log, tensorboard
from cait_viz.training.progress import Pace
from cait_viz.training.teacher import Teacher, TeacherCache
from cait_viz.training.trainer import Training, TrainingModel, check_state, device, require_finite
from cait_viz.weights.resolve import Checkpoint

WEIGHTS_FILE, LABELS_FILE, CARD_FILE, LOG_FILE = "model.safetensors", "labels.txt", "card.json", "log.csv"
_STATE_FILE, _CACHE_FOLDER = "checkpoint.npz", "training-cache"
_CACHED = ("pictures", "lessons")
# The usual one with the time left told by us: what is left may be at another resolution.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"

# Pictures whose shorter side is longer than this times the largest input are kept smaller: a crop of a third
# of the area is then still shown at about the resolution it has.
_KEPT_SIZE = 1.25


@dataclass(frozen=True)
class Outcome:
    """What a training has left.

    Attributes:
        weights: the safetensors file.
        labels: the names of its classes.
        card: how they came about, JSON.
        accuracy: on the validation pictures, "top1" and, of more than five classes, "top5",
            from 0 to 1; empty without such pictures.
    """

    weights: Path
    labels: Path
    card: Path
    accuracy: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training that is about to begin.

    Attributes:
        kind: "finetune" or "distil".
        out: the folder to write to.
        recipe: how.
        config: the architecture, at the resolution that `tensors` belong to.
        start: where `tensors` are from; None for random weights.
        tensors: timm name -> array, to start from.
        names: of the classes.
        training: the pictures.
        weights: (P,) float64, how often an epoch shows each of them, on average.
        validation: pictures to measure the accuracy on.
        passed_over: what was said of files that are no pictures.
        data: what the card says of them.
        teacher: whom to learn from, besides the labels.
    """

    kind: str
    out: Path
    recipe: TrainingConfig
    config: CaiTConfig
    start: Checkpoint | None
    tensors: Mapping[str, np.ndarray] | None
    names: tuple[str, ...]
    training: Sequence[Example]
    weights: np.ndarray
    validation: Sequence[Example]
    passed_over: Sequence[str] = ()
    data: Mapping[str, Any]
    teacher: Teacher | None


def train(plan: Plan, options: RunOptions) -> Outcome:
    """Do a training, or the rest of it.

    Raises:
        DatasetError, TeacherError, TrainingError, OutputError: it cannot be done; the message says why.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    _prepare_folder(plan.out, options.resume)
    boards = [tensorboard(plan.out / "tensorboard")] if options.tensorboard else []
    identity: dict[str, Any] = {
        "recipe": plan.recipe.to_dict(),
        "architecture": plan.config.to_dict(),
        "starting weights": plan.start.sha256 if plan.start else None,
        "teacher": [plan.teacher.sha256, plan.teacher.size, plan.teacher.precision] if plan.teacher else None,
    }
    if options.resume:
        check_state(plan.out / _STATE_FILE, identity)
    cache = _Cache(options.cache or plan.out / _CACHE_FOLDER, options.tell)
    shown = _shown(plan, cache)
    identity["pictures"] = shown.digest
    lessons = None
    if plan.teacher is not None:
        answered = _views(identity)
        folder = cache.folder("lessons", _digest(answered))
        lessons = TeacherCache(plan.teacher, len(shown.pixels), plan.recipe.kept_views, folder, answered)
    batches = Batches(
        shown.pixels, shown.labels, shown.weights, plan.config.num_classes, plan.recipe, lessons
    )
    training = Training(plan.config, plan.tensors, batches, plan.recipe, identity)
    if options.resume:
        training.restore(plan.out / _STATE_FILE)
        options.tell(f"taken up again at step {training.step} of {training.schedule.steps}")
    validation = _Validation(plan, cache)
    log = Log(plan.out / LOG_FILE, boards, training, options.tell)
    _run(plan, training, batches, validation, log, options)
    outcome = _write(plan, training, batches, shown, validation, options)
    if options.cache is None:
        cache.remove()
    (plan.out / _STATE_FILE).unlink(missing_ok=True)
    return outcome


class _Validation:
    """The pictures to validate with; there may be none."""

    def __init__(self, plan: Plan, cache: "_Cache") -> None:
        self.skipped: list[str] = []
        self.pictures = 0
        self._measures = usual_measures(len(plan.names))
        if plan.validation:
            # At the last resolution they are then what `cait_viz.preprocess` makes of the files.
            self._pixels = cache.pixels(plan.validation, plan.recipe.sizes[-1])
            self._labels = np.array([plan.validation[number].label for number in self._pixels.kept], np.int64)
            self.pictures, self.skipped = len(self._pixels), self._pixels.skipped

    def accuracy(self, predict: Callable[[np.ndarray], np.ndarray], image_size: int) -> dict[str, float]:
        """What `accuracy` gives for scores of prepared pictures; empty without pictures."""
        if not self.pictures:
            return {}
        images = (prepare(self._pixels[number], image_size)[0] for number in range(self.pictures))
        return accuracy(predict, zip(images, self._labels, strict=True), self._measures).shares


def _run(
    plan: Plan,
    training: Training,
    batches: Batches,
    validation: _Validation,
    log: Log,
    options: RunOptions,
) -> None:
    """Do the steps that are left, with a bar, a line in the log for each epoch, and saved states."""
    state = plan.out / _STATE_FILE
    bar = tqdm(
        total=training.schedule.steps * batches.size,
        initial=training.step * batches.size,
        unit=" pictures",
        desc=plan.kind,
        disable=None,
        smoothing=0.05,
        bar_format=_BAR,
    )
    pace = Pace(training.schedule.ends, plan.recipe.sizes)
    losses: list[dict[str, float]] = []
    saved = begun = time.monotonic()
    before = training.seconds
    with _interruptible() as interrupted, bar:
        for step_losses in training.run():
            training.seconds = before + time.monotonic() - begun
            pace.count(training.step, training.seconds)
            losses.append(step_losses)
            bar.update(batches.size)
            size = training.model.config.image_size
            bar.set_postfix(left=pace.left, loss=f"{step_losses['loss']:.3f}", size=size)
            epochs = batches.epochs(training.step)
            if epochs > batches.epochs(training.step - 1) or training.step in training.schedule.ends:
                log.write(training, epochs, losses, _validated(training, validation, interrupted))
                losses = []
                # The validation is not part of the training's time.
                before, begun = training.seconds, time.monotonic()
            # After the log: of a saved epoch it must hold the line, even if the training is killed here.
            if interrupted.is_set() or time.monotonic() - saved > 60 * options.checkpoint_minutes:
                training.save(state)
                saved = time.monotonic()
                if bar.disable:  # no terminal to show a bar on
                    rate = batches.size * pace.steps_per_second
                    options.tell(
                        f"step {training.step} of {training.schedule.steps}: loss {step_losses['loss']:.3f}, "
                        f"{rate:.1f} pictures/s at {size} px, {pace.left} left"
                    )
            if interrupted.is_set():
                bar.close()
                options.tell(
                    f"stopped at step {training.step} of {training.schedule.steps} and saved; the same "
                    "command with --resume goes on"
                )
                raise KeyboardInterrupt
    training.save(state)
    log.close()


class _UnfinishedError(Exception):
    """Ctrl-C came in the middle of a validation."""


def _validated(training: Training, validation: _Validation, interrupted: threading.Event) -> dict[str, float]:
    """The accuracy that the averaged weights have; empty if Ctrl-C comes before it is known."""

    def predict(images: np.ndarray) -> np.ndarray:
        if interrupted.is_set():
            raise _UnfinishedError
        return training.logits(images)

    with training.averaged() as model:
        try:
            return validation.accuracy(predict, model.config.image_size)
        except _UnfinishedError:
            return {}


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second ends the program as usual."""
    asked = threading.Event()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is None:
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, usual)


def _prepare_folder(out: Path, resume: bool) -> None:
    name = path_text(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{name}: cannot be made ({error.strerror or error}); choose another folder"
        ) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"{name}: may not be written; choose another folder")
    there = [name for name in (WEIGHTS_FILE, LABELS_FILE, CARD_FILE) if (out / name).exists()]
    if (out / LOG_FILE).exists() and (there or not Log.is_log(out / LOG_FILE)):
        there.append(LOG_FILE)  # and not the remains of a training that ended before its state was saved
    if resume and not (out / _STATE_FILE).exists():
        finished = "it is finished; " if WEIGHTS_FILE in there else ""
        raise TrainingError(
            f"{name}: nothing to take up again is there; {finished}start without --resume in another folder"
        )
    if not resume and (out / _STATE_FILE).exists():
        raise OutputError(
            f"{name}: holds a training that was interrupted; go on with it by --resume, or choose another "
            "folder"
        )
    if not resume and there:
        raise OutputError(f"{name}: holds {listed(there)} already; choose another folder")
    remove_remains(out)


class _Cache:
    """Folders for what is made once, each named after what it depends on, so that none takes another's."""

    def __init__(self, place: Path, tell: Tell) -> None:
        self._place = place
        self.tell = tell

    def folder(self, kind: Literal["pictures", "lessons"], digest: str) -> Path:
        return self._place / f"{kind}-{digest[:16]}"

    def pixels(self, examples: Sequence[Example], side: int) -> Pixels:
        files = [example.path for example in examples]

        def progress(steps: Iterable[Any], total: int) -> Iterable[Any]:
            return tqdm(steps, "decoding", total, unit=" pictures", disable=None)

        folder = self.folder("pictures", fingerprint(files, side))
        return decode(files, side, folder, self.tell, progress)

    def remove(self) -> None:
        """Take away what was made here, by earlier attempts too."""
        for kind in _CACHED:
            for folder in self._place.glob(f"{kind}-*"):
                shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it
            self._place.rmdir()


@dataclass(frozen=True)
class _Shown:
    """The pictures that can be read, their labels, and how often an epoch shows each."""

    pixels: Pixels
    labels: np.ndarray
    weights: np.ndarray
    digest: str


def _shown(plan: Plan, cache: _Cache) -> _Shown:
    if not plan.weights.any():
        raise DatasetError("no pictures are left to train on; name more than those to validate with")
    resolutions = (*plan.recipe.sizes, plan.teacher.size if plan.teacher else 0)
    side = round(_KEPT_SIZE * max(resolutions))
    pixels = cache.pixels(plan.training, side)
    labels = np.array([plan.training[number].label for number in pixels.kept], np.int64)
    weights = plan.weights[pixels.kept]
    if plan.teacher is None:
        unread = sorted({example.label for example in plan.training} - set(labels.tolist()))
        if unread:
            cache.tell(f"no picture of {listed(plan.names[label] for label in unread)} can be read")
        if len(plan.names) - len(unread) < 2:
            raise DatasetError("fewer than two classes are left with pictures that can be read")
    files = fingerprint([example.path for example in plan.training], side)
    return _Shown(pixels, labels, weights, _digest([files, weights.tolist(), labels.tolist()]))


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _views(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the views and the teacher's answers depend on."""
    recipe = identity["recipe"]
    chosen = {name: recipe[name] for name in ("augmentation", "seed", "kept_views")}
    return chosen | {name: identity[name] for name in ("pictures", "teacher")}


def _write(
    plan: Plan,
    training: Training,
    batches: Batches,
    shown: _Shown,
    validation: _Validation,
    options: RunOptions,
) -> Outcome:
    tensors = training.tensors()
    if options.half:
        with np.errstate(over="ignore"):
            tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    require_finite(tensors.values(), "float16" if options.half else "float32")
    weights, labels, card = (plan.out / name for name in (WEIGHTS_FILE, LABELS_FILE, CARD_FILE))
    # "pt": timm and the hub's libraries ask for it.
    _replace(weights, save(tensors, {"format": "pt"}))
    _replace(labels, "".join(f"{name}\n" for name in plan.names).encode())
    reached = validation.accuracy(*_as_written(training, tensors)) if validation.pictures else {}
    facts = _facts(plan, training, batches, shown, validation, options) | {
        "accuracy": reached or None,
        "weights": {
            "file": weights.name,
            "sha256": sha256(weights),
            "type": "float16" if options.half else "float32",
            "parameters": sum(tensor.size for tensor in tensors.values()),
        },
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    _replace(card, text.encode(errors="backslashreplace") + b"\n")
    return Outcome(weights, labels, card, reached)


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def _as_written(
    training: Training, tensors: Mapping[str, np.ndarray]
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """What the weights say as they are written, in float32; and their resolution."""
    config = replace(training.model.config, sd_prob=0.0)
    with zero_weights():
        model = CaiT(config)
    assign(model, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    learner = TrainingModel(model)  # without the self-attention that a CaiT returns
    return lambda images: np.asarray(learner.predict_on_batch(images)["logits"]), config.image_size


def _facts(
    plan: Plan,
    training: Training,
    batches: Batches,
    shown: _Shown,
    validation: _Validation,
    options: RunOptions,
) -> dict[str, Any]:
    backend = keras.backend.backend()
    pictures = training.step * batches.size
    software = {backend, "keras", *(("openvino",) if plan.teacher else ())}
    return {
        "made_by": plan.kind,
        "date": datetime.now(UTC).date().isoformat(),
        "command": options.command,
        "data": {
            **plan.data,
            "training_pictures": len(shown.pixels),
            "validation_pictures": validation.pictures,
            "skipped": [*plan.passed_over, *shown.pixels.skipped, *validation.skipped],
        },
        "start": plan.start and {"name": plan.start.name, "sha256": plan.start.sha256},
        "teacher": plan.teacher
        and {"file": plan.teacher.path.name, "sha256": plan.teacher.sha256, "size": plan.teacher.size},
        "seed": plan.recipe.seed,
        "epochs": round(training.step / batches.steps_per_epoch, 3),
        "pictures_shown": pictures,
        "seconds": round(training.seconds, 1),
        "pictures_per_second": round(pictures / training.seconds, 1) if training.seconds else None,
        "recipe": plan.recipe.to_dict(),
        "architecture": training.model.config.to_dict(),
        "hardware": {
            "backend": backend,
            "device": device(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": versions() | {name: metadata.version(name) for name in software if _installed(name)},
    }


def _installed(distribution: str) -> bool:
    return any(metadata.distributions(name=distribution))
