"""What several commands share: their options, and the way from there to images and a network."""

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from cait_viz._backend import import_keras, installed_backend
from cait_viz._files import replacing
from cait_viz._text import one_line
from cait_viz.analysis import Analysis
from cait_viz.api import analyze
from cait_viz.engine.base import Engine, EngineName, Precision
from cait_viz.engine.load import load_engine, load_keras
from cait_viz.errors import CheckpointError
from cait_viz.images.preprocess import View
from cait_viz.images.read import LoadedImage, load_image
from cait_viz.model.config import CaiTConfig
from cait_viz.weights.labels import class_names
from cait_viz.weights.registry import BUNDLED, get_variant
from cait_viz.weights.resolve import Checkpoint, resolve


@Parameter(name="*", group="Model")
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network, and what it sees.

    Attributes:
        model: a name that `cait-viz models` lists (default: bundled, or the architecture that --weights
            show); downloaded if it is not on this machine.
        weights: a checkpoint, in place of the model's own: safetensors with timm's tensor names, a
            SavedModel's folder or the authors' .pth (default: the model's own).
        labels: the names of the classes, one a line or as JSON (default: the model's own).
        view: what the network sees: the center square, or the whole image squashed to a square.
        engine: what runs the network (default: what CAIT_VIZ_ENGINE names, else OpenVINO; Keras where it
            sees a GPU, and where OpenVINO is missing or refuses).
        precision: of the arithmetic; bfloat16 is faster on processors that have it, and coarser.
    """

    model: str | None = None
    weights: Path | None = None
    labels: Path | None = None
    view: View = "crop"
    engine: EngineName | None = None
    precision: Precision = "float32"

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
            name = one_line(self.checkpoint.given.name)
            raise CheckpointError(
                f"{name}: has no classifier (head.weight, head.bias); give weights with a head"
            )
        class_names(config.num_classes, self.labels)
        return config

    def inputs(self, *images: str) -> list[Path]:
        """The files that a command reads, none of which may be replaced by its output."""
        return [*map(Path, images), *(file for file in (self.weights, self.labels) if file)]

    def load(self, *images: str) -> tuple[list[LoadedImage], Engine]:
        """The images, and the network ready to run; what can be refused is refused before it is loaded."""
        _ = self.config
        loaded = [load_image(image) for image in images]
        for remark in filter(None, [*(image.remark for image in loaded), self.checkpoint.remark]):
            note(remark)
        return loaded, self.load_engine()

    def load_engine(self) -> Engine:
        """The network, ready to run."""
        return load_engine(
            self.checkpoint,
            self.labels,
            engine=self.engine,
            precision=self.precision,
            load_keras=_load_keras,
            tell=note,
        )

    def analyze(self, *images: str) -> list[Analysis]:
        """What the network makes of each image."""
        loaded, engine = self.load(*images)
        return [analyze(image, engine, self.view) for image in loaded]


Count = Annotated[int, Parameter(validator=Number(gte=1))]
Index = Annotated[int, Parameter(validator=Number(gte=0))]
Output = Annotated[Path, Parameter(name=("--output", "-o"))]
# Of commands that look at no single image; that choose the model otherwise; that run none.
NoView = Annotated[ModelOptions, Parameter(parse="^(?!view)")]
NoModel = Annotated[ModelOptions, Parameter(parse="^(?!view|model)")]
ModelAlone = Annotated[ModelOptions, Parameter(parse="^(?!view|engine|precision)")]
WeightsAlone = Annotated[ModelOptions, Parameter(parse="^(?!view|model|engine|precision)")]


def _load_keras(checkpoint: Checkpoint, labels: str | Path | None, precision: Precision) -> Engine:
    import_keras(installed_backend())  # without its log lines and the user's settings
    return load_keras(checkpoint, labels, precision)


def note(sentence: str) -> None:
    """Tell a person something beside the result."""
    print(f"cait-viz: note: {one_line(sentence, 500)}", file=sys.stderr)


def write(path: Path, content: bytes, what: str) -> None:
    """Write a file, whole or not at all, and say what it is."""
    with replacing(path) as file:
        file.write(content)
    report(path, what)


def report(path: Path, what: str) -> None:
    """Say where something was written, and what it is."""
    print(f"{one_line(str(path), 300)}: {one_line(what, 500)}")
