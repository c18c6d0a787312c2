"""How often a model is right, and how much its answers depend on what its maps show."""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappush, heappushpop
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cait_viz._sizes import ImageSize, size_text
from cait_viz._text import file_text, listed, path_text
from cait_viz.engine.base import Engine
from cait_viz.engine.load import load_engine
from cait_viz.errors import CheckpointError, DatasetError, TeacherError
from cait_viz.images.folders import UNKNOWN, Example, labeled_files, loose_files, read_images, spread
from cait_viz.images.preprocess import normalize, resize_and_crop
from cait_viz.metrics.accuracy import Tally, top1_among, usual_measures
from cait_viz.metrics.faithfulness import BATCH, measure
from cait_viz.metrics.report import faithfulness_lines, published_remark, row, table_head
from cait_viz.model.timm_names import count_parameters
from cait_viz.training.datasets import find_split
from cait_viz.weights.labels import Labels, class_index, class_kinds, class_names

if TYPE_CHECKING:
    from cait_viz.training.teacher import Teacher
    from cait_viz.weights.resolve import Checkpoint

_TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "kind": "kind",
    "kind3": "kind within three",
    "own": "top-1 among its own classes",
}


class _Network(NamedTuple):
    remark: str  # after the folder's name in the table
    image_size: ImageSize
    classify: Callable[[np.ndarray], np.ndarray]  # (B, height, width, 3) uint8 to scores (B, classes)


def evaluate(
    folders: Sequence[Path],
    checkpoint: "Checkpoint",
    labels: Labels | None = None,
    *,
    load: Callable[[], Engine] | None = None,
    teacher: Path | None = None,
    teacher_size: int | None = None,
    faithfulness: int = 0,
    seed: int = 0,
) -> Iterator[str]:
    """How often a model is right and, if asked for, what its maps are worth: lines of Markdown.

    Everything that can be refused is refused before the network is loaded.

    Args:
        folders: each holds one folder of images per class, named after its WordNet id ("n02123045"), as in
            ImageNet's validation set, or after the name of the class. For a model of one class, a sigmoid,
            every other folder is "not this class".
        checkpoint: the model.
        labels: the names of the classes, or a file with them.
        load: makes the network ready to run; by default as `cait_viz.load_engine` does.
        teacher: the ONNX network that the model was distilled from, to be measured on the same images.
        teacher_size: side of the teacher's input in pixels; by default what its file fixes, else 224.
        faithfulness: on how many images, spread evenly over the classes of all folders, to measure deletion
            and insertion (Petsiuk et al. 2018); the network sees about 310 altered copies of each.
        seed: decides which images these are, and the random maps.

    Raises:
        CheckpointError, DatasetError, TeacherError: the model, a folder or the teacher cannot be used.
    """
    config = checkpoint.config
    if config.pre_logits:
        raise CheckpointError(f"{checkpoint.name}: has no classifier to measure; give weights with a head")
    classes = class_names(config.num_classes, labels)
    index = class_index(classes)
    others = 1 if config.num_classes == 1 else UNKNOWN
    found = {folder: _labeled(folder, index, others) for folder in folders}
    for folder in found:
        if loose := loose_files(folder):
            names = listed(path.name for path in loose)
            _note(f"{path_text(folder)}: {names}: not in the folder of a class; skipped")
    opened = None if teacher is None else _open_teacher(teacher, teacher_size, checkpoint)
    engine = load() if load else load_engine(checkpoint, labels)
    yield (
        f"{checkpoint.name}: {config.sa_ffn_layers} self-attention and {config.ca_ffn_layers} "
        f"class-attention blocks, dim {config.projection_dim}, {config.num_heads} heads, "
        f"patch {config.patch_size}, {size_text(config.image_size)} px, {config.num_classes} classes; "
        f"{count_parameters(config):,} parameters; weights {checkpoint.origin.name}, "
        f"SHA-256 {checkpoint.sha256}"
    )
    networks = [_Network("", config.image_size, lambda pixels: engine.forward(normalize(pixels))[0])]
    if opened is not None:
        yield f"teacher: {opened.path.name}, SHA-256 {opened.sha256}"
        remark = f", the teacher at {opened.size} px"
        networks.append(_Network(remark, opened.size, lambda pixels: opened(pixels).logits))
    yield ""
    chosen = _Chosen(found, faithfulness, seed)
    yield from _accuracy_lines(networks, found, checkpoint, class_kinds(classes), chosen)
    if faithfulness:
        images = _bar(chosen.pixels, len(chosen.pixels), "faithfulness")
        areas = measure(images, lambda images: _forward(engine, images), engine.config.grid_shape, seed)
        yield ""
        yield from faithfulness_lines(areas, checkpoint.saliency_block, seed)


class _Chosen:
    """So many images, spread evenly over the classes of all folders, of those that are read one by one."""

    def __init__(self, folders: Mapping[Path, Sequence[Example]], count: int, seed: int) -> None:
        groups = defaultdict(list)
        for folder, examples in folders.items():
            for example in examples:
                groups[folder, example.label].append(example)
        self._rank = {example: rank for rank, example in enumerate(spread(groups.values(), seed))}
        self._count = count
        self._kept: list[tuple[int, np.ndarray]] = []  # a heap with the highest rank first

    def add(self, example: Example, pixels: np.ndarray) -> None:
        """Keep what the network sees of an image, unless enough others come before it."""
        keep = heappush if len(self._kept) < self._count else heappushpop
        keep(self._kept, (-self._rank[example], pixels))

    @property
    def pixels(self) -> list[np.ndarray]:
        """What the network sees of each image kept, (height, width, 3) uint8."""
        return [pixels for _, pixels in sorted(self._kept, key=itemgetter(0), reverse=True)]


def _labeled(folder: Path, index: Mapping[str, int], others: int) -> list[Example]:
    split = find_split(folder)
    parts = [part for part in (split.validation, split.training) if part and part != folder] if split else []
    if parts and not any(part.name in index for part in parts):
        named = " or ".join(map(path_text, parts))
        raise DatasetError(f"{path_text(folder)}: holds a split; give the part to measure on, {named}")
    return labeled_files(folder, index, others)


def _open_teacher(path: Path, size: int | None, checkpoint: "Checkpoint") -> "Teacher":
    from cait_viz.training.teacher import Teacher

    teacher = Teacher(path, size)
    if teacher.classes != checkpoint.config.num_classes:
        raise TeacherError(
            f"{file_text(path)}: has {teacher.classes} classes and {checkpoint.name} has "
            f"{checkpoint.config.num_classes}; give the teacher that it was distilled from"
        )
    return teacher


def _forward(engine: Engine, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits (B, classes) and each block's class attention (B, heads, 1 + N) for normalized images."""
    logits, _, attention = engine.forward(images)
    return logits, [block[:, :, 0] for block in attention.values()]


def _accuracy_lines(
    networks: Sequence[_Network],
    folders: Mapping[Path, Sequence[Example]],
    checkpoint: "Checkpoint",
    kinds: Sequence[str],
    chosen: _Chosen,
) -> Iterator[str]:
    """A table with a row per folder and network, then the published top-1 beside the measured.

    Each image is read once, for all networks and for those `chosen`.
    """
    published = checkpoint.variant.top1 if checkpoint.variant and checkpoint.as_published else None
    usual = usual_measures(checkpoint.config.num_classes, kinds)
    yield from table_head("folder", "images", *(_TITLES[name] for name in (*usual, "own")))
    remarks = []
    for folder, examples in folders.items():
        classes = {example.label for example in examples}
        measures = usual | {"own": top1_among(classes)}
        tallies = {network: Tally(network.classify, measures, BATCH) for network in networks}
        for image, example in _bar(read_images(examples, _note), len(examples), folder.name):
            pixels = [np.asarray(resize_and_crop(image, network.image_size)) for network in networks]
            for tally, seen in zip(tallies.values(), pixels, strict=True):
                tally.add(seen, example.label)
            chosen.add(example, pixels[0])
        for network, tally in tallies.items():
            measured = tally.accuracy()
            shares = (f"{100 * share:.1f} %" for share in measured.shares.values())
            yield row([f"{folder}{network.remark}", measured.images, *shares])
            if network is networks[0] and published is not None:
                top1 = 100 * measured.shares["top1"]
                remarks += ["", published_remark(checkpoint.name, published, folder, top1, len(classes))]
    yield from remarks


def _note(sentence: str) -> None:
    tqdm.write(sentence, file=sys.stderr)


def _bar(items: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    """A progress bar on standard error, if that is a terminal."""
    return tqdm(items, title, total, leave=False, file=sys.stderr, disable=None, unit=" images")
