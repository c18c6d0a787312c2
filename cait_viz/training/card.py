"""The card of a training, in JSON: what the weights were made of, how, where and with what result."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from cait_viz._files import replacing
from cait_viz.drawing.export import versions
from cait_viz.training.job import Job
from cait_viz.training.loader import Dataset, Loader
from cait_viz.training.trainer import Trainer, device


def write_card(
    path: Path,
    job: Job,
    trainer: Trainer,
    loader: Loader,
    training: Dataset,
    validation: Dataset | None,
    command: str,
    results: Mapping[str, Any],
) -> None:
    """Write the card of a training that is done.

    Args:
        path: the file to write.
        job: what the training worked on.
        trainer: at the last step.
        loader: its batches.
        training: the images trained on.
        validation: the images validated with.
        command: that started the training.
        results: what the card says of the weights and their accuracy.

    Raises:
        OutputError: it cannot be written.
    """
    backend = keras.backend.backend()
    images = trainer.step * loader.batch_size
    software = [backend, "keras", *(["openvino"] if job.teacher else [])]
    decoded = [training.images, *([validation.images] if validation else [])]
    card = {
        "made_by": job.kind,
        "date": datetime.now(UTC).date().isoformat(),
        "command": command,
        "data": {
            **job.data,
            "training_images": len(training.images),
            "validation_images": len(validation.images) if validation else 0,
            "skipped": [*job.skipped, *(sentence for part in decoded for sentence in part.skipped)],
        },
        "start": job.start and {"name": job.start.name, "sha256": job.start.sha256},
        "teacher": job.teacher
        and {"file": job.teacher.path.name, "sha256": job.teacher.sha256, "size": job.teacher.size},
        "seed": job.config.seed,
        "epochs": round(trainer.step / loader.steps_per_epoch, 3),
        "images_seen": images,
        "seconds": round(trainer.seconds, 1),
        "images_per_second": round(images / trainer.seconds, 1) if trainer.seconds else None,
        "config": job.config.to_dict(),
        "architecture": trainer.architecture.to_dict(),
        "hardware": {
            "backend": backend,
            "device": device(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": versions()
        | {name: metadata.version(name) for name in software if any(metadata.distributions(name=name))},
        **results,
    }
    text = json.dumps(card, indent=2, ensure_ascii=False)
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace") + b"\n")
