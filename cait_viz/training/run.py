"""One training from beginning to end: decode, train, log, save the state, write the files."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from cait_viz._files import remove_remains, replacing, sha256
from cait_viz._text import listed, path_text
from cait_viz.errors import DatasetError, OutputError, TrainingError
from cait_viz.images.folders import Example
from cait_viz.images.preprocess import normalize, resize_and_crop
from cait_viz.metrics.accuracy import accuracy, usual_measures
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.layers import zero_weights
from cait_viz.model.timm_names import assign
from cait_viz.training.cache import TEACHER, cache_folder, decode, digest, remove_cache
from cait_viz.training.card import write_card
from cait_viz.training.config import RunOptions
from cait_viz.training.job import Job
from cait_viz.training.loader import Dataset, Loader
from cait_viz.training.logs import Log, is_log, tensorboard
from cait_viz.training.progress import Progress
from cait_viz.training.state import SavedState
from cait_viz.training.teacher import TeacherCache
from cait_viz.training.trainer import Trainer, TrainingModel, require_finite

WEIGHTS_FILE, LABELS_FILE, CARD_FILE, LOG_FILE = "model.safetensors", "labels.txt", "card.json", "log.csv"
_STATE_FILE, _CACHE_FOLDER = "checkpoint.npz", "training-cache"
# The usual bar with the time left from `Progress`, which knows of the resolutions to come.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"

# Images are decoded at up to this times the largest input: a crop of a third of the area then still has about
# the resolution that is asked for.
_DECODED_SIZE = 1.25


@dataclass(frozen=True)
class Outcome:
    """The files that a training has written.

    Attributes:
        weights: the safetensors file.
        labels: the names of its classes.
        card: how they came about, JSON.
        accuracy: on the validation images, "top1" and, of more than five classes, "top5",
            from 0 to 1; empty without such images.
    """

    weights: Path
    labels: Path
    card: Path
    accuracy: Mapping[str, float]


def train(job: Job, options: RunOptions) -> Outcome:
    """Do a training, or the rest of it.

    Raises:
        DatasetError, TeacherError, TrainingError, OutputError: it cannot be done; the message says why.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    _prepare_folder(job.out, options.resume)
    callbacks = [tensorboard(job.out / "tensorboard")] if options.tensorboard else []
    identity: dict[str, Any] = {
        "config": job.config.to_dict(),
        "architecture": job.architecture.to_dict(),
        "starting weights": job.start.sha256 if job.start else None,
        "teacher": [job.teacher.sha256, job.teacher.size, job.teacher.precision] if job.teacher else None,
    }
    state = None
    if options.resume:
        state = SavedState(job.out / _STATE_FILE)
        state.require(identity)  # before anything is decoded
    cache = options.cache or job.out / _CACHE_FOLDER
    dataset = _training_set(job, cache, options)
    identity["images"] = digest(
        [dataset.images.digest, dataset.labels.tolist(), dataset.weights.tolist()],
    )
    loader = Loader(dataset, len(job.names), job.config, _teacher_cache(job, identity, dataset, cache))
    trainer = Trainer(job.architecture, job.tensors, loader, job.config, identity)
    if state is not None:
        trainer.restore(state)
        options.tell(f"resumed at step {trainer.step} of {trainer.steps}")
    # At the last resolution they are then what `cait_viz.preprocess` makes of the files.
    validation = _decode(job.validation, job.config.sizes[-1], cache, options) if job.validation else None
    log = Log(job.out / LOG_FILE, callbacks, trainer, options.tell)
    _run(job, trainer, loader, validation, log, options)
    outcome = _write(job, trainer, loader, dataset, validation, options)
    if options.cache is None:
        remove_cache(cache)
    (job.out / _STATE_FILE).unlink(missing_ok=True)
    return outcome


def _prepare_folder(out: Path, resume: bool) -> None:
    name = path_text(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{name}: cannot be created ({error.strerror or error}); choose another folder"
        ) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"{name}: may not be written; choose another folder")
    there = [file for file in (WEIGHTS_FILE, LABELS_FILE, CARD_FILE) if (out / file).exists()]
    if (out / LOG_FILE).exists() and (there or not is_log(out / LOG_FILE)):
        there.append(LOG_FILE)  # and not what is left of a training that ended before its state was saved
    interrupted = (out / _STATE_FILE).exists()
    if resume and not interrupted:
        finished = "it is finished; " if WEIGHTS_FILE in there else ""
        raise TrainingError(f"{name}: nothing to resume; {finished}start without --resume in another folder")
    if not resume and interrupted:
        raise OutputError(
            f"{name}: holds an interrupted training; resume it with --resume, or choose another folder"
        )
    if not resume and there:
        raise OutputError(f"{name}: holds {listed(there)} already; choose another folder")
    remove_remains(out)


def _training_set(job: Job, cache: Path, options: RunOptions) -> Dataset:
    if not job.weights.any():
        raise DatasetError("no images are left to train on; name more than those to validate with")
    side = round(_DECODED_SIZE * max(*job.config.sizes, job.teacher.size if job.teacher else 0))
    dataset = _decode(job.training, side, cache, options, job.weights)
    if job.teacher is None:
        unread = sorted({example.label for example in job.training} - set(dataset.labels.tolist()))
        if unread:
            options.tell(f"no image of {listed(job.names[label] for label in unread)} can be read")
        if len(job.names) - len(unread) < 2:
            raise DatasetError("fewer than two classes are left with images that can be read")
    return dataset


def _decode(
    examples: Sequence[Example],
    side: int,
    cache: Path,
    options: RunOptions,
    weights: np.ndarray | None = None,
) -> Dataset:
    images = decode([example.path for example in examples], side, cache, options.tell)
    labels = np.array([examples[number].label for number in images.kept], np.int64)
    return Dataset(images, labels, np.ones(len(images)) if weights is None else weights[images.kept])


def _teacher_cache(
    job: Job, identity: Mapping[str, Any], dataset: Dataset, cache: Path
) -> TeacherCache | None:
    if job.teacher is None:
        return None
    views = {name: identity["config"][name] for name in ("augmentation", "seed", "kept_views")}
    views |= {name: identity[name] for name in ("images", "teacher")}
    folder = cache_folder(cache, TEACHER, views)
    return TeacherCache(job.teacher, len(dataset.images), job.config.kept_views, folder)


def _run(
    job: Job, trainer: Trainer, loader: Loader, validation: Dataset | None, log: Log, options: RunOptions
) -> None:
    """Do the steps that are left, with a progress bar, a row in the log for each epoch, and saved states."""
    bar = tqdm(
        total=trainer.steps * loader.batch_size,
        initial=trainer.step * loader.batch_size,
        unit=" images",
        desc=job.kind,
        disable=None,
        smoothing=0.05,
        bar_format=_BAR,
    )
    progress = Progress(trainer.ends, job.config.sizes)
    losses: list[dict[str, float]] = []
    saved = begun = time.monotonic()
    before = trainer.seconds
    with _interruptible() as interrupted, bar:
        for step_losses in trainer.run():
            trainer.seconds = before + time.monotonic() - begun
            progress.update(trainer.step, trainer.seconds)
            losses.append(step_losses)
            bar.update(loader.batch_size)
            size, loss = trainer.architecture.image_size, f"{step_losses['loss']:.3f}"
            bar.set_postfix(left=progress.time_left, loss=loss, size=size)
            epochs = loader.epochs_done(trainer.step)
            if epochs > loader.epochs_done(trainer.step - 1) or trainer.step in trainer.ends:
                log.write(trainer, epochs, losses, _validate(trainer, validation, interrupted))
                losses = []
                # The validation is not part of the training's time.
                before, begun = trainer.seconds, time.monotonic()
            # After the log: it must hold the row of a saved epoch even if the training is killed here.
            if interrupted.is_set() or time.monotonic() - saved > 60 * options.checkpoint_minutes:
                trainer.save(job.out / _STATE_FILE)
                saved = time.monotonic()
                if bar.disable:  # there is no terminal to show a bar on
                    rate = loader.batch_size * progress.steps_per_second
                    options.tell(
                        f"step {trainer.step} of {trainer.steps}: loss {loss}, "
                        f"{rate:.1f} images/s at {size} px, {progress.time_left} left"
                    )
            if interrupted.is_set():
                bar.close()
                options.tell(
                    f"stopped at step {trainer.step} of {trainer.steps} and saved; the same command with "
                    "--resume goes on"
                )
                raise KeyboardInterrupt
    trainer.save(job.out / _STATE_FILE)
    log.close()


class _InterruptedError(Exception):
    """Ctrl-C was pressed during a validation."""


def _validate(
    trainer: Trainer, validation: Dataset | None, interrupted: threading.Event
) -> Mapping[str, float]:
    """The accuracy of the averaged weights; empty without images, and if Ctrl-C is pressed meanwhile."""
    with trainer.averaged() as model:

        def predict(images: np.ndarray) -> np.ndarray:
            if interrupted.is_set():
                raise _InterruptedError
            return _logits(model, images)

        try:
            return _accuracy(predict, validation, trainer.architecture)
        except _InterruptedError:
            return {}


def _accuracy(
    predict: Callable[[np.ndarray], np.ndarray], validation: Dataset | None, architecture: CaiTConfig
) -> Mapping[str, float]:
    """Of logits for normalized images; empty without images to validate with."""
    if validation is None:
        return {}
    examples = (
        (normalize(np.asarray(resize_and_crop(validation.images[number], architecture.image_size))), label)
        for number, label in enumerate(validation.labels.tolist())
    )
    return accuracy(predict, examples, usual_measures(architecture.num_classes)).shares


def _logits(model: TrainingModel, images: np.ndarray) -> np.ndarray:
    """(B, S, S, 3), normalized -> (B, classes) float32."""
    return np.asarray(model.predict_on_batch(images)["classes"])


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second ends the program as usual."""
    pressed = threading.Event()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is None:
        yield pressed
        return

    def handle(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, usual)


def _write(
    job: Job,
    trainer: Trainer,
    loader: Loader,
    dataset: Dataset,
    validation: Dataset | None,
    options: RunOptions,
) -> Outcome:
    tensors = trainer.tensors()
    dtype = "float16" if options.half else "float32"
    with np.errstate(over="ignore"):
        tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    require_finite(tensors.values(), dtype)
    weights, labels, card = (job.out / name for name in (WEIGHTS_FILE, LABELS_FILE, CARD_FILE))
    _replace(weights, save(tensors, {"format": "pt"}))  # which timm and the hub's libraries ask for
    _replace(labels, "".join(f"{name}\n" for name in job.names).encode())
    reached = _accuracy(_as_written(trainer.architecture, tensors), validation, trainer.architecture)
    facts = {
        "accuracy": reached or None,
        "weights": {
            "file": weights.name,
            "sha256": sha256(weights),
            "type": dtype,
            "parameters": sum(tensor.size for tensor in tensors.values()),
        },
    }
    write_card(card, job, trainer, loader, dataset, validation, options.command, facts)
    return Outcome(weights, labels, card, reached)


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


def _as_written(
    architecture: CaiTConfig, tensors: Mapping[str, np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """The logits that the weights give as they are written, in float32."""
    with zero_weights():
        cait = CaiT(replace(architecture, sd_prob=0.0))
    assign(cait, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    model = TrainingModel(cait)  # which leaves out the self-attention that a CaiT returns
    return lambda images: _logits(model, images)
