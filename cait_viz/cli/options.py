"""What several commands share: their options, and the way from there to images and a network."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from cait_viz._text import one_line
from cait_viz.cli.main import INTERRUPTED
from cait_viz.errors import CheckpointError
from cait_viz.images.preprocess import View
from cait_viz.images.read import LoadedImage, load_image
from cait_viz.model.config import CaiTConfig
from cait_viz.weights.labels import class_names
from cait_viz.weights.registry import BUNDLED, get_variant
from cait_viz.weights.resolve import Checkpoint, resolve

if TYPE_CHECKING:
    from cait_viz.analysis import Analysis
    from cait_viz.model.cait import CaiT


@Parameter(name="*", group="Model")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network, and what it sees.

    Attributes:
        model: a name that `cait-viz models` lists (default: bundled, or the architecture that --weights
            show); downloaded if it is not on this machine.
        weights: a checkpoint, in place of the model's own: a safetensors file with timm's tensor names.
        labels: the names of the classes, one a line.
        view: what the network sees: the centre square, or the whole image squashed to a square.
    """

    model: str | None = None
    weights: Path | None = None
    labels: Path | None = None
    view: View = "crop"

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights, downloaded if need be."""
        return resolve(self.model, self.weights)

    @cached_property
    def config(self) -> CaiTConfig:
        """The architecture, which takes no download; the model, weights and labels are checked."""
        named = BUNDLED if self.model is None else get_variant(self.model)
        config = self.checkpoint.config if self.weights else named.config
        if config.pre_logits:
            name = one_line(self.checkpoint.path.name)
            raise CheckpointError(
                f"{name}: has no classifier (head.weight, head.bias); give weights with a head"
            )
        class_names(config.num_classes, self.labels)
        return config

    def inputs(self, *images: str) -> list[Path]:
        """The files that a command reads, none of which may be replaced by its output."""
        return [*map(Path, images), *(file for file in (self.weights, self.labels) if file)]

    def load(self, *images: str) -> tuple[list[LoadedImage], "CaiT"]:
        """The images and the network; whatever can be refused is refused before TensorFlow starts."""
        _ = self.config
        loaded = [load_image(image) for image in images]
        for remark in filter(None, [*(image.remark for image in loaded), self.checkpoint.remark]):
            print(f"cait-viz: note: {one_line(remark, 500)}", file=sys.stderr)
        from cait_viz._backend import import_tensorflow

        with interrupted_at_once():
            import_tensorflow()
        from cait_viz.api import from_checkpoint

        return loaded, from_checkpoint(self.checkpoint, self.labels)

    def analyze(self, *images: str) -> list["Analysis"]:
        """What the network makes of each image."""
        loaded, network = self.load(*images)
        from cait_viz.api import analyze

        return [analyze(image, network, self.view) for image in loaded]


Count = Annotated[int, Parameter(validator=Number(gte=1))]
Index = Annotated[int, Parameter(validator=Number(gte=0))]
Output = Annotated[Path, Parameter(name=("--output", "-o"))]
# Of commands that look at no image; the third is for those that say otherwise which model they mean.
ModelAlone = Annotated[ModelOptions, Parameter(parse="^(?!view)")]
WeightsAlone = Annotated[ModelOptions, Parameter(parse="^(?!view|model)")]


def report(path: Path, what: str) -> None:
    """Say where something was written, and what it is."""
    print(f"{one_line(str(path), 300)}: {one_line(what, 500)}")


@contextlib.contextmanager
def interrupted_at_once() -> Iterator[None]:
    """End the process on Ctrl-C at once: an import of compiled modules would turn it into another error."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as in the background
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
