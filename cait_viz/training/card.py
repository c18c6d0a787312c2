"""The card of a training: what the weights were made of, how, where and with what result."""

import os
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import keras

from cait_viz.drawing.export import versions
from cait_viz.training.job import Job
from cait_viz.training.loader import Dataset
from cait_viz.training.trainer import Trainer, device


def card(job: Job, trainer: Trainer, validation: Dataset | None) -> dict[str, Any]:
    """What the card of a finished training says, for JSON, but for its results.

    Args:
        job: what the training worked on.
        trainer: at the last step.
        validation: the images validated with.
    """
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
