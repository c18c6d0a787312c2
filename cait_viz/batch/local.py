"""Many images on this machine: what `cait-viz batch` does."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from cait_viz.batch.index import Index
from cait_viz.batch.output import Output, Step
from cait_viz.batch.work import BatchOptions, Made, Worker
from cait_viz.engine.base import Engine
from cait_viz.images.preprocess import View


def run_batch(
    images: Iterable[str] | Index,
    engine: Engine,
    output: Path,
    options: BatchOptions = BatchOptions(),
    *,
    view: View = "crop",
    resume: bool = False,
    step: Step = lambda count, before: None,
) -> int:
    """Ask a network about many images, and keep what it says.

    The folder gets `images.parquet`, one row an image in their order (see `cait_viz.batch.rows`), and
    `run.json`, what made them; on wish a map, an archive and a page. A run that was interrupted at any point
    and is resumed writes the same bytes as one that was not.

    Args:
        images: paths or addresses; one that is named twice is looked at once.
        engine: the network.
        output: the folder to write; a new or empty one, or with `resume` that of the interrupted run.
        options: what is kept.
        view: what the network sees.
        resume: do what is missing and no more. What could not be read before is tried again; rows of images
            that are not given this time are kept, behind the others.
        step: gets a number of images that are done, and whether they were done before.

    Returns:
        How many images could not be read; their rows say why.

    Raises:
        OutputError: the folder cannot be written, or is of another run.
        CheckpointError: the weights are damaged: the numbers are not finite.
    """
    place = Output(images, engine, output, options, view, resume=resume)
    worker = Worker(engine, options, view)

    def written(made: Made) -> dict[str, Any]:
        row, files = made
        place.write_files(files)
        return row

    def answers(missing: Iterator[str]) -> Iterator[pa.Table]:
        for rows in worker.answers(missing, written):
            yield pa.Table.from_pylist(rows, place.schema)

    return place.write_rows(answers, step)
