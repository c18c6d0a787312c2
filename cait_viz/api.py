"""From an image to its `Analysis`: the one module that knows both the network and the drawing.

A `source` is a path, a web address, bytes, a Pillow image, an array or a loaded image; ImageError says that
it cannot be read. A `view` is "crop", the center square, or "whole", the whole image squashed to a square.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cait_viz.analysis import Analysis, ModelInfo
from cait_viz.attention.probabilities import probabilities
from cait_viz.engine import keras as engine
from cait_viz.errors import CheckpointError
from cait_viz.images import preprocess as preprocessing
from cait_viz.images.preprocess import View
from cait_viz.images.read import ImageSource, load_image
from cait_viz.model.cait import CaiT, WeightsSource
from cait_viz.model.layers import zero_weights
from cait_viz.model.timm_names import assign
from cait_viz.weights.architecture import read_tensors
from cait_viz.weights.hub import Progress
from cait_viz.weights.labels import class_names
from cait_viz.weights.resolve import Checkpoint, resolve


def load_model(
    name: str | None = None,
    *,
    weights: str | Path | None = None,
    labels: str | Path | None = None,
    download: bool = True,
    progress: bool | Progress = True,
) -> CaiT:
    """A CaiT with its weights.

    Args:
        name: a variant, see `cait_viz.VARIANTS`. By default the bundled one, or the architecture that
            `weights` shows.
        weights: a safetensors file with timm's tensor names, in place of the variant's own weights.
        labels: a file with the names of the classes, see `cait_viz.weights.labels.class_names`.
        download: whether weights that are not on this machine may be downloaded.
        progress: whether a download shows a bar, or a function of (bytes so far, bytes in all).

    Raises:
        UnknownModelError: there is no variant of that name.
        CheckpointError: the weights or the labels cannot be used; the message lists every mismatch.
    """
    return from_checkpoint(resolve(name, weights, download=download, progress=progress), labels)


def from_checkpoint(checkpoint: Checkpoint, labels: str | Path | None = None) -> CaiT:
    """The network of a checkpoint, float32 whatever the user set in Keras; the rest as in `load_model`."""
    tensors = read_tensors(checkpoint)
    names = class_names(checkpoint.config.num_classes, labels)
    with zero_weights():
        model = CaiT(checkpoint.config)
    assign(model, tensors)
    model.source = WeightsSource(
        name=checkpoint.name,
        file=checkpoint.path.name,
        sha256=checkpoint.sha256,
        saliency_block=checkpoint.saliency_block,
    )
    model.labels = names
    return model


def preprocess(source: ImageSource, model: CaiT, view: View = "crop") -> np.ndarray:
    """The network's input for one image: (1, S, S, 3) float32, normalized with ImageNet's statistics."""
    return preprocessing.prepare(source, model.config.image_size, view)


def analyze(source: ImageSource, model: CaiT, view: View = "crop", name: str | None = None) -> Analysis:
    """Classify one image, called `name` or after its file, and keep where each class-attention head looked.

    Raises:
        ImageError: the image cannot be read.
        CheckpointError: the model has no classifier, or its numbers are not finite.
    """
    if model.config.pre_logits:
        raise CheckpointError("this model has no classifier (pre_logits); give it weights with a head")
    loaded = load_image(source, name)
    logits, _, ca_attention = engine.forward(model, preprocess(loaded, model, view))
    return Analysis(
        image=np.asarray(loaded.image),
        image_name=loaded.name,
        image_sha256=loaded.sha256,
        model=describe(model),
        view=view,
        box=preprocessing.seen_box(loaded.image.size, model.config.image_size, view),
        labels=model.labels or class_names(model.config.num_classes),
        probabilities=probabilities(logits[0]),
        logits=logits[0],
        class_attention={key: attention[0, :, 0] for key, attention in ca_attention.items()},
        image_remark=loaded.remark,
    )


def attention_tensors(
    source: ImageSource, model: CaiT, view: View = "crop", sa_blocks: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """The raw numbers of one image, as the network gives them, float32.

    "pixels" (1, S, S, 3), "logits" (1, classes), every "ca_ffn_block_{i}_att" (1, H, 1, 1 + N) and each
    "sa_ffn_block_{k}_att" (1, H, N, N) asked for; SelectionError if there is no such self-attention block.
    """
    pixels = preprocess(source, model, view)
    logits, sa_attention, ca_attention = engine.forward(model, pixels, sa_blocks)
    return {"pixels": pixels, "logits": logits, **ca_attention, **sa_attention}


def describe(model: CaiT) -> ModelInfo:
    """What a result says of the model that made it."""
    source = model.source or WeightsSource(name=model.name, file="", sha256="", saliency_block=0)
    return ModelInfo(
        name=source.name,
        weights=source.file,
        weights_sha256=source.sha256,
        saliency_block=source.saliency_block,
        image_size=model.config.image_size,
        patch_size=model.config.patch_size,
    )
