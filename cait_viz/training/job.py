"""What a training works on, and the card that says what became of it."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from cait_viz._keras import keras
from cait_viz.drawing.export import versions
from cait_viz.images.folders import Example
from cait_viz.model.config import CaiTConfig
from cait_viz.training.config import RunOptions, TrainingConfig
from cait_viz.training.loader import Dataset
from cait_viz.training.teacher import Teacher
from cait_viz.training.trainer import Trainer, device
from cait_viz.weights.resolve import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training that is about to begin."""

    kind: str  # "finetune" or "distil"
    out: Path  # the folder to write to
    config: TrainingConfig
    options: RunOptions

    # The network to start with.
    architecture: CaiTConfig  # at the resolution that `tensors` belong to
    start: Checkpoint | None  # where they are from; None for random weights
    tensors: Mapping[str, np.ndarray] | None  # timm name -> array

    # What to train on and to validate with.
    names: tuple[str, ...]  # of the classes
    training: Sequence[Example]
    weights: np.ndarray  # (P,) float64, how often an epoch shows each image of `training` on average
    validation: Sequence[Example]
    teacher: Teacher | None = None

    # What the card says of the images; a sentence for each file or folder that was skipped so far.
    data: Mapping[str, Any]
    skipped: Sequence[str] = ()


def card(job: Job, trainer: Trainer, validation: Dataset | None) -> dict[str, Any]:
    """What the card of a finished training says, for JSON, but for its results."""
    loader, backend = trainer.loader, keras.backend.backend()
    images_seen = trainer.step * loader.batch_size
    software = [backend, "keras", *(["openvino"] if job.teacher else [])]
    decoded = [dataset.images for dataset in (loader.dataset, validation) if dataset]
    return {
        "made_by": job.kind,
        "date": datetime.now(UTC).date().isoformat(),
        "command": job.options.command,
        "data": {
            **job.data,
            "training_images": len(loader.dataset.images),
            "validation_images": len(validation.images) if validation else 0,
            "skipped": [*job.skipped, *(sentence for images in decoded for sentence in images.skipped)],
        },
        "start": job.start and {"name": job.start.name, "sha256": job.start.sha256},
        "teacher": job.teacher
        and {"file": job.teacher.path.name, "sha256": job.teacher.sha256, "size": job.teacher.size},
        "seed": job.config.seed,
        "epochs": round(trainer.step / loader.steps_per_epoch, 3),
        "images_seen": images_seen,
        "seconds": round(trainer.seconds, 1),
        "images_per_second": round(images_seen / trainer.seconds, 1) if trainer.seconds else None,
        "config": asdict(job.config),
        "architecture": trainer.architecture.to_dict(),
        "hardware": {
            "backend": backend,
            "device": device(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": versions()
        | {name: metadata.version(name) for name in software if any(metadata.distributions(name=name))},
    }
