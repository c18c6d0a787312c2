"""Measure how often a model names the picture, and how much its answers hang on what its maps point at.

    python benchmarks/evaluate.py FOLDER… [--model M] [--weights FILE] [--labels FILE]
        [--teacher T.onnx --teacher-size S] [--faithfulness N]

Each FOLDER holds one folder of pictures a class, named after its WordNet id ("n02123045"), as
ImageNet's validation set, Imagenette and Imagewoof are; or, for a checkpoint with classes of its own,
after a name in the --labels. Printed are, as Markdown, top-1, top-5, and top-1 among the folder's own
classes; for a published model its published top-1 beside them, and with --teacher the same of the ONNX
network that a student was distilled from, on the same pictures.

With --faithfulness, deletion and insertion (Petsiuk et al. 2018, see cait_viz/faithfulness.py) are
measured on N pictures, spread evenly over the classes of all folders: for each class-attention block
the mean of its heads, beside random maps and a Gaussian in the middle. About 310 forward passes a picture.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from folders import Example, examples, progress, readable, spread
from numpy.typing import NDArray

from cait_viz._backend import import_tensorflow
from cait_viz.attention import maps
from cait_viz.attention.probabilities import softmax
from cait_viz.errors import CaitVizError, CheckpointError
from cait_viz.images.preprocess import normalize
from cait_viz.metrics.faithfulness import (
    BATCH,
    CONFIDENCE,
    RESAMPLES,
    STEPS,
    bootstrap_interval,
    curves,
    gaussian_map,
    random_map,
)
from cait_viz.training.teacher import Teacher
from cait_viz.weights.labels import IMAGENET_CLASSES, class_index, class_names

if TYPE_CHECKING:
    from cait_viz.model.cait import CaiT
    from cait_viz.weights.resolve import Checkpoint

RANDOM_MAPS = 5
RANDOM, CENTRE = "random map", "centred Gaussian"
# What is measured, and on which side of zero the difference to a reference lies when a map is better.
MEASURES = {"deletion": -1, "insertion": 1}

# Of each map by its name, (pictures, 2): the areas of deletion and insertion.
Areas = dict[str, NDArray[np.float64]]
Item = TypeVar("Item")


class Accuracy(NamedTuple):
    """What came of one folder: the number of pictures and of classes, and shares of the pictures."""

    pictures: int
    classes: int
    top1: float
    top5: float
    own: float


def batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items, as many at a time as go through the network together."""
    iterator = iter(items)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def run(model: "CaiT", pixels: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits (B, classes) and each block's class attention (B, heads, 1 + N) of up to `BATCH` pictures."""
    from cait_viz.engine.keras import forward

    images = normalize(np.stack(pixels))
    # Filled up, so that one shape is compiled.
    logits, _, attention = forward(model, np.resize(images, (BATCH, *images.shape[1:])))
    blocks = range(model.config.ca_ffn_layers)
    kept = slice(len(pixels))
    return logits[kept], [attention[f"ca_ffn_block_{block}_att"][kept, :, 0] for block in blocks]


# Pictures (side, side, 3), uint8, to logits (B, classes).
Classify = Callable[[Sequence[np.ndarray]], np.ndarray]


def accuracy(classify: Classify, side: int, folder: Path, found: Sequence[Example]) -> Accuracy:
    """How often a network is right about the pictures of a folder.

    Args:
        classify: the network, up to `BATCH` pictures at a time.
        side: of its input, in pixels.
        folder: where the pictures lie, to tell of.
        found: the pictures.

    Raises:
        CaitVizError: none of them can be read.
    """
    own = np.unique([example.label for example in found])
    right = []
    with progress(len(found), folder.name) as bar:
        for batch in batches(readable(found, side)):
            truth = np.array([example.label for example, _ in batch])
            logits = classify([pixels for _, pixels in batch])
            ranking = np.argsort(-logits, axis=1, kind="stable")
            among_own = own[logits[:, own].argmax(axis=1)]
            named = (ranking[:, :5] == truth[:, None]).any(axis=1)
            right.append(np.stack([ranking[:, 0] == truth, named, among_own == truth]))
            bar.update(len(batch))
    if not right:
        raise CaitVizError(f"{folder}: none of its {len(found)} files is a picture that can be read")
    together = np.concatenate(right, axis=1)
    return Accuracy(together.shape[1], len(own), *together.mean(axis=1).tolist())


def beside_published(checkpoint: "Checkpoint", folder: Path, measured: Accuracy) -> str:
    """The published top-1 beside the measured one; empty for a model that has none."""
    if not checkpoint.as_published or checkpoint.variant is None or checkpoint.variant.top1 is None:
        return ""
    published = checkpoint.variant.top1
    if measured.classes < IMAGENET_CLASSES:
        return (
            f"{checkpoint.name}'s published top-1, {published:.1f} %, is for all of ImageNet's validation "
            f"set; {folder} holds {measured.classes} of its {IMAGENET_CLASSES} classes, so that the two "
            "do not compare."
        )
    top1 = 100 * measured.top1
    return (
        f"{folder}: top-1 {top1:.1f} %, published {published:.1f} %, "
        f"a difference of {top1 - published:+.1f} points."
    )


def faithfulness(model: "CaiT", found: Sequence[Example], count: int, seed: int) -> Areas:
    """Deletion and insertion of every block and reference on the first `count` pictures that can be read.

    Raises:
        CaitVizError: none can be read.
    """
    side, grid_shape = model.config.image_size, (model.config.grid_size,) * 2
    measured: list[list[tuple[float, float]]] = []

    def predict(images: np.ndarray) -> np.ndarray:
        from cait_viz.engine.keras import forward

        return softmax(forward(model, images)[0])

    with progress(min(count, len(found)), "faithfulness") as bar:
        for batch in batches(islice(readable(found, side), count)):
            pictures = [pixels for _, pixels in batch]
            _, attention = run(model, pictures)
            for number, pixels in enumerate(pictures):
                # Of its own for each picture, so that the others do not matter.
                generator = np.random.default_rng([seed, len(measured)])
                grids = [
                    *(maps.saliency(block[number], grid_shape) for block in attention),
                    gaussian_map(grid_shape),
                    *(random_map(grid_shape, generator) for _ in range(RANDOM_MAPS)),
                ]
                drawn = curves(pixels, [maps.upsample(grid, (side, side)) for grid in grids], predict)
                measured.append([(curve.deletion.area, curve.insertion.area) for curve in drawn])
                bar.update()
    if not measured:
        raise CaitVizError(f"none of the {len(found)} files is a picture that can be read")
    areas = np.array(measured)
    names = [*map(block_name, range(model.config.ca_ffn_layers)), CENTRE]
    return {name: areas[:, column] for column, name in enumerate(names)} | {
        RANDOM: areas[:, len(names) :].mean(axis=1)
    }


def block_name(block: int) -> str:
    """What a block is called in the tables, where they count from 1."""
    return f"CA block {block + 1}"


def faithfulness_report(areas: Areas, saliency_block: int, seed: int) -> Iterator[str]:
    """The lines that tell what was measured."""
    blocks = [name for name in areas if name not in (RANDOM, CENTRE)]
    said = {name: f"{name}, mean of the heads" for name in blocks} | {
        RANDOM: f"{RANDOM}, mean of {RANDOM_MAPS}",
        CENTRE: CENTRE,
    }
    pictures = len(areas[CENTRE])
    yield (
        f"Faithfulness on {pictures} picture{'' if pictures == 1 else 's'} spread evenly over the classes "
        f"(seed {seed}): the area under the predicted class' probability, {STEPS} steps; its mean and, in "
        f"brackets, the mean's {100 * CONFIDENCE:.0f} % bootstrap interval ({RESAMPLES:,} resamples)."
    )
    yield ""
    yield from table_head("map", "deletion, lower is better", "insertion, higher is better")
    for name, text in said.items():
        columns = [interval_text(areas[name][:, column], seed) for column in range(len(MEASURES))]
        yield f"| {text} | {' | '.join(columns)} |"
    yield ""
    yield from table_head("difference on the same pictures", *MEASURES)
    for name in blocks:
        for reference in (RANDOM, CENTRE):
            differences = areas[name] - areas[reference]
            columns = [interval_text(differences[:, column], seed, "+") for column in range(len(MEASURES))]
            yield f"| {name} − {reference} | {' | '.join(columns)} |"
    yield ""
    yield verdict(areas, block_name(saliency_block), seed)


def table_head(*columns: str) -> Iterator[str]:
    """The first two lines of a Markdown table."""
    yield f"| {' | '.join(columns)} |"
    yield "|" + "---|" * len(columns)


def interval_text(values: np.ndarray, seed: int, sign: str = "") -> str:
    """The mean and its interval: "0.213 [0.190, 0.237]"."""
    low, high = bootstrap_interval(values, np.random.default_rng(seed))
    return f"{values.mean():{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def verdict(areas: Areas, block: str, seed: int) -> str:
    """Whether the block that serves as saliency beats both references on both measures, in a sentence."""
    failed = []
    for reference in (RANDOM, CENTRE):
        for column, (measure, better) in enumerate(MEASURES.items()):
            gains = better * (areas[block] - areas[reference])[:, column]
            if bootstrap_interval(gains, np.random.default_rng(seed)).low <= 0:
                failed.append(f"the {reference} on {measure}")
    if failed:
        return (
            f"{block}, the model's saliency, does not beat {' nor '.join(failed)}: the interval of the "
            "difference holds zero or lies on the wrong side of it."
        )
    return (
        f"{block}, the model's saliency, beats both the {RANDOM} and the {CENTRE} on both deletion and "
        "insertion: all four intervals of the differences lie on the right side of zero."
    )


def described(checkpoint: "Checkpoint", model: "CaiT") -> str:
    """Which model speaks, in a line."""
    config = checkpoint.config
    return (
        f"{checkpoint.name}: {config.sa_ffn_layers} self-attention and {config.ca_ffn_layers} "
        f"class-attention blocks, dim {config.projection_dim}, {config.num_heads} heads, "
        f"patch {config.patch_size}, {config.image_size} px, {config.num_classes} classes; "
        f"{model.count_params():,} parameters; weights {checkpoint.path.name}, SHA-256 {checkpoint.sha256}"
    )


class Network(NamedTuple):
    """A network whose accuracy is measured.

    Attributes:
        remark: what stands behind the folder in the table.
        side: of its input, in pixels.
        classify: what it says.
        checkpoint: its weights, if it is a CaiT.
    """

    remark: str
    side: int
    classify: Classify
    checkpoint: "Checkpoint | None" = None


def opened_teacher(path: Path, size: int | None, checkpoint: "Checkpoint") -> Teacher:
    """The teacher, if it speaks of the same classes.

    Raises:
        CaitVizError: it does not, or is none.
    """
    teacher = Teacher(path, size)
    if teacher.classes != checkpoint.config.num_classes:
        raise CaitVizError(
            f"{path.name}: tells {teacher.classes} classes apart and {checkpoint.name} "
            f"{checkpoint.config.num_classes}; give the teacher that it was distilled from"
        )
    return teacher


def accuracy_report(networks: Sequence[Network], folders: Mapping[Path, Sequence[Example]]) -> Iterator[str]:
    """The lines that tell how often each network is right, as soon as each is known."""
    yield from table_head("folder", "pictures", "top-1", "top-5", "top-1 among its own classes")
    remarks = []
    for folder, found in folders.items():
        for network in networks:
            measured = accuracy(network.classify, network.side, folder, found)
            shares = (measured.top1, measured.top5, measured.own)
            columns = " | ".join(f"{100 * share:.1f} %" for share in shares)
            yield f"| {folder}{network.remark} | {measured.pictures} | {columns} |"
            if network.checkpoint:
                remarks.append(beside_published(network.checkpoint, folder, measured))
    for remark in filter(None, remarks):
        yield ""
        yield remark


def evaluate(arguments: argparse.Namespace, tell: Callable[[str], object]) -> None:
    """Measure what is asked for and tell it line by line, as soon as it is known."""
    from cait_viz.weights.resolve import resolve

    checkpoint = resolve(arguments.model, arguments.weights)
    if checkpoint.config.pre_logits:
        raise CheckpointError(f"{checkpoint.name}: has no classifier to measure; give weights with a head")
    index = class_index(class_names(checkpoint.config.num_classes, arguments.labels))
    # Before TensorFlow starts: a folder that cannot be used is told at once.
    folders = {folder: examples(folder, index) for folder in arguments.folders}
    teacher = None
    if arguments.teacher:
        teacher = opened_teacher(arguments.teacher, arguments.teacher_size, checkpoint)
    import_tensorflow()
    from cait_viz.api import from_checkpoint

    model = from_checkpoint(checkpoint, arguments.labels)
    tell(described(checkpoint, model))
    side = checkpoint.config.image_size
    networks = [Network("", side, lambda pixels: run(model, pixels)[0], checkpoint)]
    if teacher:
        tell(f"teacher: {teacher.path.name}, SHA-256 {teacher.sha256}")
        remark = f", the teacher at {teacher.size} px"
        networks.append(Network(remark, teacher.size, lambda pixels: teacher(np.stack(pixels)).logits))
    tell("")
    for line in accuracy_report(networks, folders):
        tell(line)
    if arguments.faithfulness:
        groups = [
            [example for example in found if example.label == label]
            for found in folders.values()
            for label in dict.fromkeys(example.label for example in found)
        ]
        chosen = spread(groups, arguments.seed)
        areas = faithfulness(model, chosen, arguments.faithfulness, arguments.seed)
        tell("")
        for line in faithfulness_report(areas, checkpoint.saliency_block, arguments.seed):
            tell(line)


def at_least(least: int) -> Callable[[str], int]:
    """A reader of whole numbers from `least` on, for an option."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too few; give {least} or more")
        return value

    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--model", help="a variant; by default the bundled one, or what the weights show")
    parser.add_argument(
        "--weights", type=Path, help="a safetensors file in place of the variant's own weights"
    )
    parser.add_argument("--labels", type=Path, help="a text with the name of one class a line")
    parser.add_argument("--teacher", type=Path, metavar="T.onnx", help="measure this network as well")
    parser.add_argument(
        "--teacher-size",
        type=at_least(1),
        metavar="S",
        help="side of its input in pixels; by default what its file fixes, else 224",
    )
    parser.add_argument(
        "--faithfulness",
        type=at_least(0),
        default=0,
        metavar="N",
        help="pictures to measure deletion and insertion on (0, the default: none)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="decides on these pictures (default: 0)")
    parsed = parser.parse_args(arguments)
    try:
        evaluate(parsed, lambda line: print(line, flush=True))
    except (CaitVizError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
