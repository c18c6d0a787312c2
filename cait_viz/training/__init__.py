"""Training your own CaiT: `finetune` on labeled images, `distil` from a teacher.

Keras is imported with `finetune`, `distil` or `Outcome`: the command line describes a training without it.
"""

from typing import TYPE_CHECKING, Any

from cait_viz.training.config import Augmentation, DistillationConfig, RunOptions, Stage, TrainingConfig

if TYPE_CHECKING:
    from cait_viz.training.api import Outcome, distil, finetune

__all__ = [
    "Augmentation",
    "DistillationConfig",
    "Outcome",
    "RunOptions",
    "Stage",
    "TrainingConfig",
    "distil",
    "finetune",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cait_viz.training import api

    return getattr(api, name)
