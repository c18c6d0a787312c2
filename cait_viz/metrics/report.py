"""Measurements as lines of Markdown."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cait_viz._text import counted, number_text
from cait_viz.metrics import faithfulness
from cait_viz.metrics.faithfulness import CENTER, RANDOM, Areas, block_name, bootstrap_interval

_IMAGENET_CLASSES = 1000
# What is measured of a map, and the sign of its difference to a reference when the map is better.
_BETTER = {"deletion": -1, "insertion": 1}


def row(cells: Iterable[object]) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table_head(*columns: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield row(columns)
    yield "|" + "---|" * len(columns)


def published_remark(name: str, published: float, folder: Path, top1: float, classes: int) -> str:
    """A sentence on a model's published top-1 beside the one measured on so many classes, in percent."""
    if classes < _IMAGENET_CLASSES:
        return (
            f"{name}'s published top-1, {published:.1f} %, is for all of ImageNet's validation set; {folder} "
            f"holds {classes} of its {_IMAGENET_CLASSES} classes, so the two cannot be compared."
        )
    difference = f"a difference of {number_text(top1 - published, '+z.1f')} points"
    return f"{folder}: top-1 {top1:.1f} %, published {published:.1f} %, {difference}."


def faithfulness_lines(areas: Areas, saliency_block: int, seed: int) -> Iterator[str]:
    """What `faithfulness.measure` found: two tables, and a verdict on the block that serves as saliency.

    The seed, by which the images were chosen, draws the resamples as well.
    """
    blocks = [name for name in areas if name not in (RANDOM, CENTER)]
    titles = {name: f"{name}, mean of the heads" for name in blocks}
    titles |= {RANDOM: f"{RANDOM}, mean of {faithfulness.RANDOM_MAPS}", CENTER: CENTER}
    images = counted(len(areas[CENTER]), "image")
    yield (
        f"Faithfulness on {images} spread evenly over the classes (seed {seed}): the area under the "
        f"predicted class's probability, {faithfulness.STEPS} steps; its mean and, in brackets, the mean's "
        f"{100 * faithfulness.CONFIDENCE:.0f} % bootstrap interval ({faithfulness.RESAMPLES:,} resamples)."
    )
    yield ""
    yield from table_head("map", "deletion, lower is better", "insertion, higher is better")
    yield from (row([title, *_intervals(areas[name], seed)]) for name, title in titles.items())
    yield ""
    yield from table_head("difference on the same images", *_BETTER)
    for name in blocks:
        for reference in (RANDOM, CENTER):
            differences = areas[name] - areas[reference]
            yield row([f"{name} − {reference}", *_intervals(differences, seed, "+")])
    yield ""
    yield verdict(areas, block_name(saliency_block), seed)


def verdict(areas: Areas, block: str, seed: int) -> str:
    """A sentence on whether the block that serves as saliency beats both references on both measures."""
    if len(areas[block]) == 1:
        return "One image says nothing of others; measure more of them for a verdict."
    failed = []
    for reference in (RANDOM, CENTER):
        for column, (measure, better) in enumerate(_BETTER.items()):
            gains = better * (areas[block] - areas[reference])[:, column]
            low, _ = bootstrap_interval(gains, np.random.default_rng(seed))
            if low <= 0:
                failed.append(f"the {reference} on {measure}")
    if failed:
        return (
            f"{block}, the model's saliency, does not beat {' nor '.join(failed)}: the interval of the "
            "difference contains zero or lies on the wrong side of it."
        )
    return (
        f"{block}, the model's saliency, beats both the {RANDOM} and the {CENTER} on both deletion and "
        "insertion: all four intervals of the differences lie on the right side of zero."
    )


def mean_and_interval(values: NDArray[np.float64], seed: int, sign: str = "") -> str:
    """The mean of (n,) numbers and its bootstrap interval, "0.213 [0.190, 0.237]"; of one number only it."""
    if len(values) == 1:  # which says nothing about how others scatter
        return f"{values[0]:{sign}.3f}"
    low, high = bootstrap_interval(values, np.random.default_rng(seed))
    return f"{values.mean():{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _intervals(values: NDArray[np.float64], seed: int, sign: str = "") -> Iterator[str]:
    """The mean of each column and its interval."""
    yield from (mean_and_interval(column, seed, sign) for column in values.T)
