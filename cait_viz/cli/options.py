"""What several commands share: their options, and the way from there to images and a network."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from cait_viz._backend import import_keras, installed_backend
from cait_viz._checks import check_index
from cait_viz._files import atomic_write
from cait_viz._sizes import ImageSize
from cait_viz._text import one_line
from cait_viz.api import analyze, describe
from cait_viz.engine.base import Engine, EngineName
from cait_viz.engine.load import load_engine, load_keras
from cait_viz.errors import CheckpointError, UsageError
from cait_viz.images.preprocess import View, fitted_size
from cait_viz.images.read import LoadedImage, load_image
from cait_viz.model.config import CaiTConfig, Precision
from cait_viz.results.analysis import Analysis
from cait_viz.results.comparison import MapName
from cait_viz.results.explanation import class_of
from cait_viz.weights.architecture import at_size
from cait_viz.weights.labels import Labels, class_names
from cait_viz.weights.registry import BUNDLED, get_variant
from cait_viz.weights.resolve import Checkpoint, resolve


def _image_size(_: Any, tokens: Sequence[Token]) -> ImageSize:
    """SIDE or HEIGHTxWIDTH."""
    sides = tokens[0].value.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() and len(side) < 6 for side in sides):
        raise ValueError("give SIDE or HEIGHTxWIDTH in pixels, such as 448 or 320x448")
    height, width = int(sides[0]), int(sides[-1])
    return height if height == width else (height, width)


Count = Annotated[int, Parameter(validator=Number(gte=1))]
Index = Annotated[int, Parameter(validator=Number(gte=0))]
Output = Annotated[Path, Parameter(name=("--output", "-o"))]
Image = Annotated[str, Parameter(help="path or web address of an image.")]
Target = Annotated[
    str | None,
    Parameter(
        name="--class", help="the class, by its name or its index from 0 (default: the most probable)."
    ),
]
TeacherSize = Annotated[
    int | None,
    Parameter(
        validator=Number(gte=1),
        help="side of the teacher's input in pixels (default: what its file fixes, or 224).",
    ),
]

# What may be given for several maps has a plural.
_SEVERAL = Parameter(show_default=lambda values: ", ".join(map(str, values)))
_BLOCK = Parameter(
    metavar="INT", help="class-attention block, from 0 (default: the one that serves best as saliency)."
)
_HEAD = Parameter(
    metavar="INT|mean", show_choices=False, help="attention head, from 0, or the mean of the heads."
)
Block = Annotated[int | None, _BLOCK]
Blocks = Annotated[tuple[int, ...], _BLOCK, Parameter(show_default=False)]
Head = Annotated[int | Literal["mean"], _HEAD]
Heads = Annotated[tuple[int | Literal["mean"], ...], _HEAD, _SEVERAL]
Methods = Annotated[
    tuple[MapName, ...],
    _SEVERAL,
    Parameter(
        metavar="METHOD",
        help="how the maps are made: attention, the class attention of one block; rollout, that attention "
        "traced back to the image; gradient, that attention times the gradient of the class's logit; or "
        "relevance, gradient and attention of all blocks; can be repeated.",
    ),
]
METHODS: tuple[MapName, ...] = ("attention", "rollout")


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
        view: what the network sees: crop, the center of the image; squash, all of it, squashed to the input's
            shape; or fit, all of it, in an input of its own shape with about as many patches as the square.
        image_size: of the network's input, in pixels, multiples of the patch's (default: what the weights
            were trained for).
        engine: what runs the network (default: what CAIT_VIZ_ENGINE names, else OpenVINO; Keras where it
            sees a GPU, and where OpenVINO is missing or refuses).
        precision: of the arithmetic; bfloat16 is faster on processors that have it, and coarser.
    """

    model: str | None = None
    weights: Path | None = None
    labels: Path | None = None
    view: Literal[View, "fit"] = "crop"
    image_size: Annotated[
        ImageSize | None, Parameter(converter=_image_size, n_tokens=1, metavar="SIDE|HEIGHTxWIDTH")
    ] = None
    engine: EngineName | None = None
    precision: Precision = "float32"

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights, downloaded if need be; how their file was understood is told."""
        checkpoint = resolve(self.model, self.weights).at(self.image_size)
        if checkpoint.remark:
            tell(checkpoint.remark)
        return checkpoint

    @property
    def config(self) -> CaiTConfig:
        """The architecture, which takes no download; the model, weights and labels are checked."""
        return self._classifier[0]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; a file of labels is read once."""
        return self._classifier[1]

    @cached_property
    def _classifier(self) -> tuple[CaiTConfig, tuple[str, ...]]:
        named = BUNDLED if self.model is None else get_variant(self.model)
        config = self.checkpoint.config if self.weights else named.config
        if config.pre_logits:
            name = one_line(self.checkpoint.origin.name)
            raise CheckpointError(
                f"{name}: has no classifier (head.weight, head.bias); give weights with a head"
            )
        names = class_names(config.num_classes, self.labels)
        return at_size(named.name, config, self.image_size), names

    def check_block(self, block: int | None) -> None:
        """Refuse a class-attention block that the network does not have; None is the best one."""
        if block is not None:
            check_index("CA block", block, self.config.ca_ffn_layers)

    def head_index(self, head: int | Literal["mean"]) -> int | None:
        """The head itself, if the network has it, and None for the mean of the heads."""
        return None if head == "mean" else check_index("head", head, self.config.num_heads)

    def class_index(self, target: str | None) -> int | None:
        """The index of a class that is given by its name or index; None stays None, the most probable one."""
        return None if target is None else class_of(self.class_names, target)

    def inputs(self, *images: str) -> list[Path]:
        """The files that a command reads, none of which may be replaced by its output."""
        return [*map(Path, images), *(file for file in (self.weights, self.labels) if file)]

    def read(self, *images: str) -> list[LoadedImage]:
        """The images, each read once; what can be refused before is."""
        _ = self.config
        found = {image: load_image(image) for image in dict.fromkeys(images)}
        for image in found.values():
            if image.remark:
                tell(image.remark)
        return [found[image] for image in images]

    def load(self, *images: str) -> tuple[list[LoadedImage], Engine]:
        """The images, and the network ready to run; what can be refused is refused before it is loaded."""
        loaded = self.read(*images)
        return loaded, self.engine_for(*loaded)

    def engine_for(self, *images: LoadedImage) -> Engine:
        """The network, ready to run on images; what a person should know of it is told."""
        fitted = {self.fitted(image) for image in images} if self.view == "fit" else {None}
        if len(fitted) > 1:
            raise UsageError(
                "--view fit gives the input the shape of one image, and these have several shapes"
            )
        engine = self.load_engine(fitted.pop())
        model = describe(engine)
        if not model.as_trained:
            tell(
                f"the network sees {model.input_size} pixels; it was trained at {model.trained_size} × "
                f"{model.trained_size}"
            )
        return engine

    @property
    def seen(self) -> View:
        """What the network sees of an image, whose shape its input has if it is to fit."""
        return "squash" if self.view == "fit" else self.view

    def fitted(self, image: LoadedImage) -> ImageSize:
        """The size of an input of the shape of an image."""
        if self.config.grid_shape[0] != self.config.grid_shape[1]:
            raise UsageError(
                "--view fit takes the number of patches from a square --image-size; give its side"
            )
        return fitted_size(image.image.size, self.config.image_shape[0], self.config.patch_size)

    def load_engine(self, image_size: ImageSize | None = None) -> Engine:
        """The network, ready to run, with the input of the options or of another size."""
        return load_engine(
            self.checkpoint if image_size is None else self.checkpoint.at(image_size),
            self.class_names,
            engine=self.engine,
            precision=self.precision,
            load_keras=_load_keras,
            tell=tell,
        )

    def analyze(self, *images: str) -> list[Analysis]:
        """What the network makes of each image."""
        loaded, engine = self.load(*images)
        found = {image: analyze(image, engine, self.seen) for image in dict.fromkeys(loaded)}
        return [found[image] for image in loaded]


@dataclass(frozen=True, kw_only=True)
class ManyImagesModel(ModelOptions):
    """The same where one input has to do for images of every shape.

    Attributes:
        view: what the network sees: crop, the center of the image; or squash, all of it, squashed to the
            input's shape.
    """

    view: View = "crop"


@dataclass(frozen=True, kw_only=True)
class StudentModel(ModelOptions):
    """Which network a teacher teaches.

    Attributes:
        model: a name that `cait-viz models` lists, of which the architecture is taken (default: bundled, or
            the architecture that --weights show).
        weights: what to start from: a file or folder as for the other commands, with as many classes as the
            teacher (default: random weights).
        labels: the names of the teacher's classes, one a line or as JSON (default: the model's own).
    """

    model: str | None = None
    weights: Path | None = None
    labels: Path | None = None


# What a command leaves out that makes no sense for it.
EvaluatedModel = Annotated[ModelOptions, Parameter(parse="^(?!view$)")]
ServedModel = Annotated[ModelOptions, Parameter(parse="^(?!(view|image_size|model)$)")]
_FOR_TRAINING = Parameter(parse="^(?!(view|image_size|engine|precision)$)")
TrainedModel = Annotated[ModelOptions, _FOR_TRAINING]
TaughtModel = Annotated[StudentModel, _FOR_TRAINING]
ExportedModel = Annotated[ModelOptions, Parameter(parse="^(?!(view|model|engine|precision)$)")]


def _load_keras(checkpoint: Checkpoint, labels: Labels | None, precision: Precision) -> Engine:
    import_keras(installed_backend())  # without its log lines and the user's settings
    return load_keras(checkpoint, labels, precision)


def tell(sentence: str) -> None:
    """Tell a person something beside the result."""
    print(f"cait-viz: note: {one_line(sentence, 500)}", file=sys.stderr)


def write(path: Path, content: bytes, what: str) -> None:
    """Write a file, whole or not at all, and say what it is."""
    with atomic_write(path) as file:
        file.write(content)
    report(path, what)


def report(path: Path, what: str) -> None:
    """Say where something was written, and what it is."""
    print(f"{one_line(str(path), 300)}: {one_line(what, 500)}")
