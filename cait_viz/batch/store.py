"""The rows of a run on many images: kept as they come, so that it can be resumed; at the end one Parquet."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cait_viz._files import atomic_path, atomic_write, check_folder, remove_remains
from cait_viz._text import path_text
from cait_viz.errors import OutputError

ROWS, RUN = "images.parquet", "run.json"

# Holds the rows until all are there, a file for each few.
_UNFINISHED = "unfinished"
# Rows in a file: what a run that is killed loses at most.
_KEPT_TOGETHER = 64
_ROW_GROUP = 8192


class Store:
    """A folder of rows, of which each is written once.

    Args:
        folder: where the rows go; it is made if it is not there.
        run: what makes them, ready for JSON; the same for all rows of a folder.
        schema: their columns, of which "image" tells one from another.
        resume: keep the rows that the folder has.

    Raises:
        OutputError: the folder cannot be written, holds something and is not to be resumed, or holds the
            rows of another run.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], schema: pa.Schema, *, resume: bool) -> None:
        self.folder, self._run = folder, dict(run)
        self._schema = schema.with_metadata({"cait-viz": json.dumps(self._run)})
        self._waiting: list[Mapping[str, Any]] = []
        self._places: dict[str, tuple[Path, int]] = {}  # of each image's row: the file, and the row in it
        if not (resume and self._is_of_this_run()):
            check_folder(folder)
            folder.mkdir(exist_ok=True)
            with atomic_write(folder / RUN) as file:
                file.write(json.dumps(self._run, indent=2).encode())
        self._unfinished.mkdir(exist_ok=True)
        remove_remains(self._unfinished)
        self._take_up_finished()
        for path in sorted(self._unfinished.glob("*.arrow")):
            images = _read(path)["image"].to_pylist()
            self._places |= {image: (path, row) for row, image in enumerate(images)}
        self._numbers = count(len(list(self._unfinished.iterdir())))

    def __contains__(self, image: str) -> bool:
        return image in self._places

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows; they are on the disk after `flush`, or when there are enough of them."""
        self._waiting += rows
        if len(self._waiting) >= _KEPT_TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if not self._waiting:
            return
        table = pa.Table.from_pylist(self._waiting, self._schema)
        path = self._unfinished / f"{next(self._numbers):08}.arrow"
        with atomic_write(path) as file, pa.ipc.new_file(file, self._schema) as writer:
            writer.write_table(table)
        self._places |= {row["image"]: (path, number) for number, row in enumerate(self._waiting)}
        self._waiting = []

    def finish(self, images: Sequence[str]) -> None:
        """Write the rows of these images, in this order, as one Parquet file."""
        self.flush()
        with (
            atomic_path(self.folder / ROWS) as part,
            pq.ParquetWriter(part, self._schema, compression="zstd") as writer,
        ):
            for start in range(0, len(images), _ROW_GROUP):
                runs = self._runs(images[start : start + _ROW_GROUP])
                table = pa.concat_tables(runs).combine_chunks()
                writer.write_table(table, row_group_size=_ROW_GROUP)
        shutil.rmtree(self._unfinished)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of a finished run, one after the other."""
        with pq.ParquetFile(self.folder / ROWS) as file:
            for batch in file.iter_batches(_KEPT_TOGETHER):
                yield from batch.to_pylist()

    def errors(self) -> int:
        """How many rows of a finished run are of files that could not be read."""
        errors = pq.read_table(self.folder / ROWS, columns=["error"])["error"]
        return len(errors) - int(errors.null_count)

    @property
    def _unfinished(self) -> Path:
        return self.folder / _UNFINISHED

    def _runs(self, images: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of these images; those that lie behind each other in a file come together."""
        start = 0
        places = [self._places[image] for image in images]
        for place in range(1, len(places) + 1):
            path, first = places[start]
            if place == len(places) or places[place] != (path, first + place - start):
                yield _read(path).slice(first, place - start)
                start = place

    def _is_of_this_run(self) -> bool:
        """Whether the folder holds rows of this run; False where it holds nothing."""
        try:
            found = json.loads((self.folder / RUN).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            found = None
        if found != self._run:
            raise OutputError(
                f"{path_text(self.folder)}: holds the rows of another model or other options; choose another "
                "folder"
            )
        return True

    def _take_up_finished(self) -> None:
        """Bring the rows of a finished run back among those of an unfinished one."""
        path = self.folder / ROWS
        if not path.exists() or any(self._unfinished.glob("*.arrow")):
            return
        try:
            with (
                pq.ParquetFile(path) as file,
                atomic_write(self._unfinished / "00000000.arrow") as part,
                pa.ipc.new_file(part, self._schema) as writer,
            ):
                for batch in file.iter_batches(_ROW_GROUP):
                    writer.write_batch(batch.cast(self._schema))
        except (pa.ArrowException, ValueError):
            raise OutputError(f"{path_text(path)}: is damaged; remove it, or choose another folder") from None


@lru_cache(maxsize=8)
def _read(path: Path) -> pa.Table:
    """The rows of a file, which stay on the disk until they are used."""
    with suppress(pa.ArrowException), pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()
    raise OutputError(f"{path_text(path)}: is damaged; remove it, and resume")
