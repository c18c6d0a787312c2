"""What is done with images: `cait-viz predict`, `render`, `figure`, `trace`, `patch` and others."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import Parameter

from cait_viz import questions
from cait_viz._checks import check_index
from cait_viz._files import atomic_write, check_output
from cait_viz._text import one_line
from cait_viz.api import analyze, attention_tensors
from cait_viz.cli.options import (
    Block,
    Count,
    Head,
    Image,
    Index,
    ModelOptions,
    Output,
    Target,
    report,
    tell,
    write,
)
from cait_viz.drawing.figures import FIGURE_FORMATS
from cait_viz.drawing.overlay import Appearance
from cait_viz.errors import UsageError
from cait_viz.results.analysis import Analysis, draw_figure
from cait_viz.results.explanation import Method
from cait_viz.results.tracing import patch_at
from cait_viz.weights.registry import BUNDLED

Drawing = Annotated[Appearance, Parameter(name="*", group="Drawing", parse="^(?!(dim_unseen)$)")]
FigureDrawing = Annotated[Drawing, Parameter(parse="^(?!(style|alpha|dim_unseen)$)")]
OneMapDrawing = Annotated[Drawing, Parameter(parse="^(?!(scale|dim_unseen)$)")]
TraceDrawing = Annotated[Drawing, Parameter(parse="^(?!(style|scale|dim_unseen)$)")]

# Each ending of a figure's file, and its format.
FORMATS = {f".{ending}": ending for ending in FIGURE_FORMATS}


def predict(
    image: Image, /, *, top: Count = 5, json: bool = False, model_options: ModelOptions = ModelOptions()
) -> None:
    """Name what an image shows.

    Args:
        top: how many classes.
        json: print one JSON object, for programs.
    """
    [loaded], engine = model_options.load(image)
    analysis = analyze(loaded, engine, model_options.seen)
    if not analysis.model.as_trained:
        trained = model_options.load_engine(analysis.model.trained_size)
        view = "crop" if model_options.view == "fit" else model_options.view
        tell(beside_trained(analysis, analyze(loaded, trained, view)))
    best = analysis.top(top)
    if json:
        predictions = [
            {"index": int(index), "label": label, "probability": probability}
            for index, (label, probability) in zip(analysis.ranking, best, strict=False)
        ]
        result = {
            "model": analysis.model.name,
            "image": image,
            "input_size": list(analysis.model.input_shape[::-1]),
            "predictions": predictions,
        }
        if analysis.kinds():
            result["kinds"] = [{"kind": kind, "probability": share} for kind, share in analysis.kinds()[:top]]
        print(json_format.dumps(result))
        return
    checkpoint = model_options.checkpoint
    if checkpoint.as_published and checkpoint.variant:
        model = f"{checkpoint.name} ({checkpoint.variant.accuracy})"
    else:
        model = f"{one_line(checkpoint.origin.name)} (accuracy unknown)"
    print(f"{analysis.image_name}, seen by {model}")
    # The bundled model is better at kinds than at classes.
    for kind, share in analysis.kinds()[: 3 if checkpoint.variant is BUNDLED else 1]:
        print(f"kind  {100 * share:>4.1f} %  {kind}")
    for rank, (label, probability) in enumerate(best, start=1):
        print(f"{rank:>4}  {100 * probability:>5.1f} %  {label}")


def beside_trained(analysis: Analysis, trained: Analysis) -> str:
    """What the network says at the size that it was trained for, a sentence."""
    (label, share), first = trained.top(1)[0], analysis.ranking[0]
    most = "" if label == analysis.labels[first] else f", and the most, {100 * share:.1f} %, to {label}"
    return (
        f"at {trained.model.input_size} pixels it gives {100 * trained.probabilities[first]:.1f} % to "
        f"{analysis.labels[first]}{most}"
    )


def render(
    image: Image,
    /,
    *,
    output: Output,
    block: Block = None,
    head: Head = "mean",
    method: Literal["attention", "rollout"] = "attention",
    appearance: Drawing = Appearance(),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Draw where one head looked, over the image.

    Blocks and heads count from 0 here, as the keys of the Keras tutorial do (ca_ffn_block_0_att); the app and
    the figures count them from 1, as the paper does.

    Args:
        output: the image to write, as large as the one given; .png.
        method: the attention to the patches as the head reads them, or that attention traced back through the
            self-attention blocks to the image (rollout; Abnar and Zuidema 2020).
    """
    number = model_options.head_index(head)
    model_options.check_block(block)
    check_output(output, [".png"], model_options.inputs(image))
    if method != "attention" and appearance.scale != "head":
        raise UsageError(f"--scale shared cannot be combined with --method {method}; leave it out")
    if method == "attention":
        [analysis] = model_options.analyze(image)
        content, title = analysis.png(block, number, **asdict(appearance)), analysis.title(block, number)
    else:
        [loaded], engine = model_options.load(image)
        traced = questions.trace(loaded, engine, model_options.seen)
        content, title = (
            traced.rollout_png(block, number, **asdict(appearance)),
            traced.rollout_title(block, number),
        )
    write(output, content, title)


def figure(
    images: Annotated[list[str], Parameter(name="IMAGE...", help="paths or web addresses of images.")],
    /,
    *,
    output: Output,
    kind: Literal["heads", "saliency"],
    block: Block = None,
    appearance: FigureDrawing = Appearance(),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Draw Figure 6 or Figure 7 of the paper for images of your own.

    Blocks and heads count from 0 here, as the keys of the Keras tutorial do (ca_ffn_block_0_att); the app and
    the figures count them from 1, as the paper does.

    Args:
        output: the figure to write; .png, .svg or .pdf.
        kind: every head of every class-attention block (heads, Figure 6), or the saliency of one block and
            the classes above 10 % (saliency, Figure 7).
    """
    if kind == "heads" and block is not None:
        raise UsageError("--block is for --kind saliency: --kind heads shows every block; leave it out")
    model_options.check_block(block)
    check_output(output, list(FORMATS), model_options.inputs(*images))
    analyses = model_options.analyze(*images)
    drawing = {name: getattr(appearance, name) for name in ("colormap", "interpolation", "scale")}
    content = draw_figure(analyses, kind, FORMATS[output.suffix.lower()], block=block, **drawing)
    write(output, content, f"{kind} of {', '.join(analysis.image_name for analysis in analyses)}")


def trace(
    image: Image,
    /,
    *,
    output: Output,
    block: Block = None,
    appearance: TraceDrawing = Appearance(),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Draw what happened before the class token, block by block: a figure, or the numbers.

    The figure shows where the class token would have looked, and what the network would have said, had the
    self-attention stopped after each block (the logit lens), and how far each head looks on average. Blocks
    count from 0 here and from 1 in the figure.

    Args:
        output: the figure to write; .png, .svg or .pdf; or the numbers; .npz.
    """
    model_options.check_block(block)
    check_output(output, [*FORMATS, ".npz"], model_options.inputs(image))
    if output.suffix.lower() == ".npz" and (block is not None or appearance != Appearance()):
        raise UsageError(
            "--block and the options of the drawing are for a figure; the numbers are of all blocks"
        )
    [loaded], engine = model_options.load(image)
    traced = questions.trace(loaded, engine, model_options.seen)
    ending = output.suffix.lower()
    colors = {
        "colormap": appearance.colormap,
        "interpolation": appearance.interpolation,
        "alpha": appearance.alpha,
    }
    content = traced.npz() if ending == ".npz" else traced.figure(FORMATS[ending], block=block, **colors)
    blocks = f"{traced.blocks} self-attention blocks"
    write(output, content, f"{blocks} of {traced.analysis.model.name} on {loaded.name}")


def patch(
    image: Image,
    /,
    *,
    output: Output,
    sa_block: int,
    row: int,
    column: int,
    head: Head = "mean",
    incoming: bool = False,
    mixed: bool = False,
    appearance: OneMapDrawing = Appearance(),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Draw where one patch looks in a self-attention block, or who looks at it.

    Blocks, heads, rows and columns count from 0 here, and from 1 in what is printed.

    Args:
        output: the image to write, as large as the one given; .png.
        sa_block: self-attention block, from 0.
        row: row of the patch, from 0 at the top of what the network sees.
        column: column of the patch, from 0 at its left.
        incoming: who looks at the patch (a column of the attention), in place of where it looks (a row).
        mixed: the scores after the heads are mixed, which may be negative, in place of the softmax's.
    """
    number = model_options.head_index(head)
    check_index("SA block", sa_block, model_options.config.sa_ffn_layers)
    if mixed and appearance.colormap is not None:
        raise UsageError(
            "--colormap is not for --mixed, whose two signs have colors of their own; leave it out"
        )
    check_output(output, [".png"], model_options.inputs(image))
    [loaded], engine = model_options.load(image)
    index = patch_at(engine.config.grid_shape, row, column)
    found = questions.block_attention(loaded, engine, sa_block, model_options.seen, mixed=mixed)
    title = found.title(index, number, incoming=incoming)
    grid, facts = found.grid(index, number, incoming=incoming), found.facts(index, number, incoming=incoming)
    analysis = analyze(loaded, engine, model_options.seen)
    write(output, analysis.map_png(grid, title, facts, signed=mixed, **asdict(appearance)), title)


def explain(
    image: Image,
    /,
    *,
    output: Output,
    method: Method = "relevance",
    target: Target = None,
    block: Block = None,
    appearance: OneMapDrawing = Appearance(),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Draw what speaks for one class, by the gradients of its logit.

    Args:
        output: the image to write, as large as the one given; .png.
        method: gradient, the attention of one class-attention block times its gradient; or relevance, the
            same of all blocks, propagated from the image to the class token (Chefer et al. 2021).
    """
    if method == "relevance" and block is not None:
        raise UsageError("--block is for --method gradient: relevance is of all blocks; leave it out")
    model_options.check_block(block)
    index = model_options.class_index(target)
    check_output(output, [".png"], model_options.inputs(image))
    [loaded], engine = model_options.load(image)
    found = questions.explain(loaded, engine, index, model_options.seen)
    title, facts = found.title(method, block), found.facts(method, block)
    content = found.analysis.map_png(found.grid(method, block), title, facts, **asdict(appearance))
    write(output, content, title)


def ablate(
    image: Image,
    /,
    *,
    output: Output,
    target: Target = None,
    appearance: FigureDrawing = Appearance(),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Draw what a class loses without each class-attention head, on the paper's Figure 6.

    Args:
        output: the figure to write; .png, .svg or .pdf.
    """
    index = model_options.class_index(target)
    check_output(output, list(FORMATS), model_options.inputs(image))
    [loaded], engine = model_options.load(image)
    found = questions.ablate(loaded, engine, model_options.seen)
    drawing = {name: getattr(appearance, name) for name in ("colormap", "interpolation", "scale")}
    content = found.figure(index, FORMATS[output.suffix.lower()], **drawing)
    write(output, content, f"what {found.label(index)} loses without each head, in {loaded.name}")


def randomize(
    image: Image,
    /,
    *,
    target: Target = None,
    block: Block = None,
    head: Head = "mean",
    seed: Index = 0,
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Print how much each map changes when the network forgets what it learned, in Markdown.

    The network is re-initialized part by part, from its last layer backwards (Adebayo et al. 2018). The
    numbers are Spearman's rank correlation of a map with that of the trained network. A map that stays as it
    was explains nothing of what was re-initialized. --head applies to attention and rollout; --class to
    gradient and relevance.

    Args:
        seed: decides the new weights.
    """
    number = model_options.head_index(head)
    model_options.check_block(block)
    index = model_options.class_index(target)
    [loaded], engine = model_options.load(image)
    found = questions.randomize(
        loaded, engine, index, model_options.seen, block=block, head=number, seed=seed
    )
    print("\n".join(found.table()))


def attention(
    image: Image,
    /,
    *,
    npz: Path,
    sa_block: Annotated[tuple[int, ...], Parameter(show_default=False)] = (),
    model_options: ModelOptions = ModelOptions(),
) -> None:
    """Write the attention tensors of an image to a NumPy archive.

    The archive holds, in float32: pixels (1, H, W, 3), normalized; logits (1, C); for each class-attention
    block I ca_ffn_block_I_att (1, heads, 1, 1 + N), index 0 being the class token itself; for each
    self-attention block K asked for sa_ffn_block_K_att (1, heads, N, N).

    Args:
        npz: the archive to write; .npz.
        sa_block: a self-attention block, from 0, to write as well (default: none); can be repeated.
    """
    for block in sa_block:
        check_index("SA block", block, model_options.config.sa_ffn_layers)
    check_output(npz, [".npz"], model_options.inputs(image))
    [loaded], engine = model_options.load(image)
    tensors = attention_tensors(loaded, engine, model_options.seen, sa_block)
    with atomic_write(npz) as file:
        np.savez(file, **tensors)  # type: ignore[arg-type]
    report(npz, ", ".join(tensors))
