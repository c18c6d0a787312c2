"""From an image to its `Analysis`: the one module that knows both the network and the drawing.

A `source` is a path, a web address, bytes, a Pillow image, an array or a loaded image; ImageError says that
it cannot be read. A `view` is "crop", the center, or "squash", all of the image squashed to the input's
shape. A `model` is what `load_engine` or `load_model` gave; only the latter imports Keras.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cait_viz._sizes import ImageSize
from cait_viz.attention.probabilities import probabilities
from cait_viz.engine import load
from cait_viz.engine.base import Engine, EngineName
from cait_viz.errors import CheckpointError
from cait_viz.images import preprocess as preprocessing
from cait_viz.images.preprocess import View
from cait_viz.images.read import ImageSource, LoadedImage, load_image
from cait_viz.model.config import Precision
from cait_viz.results.analysis import Analysis, ModelInfo
from cait_viz.weights.hub import Progress as DownloadProgress
from cait_viz.weights.labels import class_kinds, class_names
from cait_viz.weights.resolve import resolve

if TYPE_CHECKING:
    from cait_viz.model.cait import CaiT


def load_engine(
    name: str | None = None,
    *,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    image_size: ImageSize | None = None,
    engine: EngineName | None = None,
    precision: Precision = "float32",
    download: bool = True,
    progress: bool | DownloadProgress = True,
    tell: Callable[[str], object] = lambda _: None,
) -> Engine:
    """A CaiT that is ready to look at images: by OpenVINO, without Keras in this process.

    The first time that a checkpoint is asked for, its graph is exported to the user's cache, which takes a
    few seconds. Keras runs it where it sees a GPU, and where OpenVINO is missing or refuses.

    Args:
        name: a variant, see `cait_viz.VARIANTS`. By default the bundled one, or the architecture that
            `weights` shows.
        weights: a checkpoint in place of the variant's own: safetensors with timm's tensor names, a
            SavedModel's folder or a PyTorch file, see `cait_viz.weights.resolve.resolve`.
        labels: a file with the names of the classes, see `cait_viz.weights.labels.class_names`.
        image_size: size of the network's input in pixels: the side of a square, or height and width,
            multiples of the patch's. By default what the weights were trained for. For another size the
            position embedding is interpolated bicubically (paper, section 4.1); the network was not trained
            for it.
        engine: "openvino" or "keras", and no other; the environment's CAIT_VIZ_ENGINE is the default.
        precision: type of the arithmetic, "float32" or "bfloat16"; the weights and the outputs are float32.
        download: whether weights that are not on this machine may be downloaded.
        progress: whether a download shows a bar, or a function of (bytes so far, bytes in all).
        tell: gets a sentence where Keras runs the network although nobody asked for it, and where of the
            weights in a file the averaged ones (EMA) are taken.

    Raises:
        UnknownModelError: there is no variant of that name.
        CheckpointError: the weights or the labels cannot be used; the message lists every mismatch.
        EngineError: the engine that was asked for is missing, or refuses the network; or the memory has no
            room for an input of that size.
        SelectionError: an image size that the patches do not divide; no such engine or precision.
    """
    checkpoint = resolve(name, weights, download=download, progress=progress).at(image_size)
    if checkpoint.remark:
        tell(checkpoint.remark)
    return load.load_engine(checkpoint, labels, engine=engine, precision=precision, tell=tell)


def load_model(
    name: str | None = None,
    *,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    image_size: ImageSize | None = None,
    download: bool = True,
    progress: bool | DownloadProgress = True,
) -> "CaiT":
    """A CaiT of Keras', with its weights, for training, gradients and what `load_engine` does not do.

    Arguments and errors as for `load_engine`.
    """
    from cait_viz.engine.keras import load_network

    checkpoint = resolve(name, weights, download=download, progress=progress)
    return load_network(checkpoint.at(image_size), labels)


def preprocess(source: ImageSource, model: "Engine | CaiT", view: View = "crop") -> np.ndarray:
    """The network's input for one image, (1, height, width, 3) float32, normalized as ImageNet's.

    Raises:
        ImageError: the image cannot be read.
        SelectionError: there is no such view.
    """
    return preprocessing.prepare(source, model.config.image_size, view)


def analyze(
    source: ImageSource, model: "Engine | CaiT", view: View = "crop", name: str | None = None
) -> Analysis:
    """Classify one image, called `name` or after its file, and keep where each class-attention head looked.

    Raises:
        ImageError: the image cannot be read.
        CheckpointError: the model has no classifier, or its numbers are not finite.
        SelectionError: there is no such view.
    """
    engine = classifier_of(model)
    loaded = load_image(source, name)
    logits, _, class_attention = engine.forward(preprocess(loaded, model, view))
    first = {key: rows[0] for key, rows in class_attention.items()}
    return analysis_of(loaded, engine, view, logits[0], first)


def attention_tensors(
    source: ImageSource, model: "Engine | CaiT", view: View = "crop", sa_blocks: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """The raw numbers of one image, as the network gives them, float32.

    "pixels" (1, height, width, 3), "logits" (1, classes), every "ca_ffn_block_{i}_att" (1, H, 1, 1 + N) and
    each "sa_ffn_block_{k}_att" (1, H, N, N) asked for; SelectionError if there is no such block.
    """
    pixels = preprocess(source, model, view)
    logits, sa_attention, ca_attention = engine_of(model).forward(pixels, sa_blocks)
    return {"pixels": pixels, "logits": logits, **ca_attention, **sa_attention}


def analysis_of(
    loaded: LoadedImage, engine: Engine, view: View, logits: np.ndarray, attention: Mapping[str, np.ndarray]
) -> Analysis:
    """The result of one image: of its logits (C,) and its class attention, a block's (H, 1, 1 + N)."""
    labels = labels_of(engine)
    return Analysis(
        image=loaded.pixels,
        image_name=loaded.name,
        file_sha256=loaded.file_sha256,
        model=describe(engine),
        view=view,
        box=preprocessing.seen_box(loaded.image.size, engine.config.image_size, view),
        labels=labels,
        probabilities=probabilities(logits),
        logits=logits,
        class_attention={key: rows[:, 0] for key, rows in attention.items()},
        class_kinds=class_kinds(labels),
        image_remark=loaded.remark,
    )


def labels_of(engine: Engine) -> tuple[str, ...]:
    """The name of each class."""
    return engine.labels or class_names(engine.config.num_classes)


def classifier_of(model: "Engine | CaiT") -> Engine:
    """The engine of a model; CheckpointError if it has no classifier."""
    if model.config.pre_logits:
        raise CheckpointError("this model has no classifier (pre_logits); give it weights with a head")
    return engine_of(model)


def engine_of(model: "Engine | CaiT") -> Engine:
    """The engine of a model, which is that model itself or runs it."""
    if isinstance(model, Engine):
        return model
    from cait_viz.engine import keras

    return keras.engine_of(model)


def describe(model: Engine) -> ModelInfo:
    """What a result says of the model that made it."""
    source = model.source
    return ModelInfo(
        name=source.name,
        weights=source.file,
        weights_sha256=source.sha256,
        saliency_block=source.saliency_block,
        image_size=model.config.image_size,
        trained_size=source.trained_size,
        patch_size=model.config.patch_size,
    )
