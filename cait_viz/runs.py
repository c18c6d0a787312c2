"""One training from beginning to end: decode, learn, log, save the state, write the files."""

import hashlib
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors.numpy import save
from tqdm import tqdm

from cait_viz.batches import Batches
from cait_viz.checkpoints import Checkpoint
from cait_viz.datasets import DatasetError, Example, Pixels, Tell, decode
from cait_viz.files import versions
from cait_viz.hub import sha256
from cait_viz.layers import zero_weights
from cait_viz.learner import Training, device
from cait_viz.logs import Log, tensorboard
from cait_viz.model import CaiT
from cait_viz.outputs import OutputError, replacing
from cait_viz.recipe import Recipe
from cait_viz.teacher import Lessons, Teacher
from cait_viz.validation import Validation
from cait_viz.variants import CaiTConfig
from cait_viz.weights import assign
from cait_viz.wording import one_line

WEIGHTS_FILE, LABELS_FILE, CARD_FILE, LOG_FILE = "model.safetensors", "labels.txt", "card.json", "log.csv"
_STATE_FILE, _CACHE_FOLDER = "checkpoint.npz", "cache"

# Pictures whose shorter side is longer than this times the largest input are kept smaller: a crop of a third
# of the area is then still shown at about the resolution it has.
_KEPT_SIZE = 1.25


@dataclass(frozen=True, kw_only=True)
class Options:
    """What does not decide on the weights.

    Attributes:
        resume: go on with the training that was interrupted in the same folder.
        checkpoint_minutes: how often the state is saved; a training that is killed loses no more than that.
        cache: where decoded pictures and the teacher's answers are kept, and stay; by default in the output's
            folder, until the training is done.
        half: write the weights as float16, half as large.
        tensorboard: write logs for TensorBoard as well.
        threads: how many the teacher may use on the CPU; all by default.
        command: what the card names as the command.
        tell: called with sentences for a person.
    """

    resume: bool = False
    checkpoint_minutes: float = 10.0
    cache: Path | None = None
    half: bool = False
    tensorboard: bool = False
    threads: int | None = None
    command: str = ""
    tell: Tell = field(default=lambda sentence: tqdm.write(sentence, file=sys.stderr))


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
        draws: (D,) which of them an epoch shows; one that stands there twice is shown twice.
        validation: pictures to measure the accuracy on.
        data: what the card says of them.
        teacher: whom to learn from, besides the labels.
    """

    kind: str
    out: Path
    recipe: Recipe
    config: CaiTConfig
    start: Checkpoint | None
    tensors: Mapping[str, np.ndarray] | None
    names: tuple[str, ...]
    training: Sequence[Example]
    draws: np.ndarray
    validation: Sequence[Example]
    data: Mapping[str, Any]
    teacher: Teacher | None


def train(plan: Plan, options: Options) -> Outcome:
    """Do a training, or the rest of it.

    Raises:
        DatasetError, TeacherError, TrainingError, OutputError: it cannot be done; the message says why.
        KeyboardInterrupt: Ctrl-C; the state has been saved.
    """
    _prepare_folder(plan.out, options.resume)
    boards = [tensorboard(plan.out / "tensorboard")] if options.tensorboard else []
    cache = options.cache or plan.out / _CACHE_FOLDER
    pixels, labels, draws = _decoded(plan, cache, options.tell)
    identity = {
        "recipe": plan.recipe.to_dict(),
        "architecture": plan.config.to_dict(),
        "starting weights": plan.start.sha256 if plan.start else None,
        "teacher": [sha256(plan.teacher.path), plan.teacher.size] if plan.teacher else None,
        "pictures": [[str(path) for path in _paths(plan, pixels)], draws.tolist(), labels.tolist()],
    }
    identity["pictures"] = _digest(identity["pictures"])
    lessons = None
    if plan.teacher is not None:
        answers = _without_stages(identity)
        lessons = Lessons(plan.teacher, len(pixels), plan.recipe.kept_views, cache, answers)
    batches = Batches(pixels, labels, draws, plan.config.num_classes, plan.recipe, lessons)
    training = Training(plan.config, plan.tensors, batches, plan.recipe, identity)
    if options.resume:
        training.restore(plan.out / _STATE_FILE)
        options.tell(f"taken up again at step {training.step} of {training.schedule.steps}")
    validation = Validation(plan.validation, options.tell)
    log = Log(plan.out / LOG_FILE, boards, training, options.tell)
    _run(plan, training, batches, validation, log, options)
    outcome = _write(plan, training, batches, pixels, validation, options)
    _clean_up(plan.out, cache, kept=options.cache is not None)
    return outcome


def _run(
    plan: Plan,
    training: Training,
    batches: Batches,
    validation: Validation,
    log: Log,
    options: Options,
) -> None:
    """Do the steps that are left, with a bar, a line in the log for each epoch, and saved states."""
    state = plan.out / _STATE_FILE
    steps_per_epoch = batches.steps_per_epoch
    bar = tqdm(
        total=training.schedule.steps * batches.size,
        initial=training.step * batches.size,
        unit=" pictures",
        desc=plan.kind,
        disable=None,
        smoothing=0.05,
    )
    losses: list[dict[str, float]] = []
    saved = begun = time.monotonic()
    before = training.seconds
    with _interruptible() as interrupted, bar:
        for step_losses in training.run():
            training.seconds = before + time.monotonic() - begun
            losses.append(step_losses)
            bar.update(batches.size)
            bar.set_postfix(loss=f"{step_losses['loss']:.3f}", size=training.model.config.image_size)
            if training.step % steps_per_epoch == 0 or training.step in training.schedule.ends:
                with training.averaged():
                    accuracy = validation.accuracy(training.probabilities, training.model.config.image_size)
                log.write(training, losses, accuracy)
                losses = []
                # The validation is not part of the training's time.
                before, begun = training.seconds, time.monotonic()
            if interrupted.is_set() or time.monotonic() - saved > 60 * options.checkpoint_minutes:
                training.save(state)
                saved = time.monotonic()
                if bar.disable:  # no terminal to show a bar on
                    options.tell(_progress(training, batches.size, step_losses["loss"]))
            if interrupted.is_set():
                bar.close()
                options.tell(
                    f"stopped at step {training.step} of {training.schedule.steps} and saved; the same "
                    "command with --resume goes on"
                )
                raise KeyboardInterrupt
    training.save(state)
    log.close()


def _progress(training: Training, batch_size: int, loss: float) -> str:
    done, total = training.step, training.schedule.steps
    rate = done * batch_size / training.seconds
    left = (total - done) * batch_size / rate / 60
    return f"step {done} of {total}: loss {loss:.3f}, {rate:.1f} pictures/s, {left:.0f} min left at that pace"


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
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{one_line(str(out), 200)}: cannot be made ({error.strerror or error}); choose another folder"
        ) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f"{one_line(str(out), 200)}: may not be written; choose another folder")
    there = [name for name in (_STATE_FILE, WEIGHTS_FILE) if (out / name).exists()]
    if there and not resume:
        raise OutputError(
            f"{one_line(str(out), 200)}: holds a training already ({', '.join(there)}); go on with it by "
            "--resume, or choose another folder"
        )


def _decoded(plan: Plan, cache: Path, tell: Tell) -> tuple[Pixels, np.ndarray, np.ndarray]:
    """The pictures, their labels, and the numbers of those of an epoch, without what is no picture."""
    side = round(_KEPT_SIZE * max(plan.recipe.sizes))
    files = [example.path for example in plan.training]

    def progress(steps: Iterable[object], total: int) -> Iterable[object]:
        return tqdm(steps, "decoding", total, unit=" pictures", disable=None)

    pixels = decode(files, side, cache, tell, progress)
    labels = np.array([plan.training[number].label for number in pixels.kept], np.int64)
    numbers = np.full(len(files), -1)
    numbers[pixels.kept] = np.arange(len(pixels))
    draws = numbers[plan.draws]
    if plan.teacher is None and len(np.unique(labels)) < 2:
        raise DatasetError("fewer than two classes are left with pictures that can be read")
    return pixels, labels, draws[draws >= 0]


def _paths(plan: Plan, pixels: Pixels) -> list[Path]:
    return [plan.training[number].path for number in pixels.kept]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _without_stages(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What the views and the teacher's answers depend on."""
    recipe = identity["recipe"]
    return {
        "augmentation": recipe["augmentation"],
        "seed": recipe["seed"],
        "kept_views": recipe["kept_views"],
        "pictures": identity["pictures"],
        "teacher": identity["teacher"],
    }


def _write(
    plan: Plan,
    training: Training,
    batches: Batches,
    pixels: Pixels,
    validation: Validation,
    options: Options,
) -> Outcome:
    tensors = training.tensors()
    if options.half:
        tensors = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    outcome_accuracy = _final_accuracy(training, tensors, validation)
    out = plan.out
    weights, labels, card = out / WEIGHTS_FILE, out / LABELS_FILE, out / CARD_FILE
    # "pt": timm and the hub's libraries ask for it.
    content = {
        weights: save(tensors, {"format": "pt"}),
        labels: "".join(f"{name}\n" for name in plan.names).encode(),
    }
    for path, data in content.items():
        with replacing(path) as file:
            file.write(data)
    facts = _facts(plan, training, batches, pixels, validation, options)
    facts["accuracy"] = {**outcome_accuracy, "pictures": len(validation)} if len(validation) else None
    facts["weights"] = {
        "file": weights.name,
        "sha256": sha256(weights),
        "type": "float16" if options.half else "float32",
        "parameters": sum(tensor.size for tensor in tensors.values()),
    }
    with replacing(card) as file:
        file.write(json.dumps(facts, indent=2, ensure_ascii=False).encode() + b"\n")
    return Outcome(weights, labels, card, outcome_accuracy)


def _final_accuracy(
    training: Training, tensors: Mapping[str, np.ndarray], validation: Validation
) -> dict[str, float]:
    """Of the weights as they are written, in float32."""
    config = replace(training.model.config, sd_prob=0.0)
    with zero_weights():
        model = CaiT(config)
    assign(model, {name: tensor.astype(np.float32) for name, tensor in tensors.items()})

    def predict(images: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict_on_batch(images)[0])

    return validation.accuracy(predict, config.image_size)


def _facts(
    plan: Plan,
    training: Training,
    batches: Batches,
    pixels: Pixels,
    validation: Validation,
    options: Options,
) -> dict[str, Any]:
    backend = keras.backend.backend()
    shown = training.step * batches.size
    return {
        "made_by": plan.kind,
        "date": datetime.now(UTC).date().isoformat(),
        "command": options.command,
        "data": {
            **plan.data,
            "training_pictures": len(pixels),
            "validation_pictures": len(validation),
            "skipped": pixels.skipped,
        },
        "start": plan.start and {"name": plan.start.name, "sha256": plan.start.sha256},
        "teacher": plan.teacher
        and {"file": plan.teacher.path.name, "sha256": sha256(plan.teacher.path), "size": plan.teacher.size},
        "seed": plan.recipe.seed,
        "epochs": round(training.step / batches.steps_per_epoch, 3),
        "pictures_shown": shown,
        "seconds": round(training.seconds, 1),
        "pictures_per_second": round(shown / training.seconds, 1) if training.seconds else None,
        "recipe": plan.recipe.to_dict(),
        "architecture": training.model.config.to_dict(),
        "hardware": {
            "backend": backend,
            "device": device(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {**versions(), backend: keras.backend_version()}
        if hasattr(keras, "backend_version")
        else versions(),
    }


def _clean_up(out: Path, cache: Path, kept: bool) -> None:
    """Remove what only the training needed."""
    (out / _STATE_FILE).unlink(missing_ok=True)
    if kept:
        return
    for path in cache.iterdir():
        path.unlink()
    cache.rmdir()
