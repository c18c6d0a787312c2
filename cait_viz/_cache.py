"""The user's cache: folders of entries, of which those that were used last are kept.

An entry is a folder with a file of contents, whose time is that of the entry's last use.
"""

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CONTENTS = "contents.json"

# The entries used last are kept up to so many bytes.
LIMIT = 4 * 2**30
# What a process that was killed left is removed when it is so old, in seconds.
_REMAINS_AFTER = 86_400.0


class Entry(NamedTuple):
    """What a cache holds of one checkpoint.

    Attributes:
        name: what its checkpoint was called when it was made.
        folder: where it lies.
        size: in bytes.
        used: when it was last used, in seconds since 1970.
    """

    name: str
    folder: Path
    size: int
    used: float


def user_cache(kind: str) -> Path:
    """The folder for entries of a kind, a link followed; it may not be there yet."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (caches / "cait-viz" / kind).resolve()


def mark_used(entry: Path) -> None:
    """Let an entry count as used now, where that can be written down."""
    with suppress(OSError):
        os.utime(entry / CONTENTS)


def entries(cache: Path) -> list[Entry]:
    """What a cache holds, the latest used first."""
    found = []
    for place in cache.glob("[!.]*/"):
        name, used = "damaged", 0.0
        with suppress(OSError, ValueError, KeyError, TypeError):
            name = str(json.loads((place / CONTENTS).read_text(encoding="utf-8"))["name"])
            used = (place / CONTENTS).stat().st_mtime
        with suppress(OSError):  # another process removes it
            size = sum(file.lstat().st_size for file in place.rglob("*"))
            found.append(Entry(name, place, size, used))
    return sorted(found, key=lambda entry: -entry.used)


def shrink(cache: Path, limit: int = LIMIT, keep: Path | None = None) -> int:
    """Remove what was not used for longest until the rest fits.

    Args:
        cache: the folder of entries.
        limit: how many bytes may stay; 0 removes everything.
        keep: an entry that stays in any case.

    Returns:
        How many bytes were removed.
    """
    removed, kept, full = 0, 0, False
    for entry in sorted(entries(cache), key=lambda entry: entry.folder != keep):  # a stable sort
        full = full or kept + entry.size > limit
        if not full or entry.folder == keep:
            kept += entry.size
        else:
            shutil.rmtree(entry.folder, ignore_errors=True)
            removed += entry.size
    for part in cache.glob(".cait-viz-*.part"):
        with suppress(OSError):
            if not limit or time.time() - part.stat().st_mtime > _REMAINS_AFTER:
                shutil.rmtree(part, ignore_errors=True)
    return removed
