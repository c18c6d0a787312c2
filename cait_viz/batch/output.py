"""What a run on many images leaves: a folder with the rows, what made them, and files beside them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from cait_viz._files import atomic_write, remove_remains
from cait_viz.api import describe, labels_of
from cait_viz.batch.index import Index
from cait_viz.batch.rows import Rows
from cait_viz.batch.sheet import write_page
from cait_viz.batch.store import Store
from cait_viz.batch.work import BatchOptions, file_stem
from cait_viz.drawing.export import SOFTWARE
from cait_viz.engine.base import Engine
from cait_viz.images.preprocess import View

# Gets a number of images that are done, and whether they were done before.
Step = Callable[[int, bool], object]


class Output:
    """The folder of a run, wherever its images are looked at.

    Args:
        images: paths or addresses.
        engine: the network; it is only asked what it is.
        folder: the folder to write; a new or empty one, or with `resume` that of the interrupted run.
        options: what is kept.
        view: what the network sees.
        resume: keep what is there.

    Attributes:
        schema: the columns of the rows.

    Raises:
        OutputError: the folder cannot be written, or is of another run.
    """

    def __init__(
        self,
        images: Iterable[str] | Index,
        engine: Engine,
        folder: Path,
        options: BatchOptions,
        view: View,
        *,
        resume: bool,
    ) -> None:
        index = images if isinstance(images, Index) else Index(images)
        self.schema = Rows(engine, options.top).schema
        self._folder, self._options, self._model = folder, options, describe(engine)
        self._store = Store(folder, _made_by(engine, options, view), self.schema, index, resume=resume)
        for name in options.folders:
            (folder / name).mkdir(exist_ok=True)
            remove_remains(folder / name)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write the files of an image; its row may follow. Safe for several threads."""
        for name, content in files.items():
            with atomic_write(self._folder / name) as file:
                file.write(content)

    def write_rows(self, answers: Callable[[Iterator[str]], Iterator[pa.Table]], step: Step) -> int:
        """Write the rows of the images that have none, and, when all have one, the Parquet and the page.

        Args:
            answers: gives the rows of images, in any order.
            step: gets a number of images that are done, and whether they were done before.

        Returns:
            How many images could not be read; their rows say why.
        """
        store = self._store
        with closing(store):
            try:
                step(store.images.done(), True)
                for rows in answers(store.images.missing()):
                    store.add(rows)
                    step(len(rows), False)
            finally:
                store.flush()
            store.finish()
        if self._options.sheet:
            write_page(self._folder, store.rows(), lambda image: f"{file_stem(image)}.jpg", self._model)
        return store.errors()


def _made_by(engine: Engine, options: BatchOptions, view: View) -> dict[str, Any]:
    model = describe(engine)
    return {
        "software": SOFTWARE,
        "model": model.name,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "input_size": list(model.input_shape[::-1]),
        "trained_size": model.trained_size,
        "classes_sha256": hashlib.sha256("\n".join(labels_of(engine)).encode()).hexdigest(),
        "engine": engine.name,
        "precision": engine.precision,
        "view": view,
        "classes_listed": options.top,
        "maps": options.maps,
        "npz": options.npz,
        "sheet": options.sheet,
        "block": options.block,
        "head": options.head,
        **options.appearance.facts(),
    }
