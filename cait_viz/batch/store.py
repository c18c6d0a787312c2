"""The rows of a run on many images: kept as they come, so that it can be resumed; at the end one Parquet."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from cait_viz._files import atomic_path, atomic_write, check_folder, remove_folder, remove_remains
from cait_viz._text import listed, path_text
from cait_viz.batch.index import Index
from cait_viz.errors import OutputError

ROWS, RUN = "images.parquet", "run.json"
_LOCK = "lock"

# Holds the rows until all are there, a file for each few.
_UNFINISHED = "unfinished"
# Rows in a file: what a run that is killed loses at most. Such files are joined into larger ones.
_KEPT_TOGETHER = 64
_ROW_GROUP = 8192


def check_output(folder: Path, *, resume: bool) -> None:
    """Refuse, by an OutputError, a folder in which no run can begin or, with `resume`, go on."""
    if not (folder / RUN).exists():
        check_folder(folder)
    elif not resume:
        raise OutputError(
            f"{path_text(folder)}: already holds a run; continue it with --resume, or name a new folder"
        )


class Store:
    """A folder of rows, of which each is written once. No more than a row group is in memory.

    Args:
        folder: where the rows go; it is made if it is not there.
        run: what makes them, ready for JSON; the same for all rows of a folder.
        schema: their columns, of which "image" tells one from another.
        images: what there is to be a row of each. Those that the folder has are placed in it; those that it
            has besides come behind the others.
        resume: keep the rows that the folder has, but for those of what could not be read.

    Raises:
        OutputError: the folder cannot be written, holds something and is not to be resumed, holds the rows of
            another run, or is being written by one.
    """

    def __init__(
        self, folder: Path, run: Mapping[str, Any], schema: pa.Schema, images: Index, *, resume: bool
    ) -> None:
        self.folder, self.images, self._run = folder, images, dict(run)
        self._schema = schema.with_metadata({"cait-viz": json.dumps(self._run)})
        self._read = lru_cache(maxsize=8)(self._table)
        self._waiting: list[pa.Table] = []
        self._small: dict[int, int] = {}  # files that are to be joined, and how many rows they have
        check_output(folder, resume=resume)
        if not self._is_of_this_run():
            folder.mkdir(exist_ok=True)
            with atomic_write(folder / RUN) as file:
                file.write(json.dumps(self._run, indent=2).encode())
        self._lock = self._locked()
        remove_remains(folder)
        remove_remains(self._unfinished)
        self._take_up_finished()
        self._unfinished.mkdir(exist_ok=True)
        self._next = 0
        for path in sorted(self._unfinished.glob("*.arrow")):
            self._next = int(path.stem) + 1
            self._drop_failed(int(path.stem))
            self.images.add(self._read(int(path.stem))["image"].to_pylist())
            self._place(int(path.stem))

    def add(self, rows: pa.Table) -> None:
        """Keep rows; they are on the disk after `flush`, or when there are enough of them."""
        self._waiting.append(rows)
        if sum(map(len, self._waiting)) >= _KEPT_TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._waiting:
            self._write(self._waiting)
            self._waiting = []
        if sum(self._small.values()) >= _ROW_GROUP:
            joined = list(self._small)
            self._small = {}
            self._write([self._read(number) for number in joined])
            self._read.cache_clear()
            for number in joined:
                self._path(number).unlink()

    def finish(self) -> None:
        """Write the rows of the images, in their order, as one Parquet file."""
        self.flush()
        places = self.images.places()
        pool = pa.system_memory_pool()  # Arrow's own would keep what each row group freed
        with (
            atomic_path(self.folder / ROWS) as part,
            pq.ParquetWriter(part, self._schema, compression="zstd", memory_pool=pool) as writer,
        ):
            while group := list(islice(places, _ROW_GROUP)):
                table = pa.concat_tables(self._runs(group)).combine_chunks(pool)
                writer.write_table(table, row_group_size=_ROW_GROUP)
        self._read.cache_clear()
        remove_folder(self._unfinished)
        self.close()
        (self.folder / _LOCK).unlink(missing_ok=True)

    def close(self) -> None:
        """Let other runs write the folder."""
        self._lock.release()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of a finished run, one after the other."""
        with pq.ParquetFile(self.folder / ROWS) as file:
            for batch in file.iter_batches(_KEPT_TOGETHER):
                yield from batch.to_pylist()

    def errors(self) -> int:
        """How many rows of a finished run are of files that could not be read."""
        with pq.ParquetFile(self.folder / ROWS) as file:
            batches = file.iter_batches(_ROW_GROUP, columns=["error"])
            return sum(len(batch) - int(batch["error"].null_count) for batch in batches)

    @property
    def _unfinished(self) -> Path:
        return self.folder / _UNFINISHED

    def _path(self, number: int) -> Path:
        return self._unfinished / f"{number:08}.arrow"

    def _write(self, tables: list[pa.Table]) -> None:
        """Write rows into the next file."""
        number = self._next
        self._write_file(number, tables)
        self._next += 1
        self._place(number)

    def _write_file(self, number: int, tables: list[pa.Table]) -> None:
        with atomic_write(self._path(number)) as file, pa.ipc.new_file(file, self._schema) as writer:
            for table in tables:
                writer.write_table(table.cast(self._schema))

    def _place(self, number: int) -> None:
        """Tell the index which rows lie in a file."""
        names = self._read(number)["image"].to_pylist()
        self.images.place(names, number)
        if len(names) < _ROW_GROUP:
            self._small[number] = len(names)

    def _drop_failed(self, number: int) -> None:
        """Remove the rows of what could not be read: a disk or the network may be back, a file be mended."""
        table = self._read(number)
        if table["error"].null_count < len(table):
            self._write_file(number, [table.filter(pc.is_null(table["error"]))])
            self._read.cache_clear()

    def _runs(self, places: list[tuple[int, int]]) -> Iterator[pa.Table]:
        """The rows at these places; those that lie behind each other in a file come together."""
        start = 0
        for place in range(1, len(places) + 1):
            number, first = places[start]
            if place == len(places) or places[place] != (number, first + place - start):
                yield self._read(number).slice(first, place - start)
                start = place

    def _is_of_this_run(self) -> bool:
        """Whether the folder holds rows of this run; False where it holds nothing."""
        path = self.folder / RUN
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError):
            raise OutputError(f"{path_text(path)}: cannot be read; choose another folder") from None
        different = [key for key in self._run | found if found.get(key) != self._run.get(key)]
        if different:
            raise OutputError(
                f"{path_text(self.folder)}: holds the rows of another model or other options "
                f"({listed(different)}); choose another folder"
            )
        return True

    def _locked(self) -> FileLock:
        """The lock of the one run that may write the folder."""
        lock = FileLock(self.folder / _LOCK, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"{path_text(self.folder)}: another run writes here; wait for its end, or name a new folder"
            ) from None
        return lock

    def _take_up_finished(self) -> None:
        """Bring the rows of a finished run back among those of an unfinished one."""
        path = self.folder / ROWS
        if not path.exists() or any(self._unfinished.glob("*.arrow")):
            return
        try:
            with pq.ParquetFile(path) as file, atomic_path(self._unfinished) as part:
                part.mkdir()
                for number, batch in enumerate(file.iter_batches(_ROW_GROUP)):
                    with pa.ipc.new_file(str(part / f"{number:08}.arrow"), self._schema) as writer:
                        writer.write_batch(batch.cast(self._schema))
        except (pa.ArrowException, ValueError):
            raise OutputError(f"{path_text(path)}: is damaged; remove it, or choose another folder") from None

    def _table(self, number: int) -> pa.Table:
        """The rows of a file, which stay on the disk until they are used."""
        with suppress(pa.ArrowException), pa.memory_map(str(self._path(number))) as file:
            return pa.ipc.open_file(file).read_all()
        raise OutputError(f"{path_text(self._path(number))}: is damaged; remove it, and resume")
