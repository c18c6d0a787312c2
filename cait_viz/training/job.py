"""What a training works on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cait_viz.images.folders import Example
from cait_viz.model.config import CaiTConfig
from cait_viz.training.config import RunOptions, TrainingConfig
from cait_viz.training.teacher import Teacher
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
