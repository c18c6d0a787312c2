"""Training a CaiT of one's own: `finetune` on labelled images, `distil` from a teacher.

The names below are imported with Keras when they are first used, so that the command line can describe a
training without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cait_viz.training.api import distil, finetune
    from cait_viz.training.config import (
        Augmentation,
        DistillationConfig,
        RunOptions,
        Stage,
        TrainingConfig,
    )
    from cait_viz.training.run import Outcome

_MODULES = {
    "Augmentation": "config",
    "DistillationConfig": "config",
    "Outcome": "run",
    "RunOptions": "config",
    "Stage": "config",
    "TrainingConfig": "config",
    "distil": "api",
    "finetune": "api",
}

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
    """Import a public name's module when the name is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
