"""The models that the app lists: those of the registry, and one of the person who started it."""

from dataclasses import dataclass
from pathlib import Path

from cait_viz._text import one_line
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import count_parameters
from cait_viz.serving.engines import ModelChoice
from cait_viz.weights.registry import VARIANTS, Variant
from cait_viz.weights.resolve import FILENAME, Checkpoint

# In the address of a comparison: the second map is of the same model, or the same image.
SAME = "same"

# Longer names have no room in the sidebar.
_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class AvailableModel:
    """A model that a visitor may choose."""

    name: str  # in the list of models, the address and the results; no two models share one
    config: CaiTConfig
    parameters: int
    saliency_block: int  # index of the class-attention block that serves best as saliency
    accuracy: str  # what is known of it, in a few words for a person
    choice: ModelChoice  # what the engines know it by
    variant: Variant | None = None  # the registry's entry; None for a user's own model
    weights: str = ""  # name of the file of a user's own model
    remark: str = ""  # what a person should know of that file, a sentence


def registry_model(variant: Variant) -> AvailableModel:
    """A model of the registry, the bundled one included."""
    return AvailableModel(
        name=variant.name,
        config=variant.config,
        parameters=variant.parameters,
        saliency_block=variant.saliency_block,
        accuracy=variant.accuracy,
        choice=ModelChoice(variant.name),
        variant=variant,
    )


def user_model(checkpoint: Checkpoint, labels: Path | None = None) -> AvailableModel:
    """A model from a user's own checkpoint, as the file is now, with the names of its classes in a file."""
    # A link keeps the name that the user gave, and not that of what it points to.
    path = checkpoint.origin.parent.resolve() / checkpoint.origin.name
    name, variant = _name_after(path), checkpoint.variant
    _ = checkpoint.sha256  # from here on a change of the file is noticed
    known = variant.accuracy if variant and checkpoint.as_published else None
    return AvailableModel(
        name=name,
        config=checkpoint.config,
        parameters=count_parameters(checkpoint.config),
        saliency_block=checkpoint.saliency_block,
        accuracy=known or "whose accuracy is not known here",
        choice=ModelChoice(
            checkpoint=checkpoint,
            labels=labels and labels.expanduser().resolve(),
            display_name=name,
        ),
        weights=one_line(path.name),
        remark=checkpoint.remark,
    )


def _name_after(path: Path) -> str:
    """The file's stem, or its folder's name where the stem tells nothing or is a name of the registry."""
    # The stem that training and the hub give every checkpoint tells none from another.
    taken = {*VARIANTS, SAME, Path(FILENAME).stem, ""}
    stem, folder = (one_line(name, _LONGEST_NAME) for name in (path.stem, path.parent.name))
    return next((name for name in (stem, folder) if name not in taken), f"{stem} (your own)")
