"""The questions beyond the paper: what happened before the class token, why a class, and what maps are worth.

Each is a function of an image and a network. Blocks and heads count from 0.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from cait_viz._checks import check_choice, check_index
from cait_viz.api import analysis_of, analyze, classifier_of, engine_of, labels_of, preprocess
from cait_viz.attention.maps import Floats
from cait_viz.attention.patch_stage import mean_distance, read_out
from cait_viz.attention.probabilities import probabilities
from cait_viz.attention.relevance import weighted
from cait_viz.engine.base import Engine
from cait_viz.engine.randomized import randomization_steps
from cait_viz.errors import SelectionError
from cait_viz.images.preprocess import View, resize_and_crop
from cait_viz.images.read import ImageSource, LoadedImage, load_image
from cait_viz.metrics.accuracy import as_two_classes, default_class
from cait_viz.results.ablation import Ablation
from cait_viz.results.analysis import Analysis
from cait_viz.results.comparison import Map, MapName, attention_map, explaining_map, rollout_map
from cait_viz.results.explanation import Explanation, class_of
from cait_viz.results.randomization import Randomization
from cait_viz.results.tracing import BlockAttention, Trace
from cait_viz.results.trustworthiness import Progress, Trust, measure_trust

if TYPE_CHECKING:
    from cait_viz.model.cait import CaiT


def trace(source: ImageSource, model: "Engine | CaiT", view: View = "crop", name: str | None = None) -> Trace:
    """Classify one image, and keep what happened before the class token, block by block.

    Arguments and errors as for `analyze`. The attention of one block at a time is held.
    """
    engine, loaded = classifier_of(model), load_image(source, name)
    config = engine.config
    depths = engine.patches(preprocess(loaded, model, view))
    means, distances = [], []
    for block, patches in enumerate(depths[:-1]):
        softmax = engine.self_attention(patches, block)
        means.append(softmax.mean(axis=0))
        distances.append(mean_distance(softmax, config.grid_shape, config.patch_size))
    logits, class_attention = engine.class_stage(depths)
    last = {key: rows[-1] for key, rows in class_attention.items()}
    return Trace(
        analysis=analysis_of(loaded, engine, view, logits[-1], last),
        attention=np.stack(means),
        distances=np.stack(distances),
        lens_probabilities=probabilities(logits),
        lens_attention={key: rows[:, :, 0] for key, rows in class_attention.items()},
    )


def block_attention(
    source: ImageSource,
    model: "Engine | CaiT",
    block: int,
    view: View = "crop",
    name: str | None = None,
    *,
    mixed: bool = False,
) -> BlockAttention:
    """The attention of one self-attention block, from 0, for one image called `name` or after its file.

    Only these scores leave the network: after the softmax, or with `mixed` after `proj_w` mixes the heads.

    Raises:
        ImageError: the image cannot be read.
        SelectionError: there is no such block.
    """
    engine = engine_of(model)
    index = check_index("SA block", block, engine.config.sa_ffn_layers)
    [patches] = engine.patches(preprocess(load_image(source, name), model, view), [index])
    scores = engine.self_attention(patches, index, mixed=mixed)
    return BlockAttention(index, engine.config.grid_shape, scores, mixed)


def ablate(
    source: ImageSource, model: "Engine | CaiT", view: View = "crop", name: str | None = None
) -> Ablation:
    """Classify one image, and classify it anew with each class-attention head silenced in turn.

    Arguments and errors as for `analyze`. The patches are computed once.
    """
    engine, loaded = classifier_of(model), load_image(source, name)
    heads = engine.config.ca_ffn_layers, engine.config.num_heads
    patches = engine.patches(preprocess(loaded, model, view), [engine.config.sa_ffn_layers])
    # With all heads, then without each.
    masks = np.concatenate([np.ones((1, *heads)), 1 - np.eye(math.prod(heads)).reshape(-1, *heads)])
    logits, class_attention = engine.class_stage(np.repeat(patches, len(masks), axis=0), masks)
    first = {key: rows[0] for key, rows in class_attention.items()}
    return Ablation(
        analysis=analysis_of(loaded, engine, view, logits[0], first),
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
    analysis, index = _analyzed_for(loaded, model, target, view)
    found = engine_of(model).class_gradients(preprocess(loaded, model, view), index)
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
        method: "attention", the class attention of one block; "rollout", that attention traced back to the
            image; "gradient", that attention times the gradient of the class's logit; or "relevance",
            gradient and attention of all blocks.
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

    Raises:
        SelectionError: there is no such class, block or head, or the seed is below 0.

    Further errors as for `explain`.
    """
    loaded = load_image(source, name)
    analysis, index = _analyzed_for(loaded, model, target, view)
    engine = engine_of(model)
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
    target: str | int | None = None,
    seed: int | Sequence[int] = 0,
    progress: Progress = lambda done, total: None,
) -> Trust:
    """How much the answer for one image depends on what maps of it point at.

    Args:
        source: the image.
        model: the network, which sees about 40 altered copies of the image for each map, and 160 for the
            baselines.
        grids: by name, maps (rows, cols) of what the network saw, such as `Analysis.saliency` and
            `Trace.rollout` give.
        view: what the network sees.
        name: what to call the image.
        target: the class, by its index or name; by default the most probable one.
        seed: decides the random maps that they are compared with.
        progress: gets how much is done and how much there is; what it raises ends the measurement.

    Raises:
        SelectionError: there are no maps, one is called as a baseline is, or there is no such class.
        ValueError: a map has another shape than the network's patches.

    Further errors as for `analyze`.
    """
    if not grids:
        raise SelectionError("trust needs at least one map, and none was given")
    engine, loaded = classifier_of(model), load_image(source, name)
    for map_name, grid in grids.items():
        if np.shape(grid) != engine.config.grid_shape:
            raise ValueError(
                f"the map {map_name!r} must be of the network's {engine.config.grid_shape} patches, not "
                f"{np.shape(grid)}"
            )
    chosen = None if target is None else class_of(labels_of(engine), target)
    index = default_class(engine.config.num_classes) if chosen is None else chosen
    pixels = np.asarray(resize_and_crop(loaded.image, engine.config.image_size, view))
    return measure_trust(
        pixels,
        grids,
        lambda images: probabilities(as_two_classes(engine.forward(images)[0])),
        index,
        seed,
        progress,
    )


def _analyzed_for(
    loaded: LoadedImage, model: "Engine | CaiT", target: str | int | None, view: View
) -> tuple[Analysis, int]:
    """The analysis of an image, and the index of a class: by default of the most probable one."""
    analysis = analyze(loaded, model, view)
    return analysis, int(analysis.ranking[0]) if target is None else class_of(analysis.labels, target)
