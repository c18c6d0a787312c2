"""From an image to its `Analysis`: the one module that knows both the network and the drawing.

A `source` is a path, a web address, bytes, a Pillow image, an array or a loaded image; ImageError says that
it cannot be read. A `view` is "crop", the center, or "whole", the whole image squashed to the input's shape.
A `model` is what `load_engine` or `load_model` gave; only the latter imports Keras.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from cait_viz._checks import check_choice, check_index
from cait_viz._sizes import ImageSize
from cait_viz.attention.maps import Floats
from cait_viz.attention.patch_stage import mean_distance, read_out
from cait_viz.attention.probabilities import probabilities
from cait_viz.attention.relevance import weighted
from cait_viz.engine import load
from cait_viz.engine.base import Engine, EngineName, Precision
from cait_viz.engine.randomized import randomization_steps
from cait_viz.errors import CheckpointError, SelectionError
from cait_viz.images import preprocess as preprocessing
from cait_viz.images.preprocess import View
from cait_viz.images.read import ImageSource, LoadedImage, load_image
from cait_viz.metrics.accuracy import with_rest
from cait_viz.results.ablation import Ablation
from cait_viz.results.analysis import Analysis, ModelInfo
from cait_viz.results.comparison import Map, MapName, attention_map, explaining_map, rollout_map
from cait_viz.results.explanation import Explanation, class_of
from cait_viz.results.randomization import Randomization
from cait_viz.results.tracing import BlockAttention, Trace
from cait_viz.results.trustworthiness import Progress, Trust, measure_trust
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
        weights: a safetensors file with timm's tensor names, in place of the variant's own weights.
        labels: a file with the names of the classes, see `cait_viz.weights.labels.class_names`.
        image_size: of the network's input, in pixels: the side of a square, or height and width, multiples of
            the patch's. By default what the weights were trained for. For another size the position embedding
            is interpolated bicubically (paper, section 4.1); the network was not trained for it.
        engine: "openvino" or "keras", and no other; the environment's CAIT_VIZ_ENGINE is the default.
        precision: of the arithmetic, "float32" or "bfloat16"; the weights and the answers are float32.
        download: whether weights that are not on this machine may be downloaded.
        progress: whether a download shows a bar, or a function of (bytes so far, bytes in all).
        tell: gets a sentence where Keras runs the network although nobody asked for it.

    Raises:
        UnknownModelError: there is no variant of that name.
        CheckpointError: the weights or the labels cannot be used; the message lists every mismatch.
        EngineError: the engine that was asked for is missing, or refuses the network; or the memory has no
            room for an input of that size.
        SelectionError: an image size that the patches do not divide.
    """
    checkpoint = resolve(name, weights, download=download, progress=progress).at(image_size)
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
    """The network's input for one image, (1, height, width, 3) float32, normalized as ImageNet's."""
    return preprocessing.prepare(source, model.config.image_size, view)


def analyze(
    source: ImageSource, model: "Engine | CaiT", view: View = "crop", name: str | None = None
) -> Analysis:
    """Classify one image, called `name` or after its file, and keep where each class-attention head looked.

    Raises:
        ImageError: the image cannot be read.
        CheckpointError: the model has no classifier, or its numbers are not finite.
    """
    engine = _classifier(model)
    loaded = load_image(source, name)
    logits, _, class_attention = engine.forward(preprocess(loaded, model, view))
    return _analysis(loaded, engine, view, logits[0], {key: rows[0] for key, rows in class_attention.items()})


def trace(source: ImageSource, model: "Engine | CaiT", view: View = "crop", name: str | None = None) -> Trace:
    """Classify one image, and keep what happened before the class token, block by block.

    Arguments and errors as for `analyze`. The attention of one block at a time is held.
    """
    engine, loaded = _classifier(model), load_image(source, name)
    config = engine.config
    depths = engine.patches(preprocess(loaded, model, view))
    means, distances = [], []
    for block, patches in enumerate(depths[:-1]):
        softmax = engine.self_attention(patches, block).softmax
        means.append(softmax.mean(axis=0))
        distances.append(mean_distance(softmax, config.grid_shape, config.patch_size))
    logits, class_attention = engine.class_stage(depths)
    last = {key: rows[-1] for key, rows in class_attention.items()}
    return Trace(
        analysis=_analysis(loaded, engine, view, logits[-1], last),
        attention=np.stack(means),
        distances=np.stack(distances),
        lens_probabilities=probabilities(logits),
        lens_attention={key: rows[:, :, 0] for key, rows in class_attention.items()},
    )


def block_attention(
    source: ImageSource, model: "Engine | CaiT", block: int, view: View = "crop", name: str | None = None
) -> BlockAttention:
    """The attention of one self-attention block, from 0, for one image called `name` or after its file.

    Raises:
        ImageError: the image cannot be read.
        SelectionError: there is no such block.
    """
    engine = _engine(model)
    index = check_index("SA block", block, engine.config.sa_ffn_layers)
    [patches] = engine.patches(preprocess(load_image(source, name), model, view), [index])
    return BlockAttention(index, engine.config.grid_shape, *engine.self_attention(patches, index))


def ablate(
    source: ImageSource, model: "Engine | CaiT", view: View = "crop", name: str | None = None
) -> Ablation:
    """Classify one image, and classify it anew with each class-attention head silenced in turn.

    Arguments and errors as for `analyze`. The patches are computed once.
    """
    engine, loaded = _classifier(model), load_image(source, name)
    heads = engine.config.ca_ffn_layers, engine.config.num_heads
    patches = engine.patches(preprocess(loaded, model, view), [engine.config.sa_ffn_layers])
    # With all heads, then without each.
    masks = np.concatenate([np.ones((1, *heads)), 1 - np.eye(math.prod(heads)).reshape(-1, *heads)])
    logits, class_attention = engine.class_stage(np.repeat(patches, len(masks), axis=0), masks)
    first = {key: rows[0] for key, rows in class_attention.items()}
    return Ablation(
        analysis=_analysis(loaded, engine, view, logits[0], first),
        logits=logits[1:].reshape(*heads, -1),
    )


def explain(
    source: ImageSource,
    model: "Engine | CaiT",
    target: str | int | None = None,
    view: View = "crop",
    name: str | None = None,
) -> Explanation:
    """Which patches of an image speak for one class.

    TensorFlow computes the gradients; for an engine in a process of its own, which takes seconds to start.

    Args:
        source: the image.
        model: the network.
        target: the class, by its index or name; by default the most probable one.
        view: what the network sees.
        name: what to call the image.

    Raises:
        SelectionError: there is no such class.
        EngineError: TensorFlow does not run the network, or the memory has no room for the gradients.
        ProcessDiedError: the process that computes them ended.

    Further errors as for `analyze`.
    """
    loaded = load_image(source, name)
    analysis = analyze(loaded, model, view)
    index = int(analysis.ranking[0]) if target is None else class_of(analysis.labels, target)
    found = _engine(model).class_gradients(preprocess(loaded, model, view), index)
    return Explanation(analysis, index, *found)


def find_map(
    source: ImageSource,
    model: "Engine | CaiT",
    method: MapName = "attention",
    *,
    block: int | None = None,
    head: int | None = None,
    target: str | int | None = None,
    view: View = "crop",
    name: str | None = None,
) -> Map:
    """One map of an image by the name of its method, for `cait_viz.draw_comparison`.

    Args:
        source: the image.
        model: the network.
        method: "attention", of a class-attention block; its "rollout"; "gradient", times that attention; or
            "relevance", of all blocks.
        block: class-attention block, from 0; None is the one that serves best. Relevance is of all.
        head: from 0, None the mean of the heads; of "attention" and "rollout" alone.
        target: of "gradient" and "relevance" the class, as for `explain`.
        view: what the network sees.
        name: what to call the image.

    Raises:
        SelectionError: there is no such method, block, head or class.

    Further errors as for `analyze` and `explain`.
    """
    check_choice("method", method, get_args(MapName))
    if method == "attention":
        return attention_map(analyze(source, model, view, name), block, head)
    if method == "rollout":
        return rollout_map(trace(source, model, view, name), block, head)
    return explaining_map(explain(source, model, target, view, name), method, block)


def randomize(
    source: ImageSource,
    model: "Engine | CaiT",
    target: str | int | None = None,
    view: View = "crop",
    name: str | None = None,
    *,
    block: int | None = None,
    head: int | None = None,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Randomization:
    """Whether the maps of an image change when the network forgets what it learned, part by part.

    TensorFlow computes it, as for `explain`.

    Args:
        source: the image.
        model: the network.
        target: the class, by its index or name; by default the most probable one.
        view: what the network sees.
        name: what to call the image.
        block: class-attention block, from 0; None is the one that serves best as saliency.
        head: of the attention and its rollout, from 0; None the mean of the heads.
        seed: decides the new weights.
        progress: gets how much is done and how much there is; what it raises ends the test.

    Errors as for `explain`.
    """
    loaded = load_image(source, name)
    engine, analysis = _classifier(model), analyze(loaded, model, view)
    index = int(analysis.ranking[0]) if target is None else class_of(analysis.labels, target)
    image, steps = preprocess(loaded, model, view), randomization_steps(engine.config)
    chosen = analysis.block_index(block)
    heads = slice(None) if head is None else [check_index("head", head, analysis.heads)]
    grids: dict[str, list[Floats]] = {name: [] for name in get_args(MapName)}
    for step in range(len(steps)):
        progress(step, len(steps))
        found, rolled = engine.randomized(image, index, step, seed)
        attention, gradient = found.attention[chosen], found.gradient[chosen]
        read = attention[heads].mean(axis=0, keepdims=True)
        grids["attention"].append(read[0, 1:])
        grids["rollout"].append(read_out(read, rolled)[0])
        grids["gradient"].append(weighted(attention[:, 1:], gradient[:, 1:]))
        grids["relevance"].append(found.relevance)
    shape = (len(steps), *analysis.grid_shape)
    together = {name: np.stack(rows).astype(np.float32).reshape(shape) for name, rows in grids.items()}
    return Randomization(analysis, index, steps, together)


def trust(
    source: ImageSource,
    model: "Engine | CaiT",
    grids: Mapping[str, Floats],
    view: View = "crop",
    name: str | None = None,
    *,
    seed: int | Sequence[int] = 0,
    progress: Progress = lambda done, total: None,
) -> Trust:
    """How much the answer for one image depends on what maps of it point at.

    Args:
        source: the image.
        model: the network, which sees about 40 altered copies of the image for each map.
        grids: by name, maps (rows, cols) of what the network saw, such as `Analysis.saliency` and
            `Trace.rollout` give.
        view: what the network sees.
        name: what to call the image.
        seed: decides the random maps that they are compared with.
        progress: gets how much is done and how much there is; what it raises ends the measurement.

    Raises:
        SelectionError: there are no maps.

    Further errors as for `analyze`.
    """
    if not grids:
        raise SelectionError("trust needs at least one map, and none was given")
    engine, loaded = _classifier(model), load_image(source, name)
    pixels = np.asarray(preprocessing.resize_and_crop(loaded.image, engine.config.image_size, view))
    return measure_trust(
        pixels, grids, lambda images: probabilities(with_rest(engine.forward(images)[0])), seed, progress
    )


def attention_tensors(
    source: ImageSource, model: "Engine | CaiT", view: View = "crop", sa_blocks: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """The raw numbers of one image, as the network gives them, float32.

    "pixels" (1, height, width, 3), "logits" (1, classes), every "ca_ffn_block_{i}_att" (1, H, 1, 1 + N) and
    each "sa_ffn_block_{k}_att" (1, H, N, N) asked for; SelectionError if there is no such block.
    """
    pixels = preprocess(source, model, view)
    logits, sa_attention, ca_attention = _engine(model).forward(pixels, sa_blocks)
    return {"pixels": pixels, "logits": logits, **ca_attention, **sa_attention}


def _analysis(
    loaded: LoadedImage, engine: Engine, view: View, logits: np.ndarray, attention: Mapping[str, np.ndarray]
) -> Analysis:
    """The result of one image: of its logits (C,) and its class attention, a block's (H, 1, 1 + N)."""
    labels = engine.labels or class_names(engine.config.num_classes)
    return Analysis(
        image=np.asarray(loaded.image),
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


def _classifier(model: "Engine | CaiT") -> Engine:
    if model.config.pre_logits:
        raise CheckpointError("this model has no classifier (pre_logits); give it weights with a head")
    return _engine(model)


def _engine(model: "Engine | CaiT") -> Engine:
    if isinstance(model, Engine):
        return model
    from cait_viz.engine.keras import engine_of

    return engine_of(model)


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
