"""Which images a run is of, and where each one's row lies: on the disk, however many there are."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from cait_viz.batch.rows import as_text
from cait_viz.errors import OutputError

# Names that are read or written at once.
_AT_ONCE = 8192


class Index:
    """Images, each once, in their order. They lie in a temporary file, which goes with this object.

    Args:
        images: paths or addresses; an error of the iterator's is passed on.
    """

    def __init__(self, images: Iterable[str]) -> None:
        # SQLite keeps a database without a name in a file once it outgrows a small cache.
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        # A name of bytes that are no text is kept beside the text that its row has.
        self._database.execute(
            "CREATE TABLE images (position INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE, name BLOB, "
            "file INTEGER, row INTEGER)"
        )
        self.add(images)

    def __len__(self) -> int:
        return int(self._one("SELECT count(*) FROM images"))

    def add(self, images: Iterable[str]) -> None:
        """Put further images behind the others; those that are there keep their place."""
        with _on_the_disk():
            self._database.executemany(
                "INSERT OR IGNORE INTO images (text, name) VALUES (?, ?)", map(_entry, images)
            )

    def done(self) -> int:
        """How many images have a row."""
        return int(self._one("SELECT count(file) FROM images"))

    def missing(self) -> Iterator[str]:
        """The images that have no row, in their order; rows may be placed meanwhile."""
        for text, name in self._pages("SELECT position, text, name FROM images WHERE file IS NULL"):
            yield text if name is None else name.decode("utf-8", "surrogatepass")

    def place(self, texts: Iterable[str], file: int) -> None:
        """Say in which file, given by its number, the rows of these images lie one after the other."""
        with _on_the_disk():
            self._database.executemany(
                "UPDATE images SET file = ?, row = ? WHERE text = ?",
                ((file, row, text) for row, text in enumerate(texts)),
            )

    def places(self) -> Iterator[tuple[int, int]]:
        """The file and the row of each image, in their order; all have one."""
        yield from self._pages("SELECT position, file, row FROM images WHERE true")

    def _pages(self, query: str) -> Iterator[Any]:
        """What a query gives behind the position, in the order of the positions."""
        last = 0
        while page := self._database.execute(
            f"{query} AND position > ? ORDER BY position LIMIT {_AT_ONCE}", (last,)
        ).fetchall():
            last = page[-1][0]
            yield from (found[1:] for found in page)

    def _one(self, query: str) -> int:
        return self._database.execute(query).fetchone()[0]


def in_order(names: Iterable[str]) -> Iterator[str]:
    """Sort names that may be too many for the memory."""
    database = sqlite3.connect("", isolation_level=None)
    database.execute("CREATE TABLE names (name BLOB)")
    with _on_the_disk():
        database.executemany(
            "INSERT INTO names VALUES (?)", ((name.encode("utf-8", "surrogatepass"),) for name in names)
        )
    for (name,) in database.execute("SELECT name FROM names ORDER BY name"):
        yield name.decode("utf-8", "surrogatepass")


@contextmanager
def _on_the_disk() -> Iterator[None]:
    """Tell where SQLite keeps what does not fit into its cache, when that place is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OutputError(
            f"the list of images cannot be kept in the temporary folder ({error}); free some room there, or "
            "name another by SQLITE_TMPDIR"
        ) from None


def _entry(image: str) -> tuple[str, bytes | None]:
    text = as_text(image)
    return text, None if text == image else image.encode("utf-8", "surrogatepass")
