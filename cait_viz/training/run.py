"""One training from beginning to end: decode, train, log, save the state, write the files."""

import contextlib
import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from cait_viz._files import atomic_write, remove_remains, sha256
from cait_viz._text import listed, path_text
from cait_viz.errors import DatasetError, OutputError, TrainingError
from cait_viz.images.folders import Example
from cait_viz.images.preprocess import normalize, resize_and_crop
from cait_viz.metrics.accuracy import accuracy, usual_measures
from cait_viz.model.cait import CaiT
from cait_viz.model.config import CaiTConfig
from cait_viz.model.initial import zero_weights
from cait_viz.model.timm_names import assign
from cait_viz.training.cache import TEACHER, cache_folder, decode, digest, remove_cache
from cait_viz.training.job import Job, card
from cait_viz.training.loader import Dataset, Loader
from cait_viz.training.logs import Log, Progress, is_log, tensorboard
from cait_viz.training.state import SavedState
from cait_viz.training.teacher import TeacherCache
from cait_viz.training.trainer import Trainer, TrainingModel, float32_by_default, require_finite

_WEIGHTS, _LABELS, _CARD, _LOG = "model.safetensors", "labels.txt", "card.json", "log.csv"
_STATE, _AVERAGE, _CACHE = "state.npz", "average-so-far.safetensors", "training-cache"
# The usual bar with the time left from `Progress`, which knows of the resolutions to come.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"

# Images are decoded at up to this times the largest input: a crop of a third of the area then still has about
# the resolution that is asked for.
_DECODED_SIZE = 1.25


@dataclass(frozen=True)
class Outcome:
    """The files that a training has written, and what they reach."""

    weights: Path  # safetensors
    labels: Path  # the names of its classes
    card: Path  # JSON
    # On the validation images, "top1" and, of more than five classes, "top5", from 0 to 1; empty without any.
    accuracy: Mapping[str, float]


@float32_by_default()
def train(job: Job) -> Outcome:
    """Do a training, or the rest of it; raises what `api.finetune` names."""
    out, options, teacher = job.out, job.options, job.teacher
    _prepare_folder(out, options.resume)
    callbacks = [tensorboard(out / "tensorboard")] if options.tensorboard else []
    identity: dict[str, Any] = {
        "config": asdict(job.config),
        "architecture": job.architecture.to_dict(),
        "starting weights": job.start.sha256 if job.start else None,
        "teacher": [teacher.sha256, teacher.size, teacher.precision] if teacher else None,
    }
    state = SavedState(out / _STATE) if options.resume else None
    if state:
        state.require(identity)  # before anything is decoded
    cache = options.cache or out / _CACHE
    dataset = _training_set(job, cache)
    identity["images"] = digest([dataset.images.digest, dataset.labels.tolist(), dataset.weights.tolist()])
    taught = None
    if teacher:
        views = {name: identity["config"][name] for name in ("augmentation", "seed", "kept_views")}
        views |= {name: identity[name] for name in ("images", "teacher")}
        folder = cache_folder(cache, TEACHER, views)
        taught = TeacherCache(teacher, len(dataset.images), job.config.kept_views, folder)
    loader = Loader(dataset, len(job.names), job.config, taught)
    trainer = Trainer(job.architecture, job.tensors, loader, job.config, identity)
    if state:
        trainer.restore(state)
        options.tell(f"resumed at step {trainer.step} of {trainer.steps}")
    validation = None
    if job.validation:
        # At the last resolution they are then what `cait_viz.preprocess` makes of the files.
        ones = np.ones(len(job.validation))
        validation = _decode(job, job.validation, ones, job.config.sizes[-1], cache)
    _run(job, trainer, validation, Log(out / _LOG, trainer, callbacks, options.tell))
    outcome = _write(job, trainer, validation)
    if options.cache is None:
        remove_cache(cache)
    (out / _STATE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the app may hold it open
        (out / _AVERAGE).unlink(missing_ok=True)
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
    there = [file for file in (_WEIGHTS, _LABELS, _CARD) if (out / file).exists()]
    if (out / _LOG).exists() and (there or not is_log(out / _LOG)):
        there.append(_LOG)  # and not what is left of a training that ended before its state was saved
    interrupted = (out / _STATE).exists()
    if resume and not interrupted:
        finished = "it is finished; " if _WEIGHTS in there else ""
        raise TrainingError(f"{name}: nothing to resume; {finished}start without --resume in another folder")
    if not resume and interrupted:
        raise OutputError(
            f"{name}: holds an interrupted training; resume it with --resume, or choose another folder"
        )
    if not resume and there:
        raise OutputError(f"{name}: holds {listed(there)} already; choose another folder")
    remove_remains(out)


def _training_set(job: Job, cache: Path) -> Dataset:
    if not job.weights.any():
        raise DatasetError("no images are left to train on; name more than those to validate with")
    side = round(_DECODED_SIZE * max(*job.config.sizes, job.teacher.size if job.teacher else 0))
    dataset = _decode(job, job.training, job.weights, side, cache)
    if job.teacher is None:
        unread = sorted({example.label for example in job.training} - set(dataset.labels.tolist()))
        if unread:
            job.options.tell(f"no image of {listed(job.names[label] for label in unread)} can be read")
        if len(job.names) - len(unread) < 2:
            raise DatasetError("fewer than two classes are left with images that can be read")
    return dataset


def _decode(job: Job, examples: Sequence[Example], weights: np.ndarray, side: int, cache: Path) -> Dataset:
    images = decode([example.path for example in examples], side, cache, job.options.tell)
    labels = np.array([examples[number].label for number in images.kept], np.int64)
    return Dataset(images, labels, weights[images.kept])


def _run(job: Job, trainer: Trainer, validation: Dataset | None, log: Log) -> None:
    """Do the steps that are left, with a progress bar, a row in the log for each epoch, and saved states."""
    loader, tell = trainer.loader, job.options.tell
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
    saved = before = time.monotonic()
    with _interruptible() as interrupted, bar:
        for step_losses in trainer.run():
            now = time.monotonic()
            trainer.seconds, before = trainer.seconds + now - before, now
            progress.update(trainer.step, trainer.seconds)
            losses.append(step_losses)
            bar.update(loader.batch_size)
            size, loss = trainer.architecture.image_size, f"{step_losses['loss']:.3f}"
            bar.set_postfix(left=progress.time_left, loss=loss, size=size)
            done = f"step {trainer.step} of {trainer.steps}"
            whole_epoch = loader.epochs_done(trainer.step) > loader.epochs_done(trainer.step - 1)
            if whole_epoch or trainer.step in trainer.ends:
                with trainer.averaged() as model:
                    reached = _accuracy(model, validation, interrupted)
                log.write(losses, reached)
                losses = []
                before = time.monotonic()  # the validation is not part of the training's time
            # After the log: it must hold the row of a saved epoch even if the training is killed here.
            if interrupted.is_set() or time.monotonic() - saved > 60 * job.options.state_minutes:
                average = _save(job, trainer)
                saved = time.monotonic()
                if bar.disable:  # there is no terminal to show a bar on
                    rate = f"{loader.batch_size * progress.steps_per_second:.1f} images/s at {size} px"
                    tell(f"{done}: loss {loss}, {rate}, {progress.time_left} left")
                if interrupted.is_set():
                    bar.close()
                    tell(f"stopped at {done} and saved; the same command with --resume goes on")
                    if average:
                        files = shlex.join(["--weights", str(average), "--labels", str(job.out / _LABELS)])
                        tell(f"look at the averaged weights so far with: cait-viz app {files}")
                    raise KeyboardInterrupt
    _save(job, trainer)
    log.close()


def _save(job: Job, trainer: Trainer) -> Path | None:
    """Save the state and, to be looked at, the averaged weights so far with the names of their classes."""
    average = job.out / _AVERAGE
    trainer.save(job.out / _STATE)
    try:
        _write_labels(job)
        _replace(average, _safetensors(trainer.tensors()))
    except OutputError:  # the app may hold it open, which is no reason to end the training
        job.options.tell(f"{path_text(average)}: cannot be written now; it follows with the next state")
        return None
    return average


def _accuracy(model: TrainingModel, validation: Dataset | None, stop: threading.Event) -> Mapping[str, float]:
    """At the model's resolution; empty without images to validate with, and once it is to stop."""
    if validation is None or stop.is_set():
        return {}
    config = model.cait.config

    def examples() -> Iterable[tuple[np.ndarray, int]]:
        for number, label in enumerate(validation.labels.tolist()):
            seen = resize_and_crop(validation.images[number], config.image_size)
            yield normalize(np.asarray(seen)), label
            if stop.is_set():
                return

    def classify(images: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict_on_batch(images)["classes"])

    shares = accuracy(classify, examples(), usual_measures(config.num_classes)).shares
    return {} if stop.is_set() else shares


@contextlib.contextmanager
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


def _write(job: Job, trainer: Trainer, validation: Dataset | None) -> Outcome:
    dtype = "float16" if job.options.half else "float32"
    with np.errstate(over="ignore"):
        tensors = {name: tensor.astype(dtype) for name, tensor in trainer.tensors().items()}
    require_finite(tensors.values(), dtype)
    weights = job.out / _WEIGHTS
    _replace(weights, _safetensors(tensors))
    labels = _write_labels(job)
    reached = _accuracy(_as_written(trainer.architecture, tensors), validation, threading.Event())
    facts = card(job, trainer, validation) | {
        "accuracy": reached or None,
        "weights": {
            "file": weights.name,
            "sha256": sha256(weights),
            "type": dtype,
            "parameters": sum(tensor.size for tensor in tensors.values()),
        },
    }
    text = json.dumps(facts, indent=2, ensure_ascii=False)
    _replace(job.out / _CARD, text.encode(errors="backslashreplace") + b"\n")
    return Outcome(weights, labels, job.out / _CARD, reached)


def _write_labels(job: Job) -> Path:
    _replace(job.out / _LABELS, "".join(f"{name}\n" for name in job.names).encode())
    return job.out / _LABELS


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    return save(tensors, {"format": "pt"})  # which timm and the hub's libraries ask for


def _replace(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def _as_written(architecture: CaiTConfig, tensors: Mapping[str, np.ndarray]) -> TrainingModel:
    """A model of the weights as they are written, in float32."""
    with zero_weights():
        cait = CaiT(replace(architecture, sd_prob=0.0))
    assign(cait, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})
    return TrainingModel(cait)  # which leaves out the self-attention that a CaiT returns
