"""Networks as OpenVINO graphs, exported once a checkpoint and kept in the user's cache.

An entry is a folder with a checkpoint's graphs, their weights, and the hashes of all. Its key is made of
everything that decides on it, so that a stale entry is never found; one that is damaged, or that somebody
else could have written, is made anew. Entries are renamed into place whole, which two processes may do at
once.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from cait_viz._cache import CONTENTS, mark_used, shrink, user_cache
from cait_viz._files import atomic_path, sha256
from cait_viz._process import run_module
from cait_viz.errors import OutputError
from cait_viz.weights.architecture import Checkpoint


def folder() -> Path:
    """Where the graphs lie, a link followed; it may not be there yet."""
    return user_cache("graphs")


class Graphs:
    """The graphs of a checkpoint, from the cache or made now; they stay at least as long as this object.

    Where the cache cannot be written, they are made in a temporary folder.

    Args:
        checkpoint: the weights and their architecture.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._entry = folder() / _key(checkpoint)
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def path(self, name: str) -> Path:
        """The file of a graph, by one of the names in `cait_viz.engine.names`.

        Raises:
            CheckpointError: the weights cannot be used.
            ProcessDiedError: the export failed.
        """
        if self._temporary is None and not _intact(self._entry, name):
            with suppress(OSError, OutputError):  # it cannot be written, or another process was faster
                self._make()
            if not _intact(self._entry, name):  # or the folder is somebody else's
                self._temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
                self._entry = Path(self._temporary.name) / "graphs"
                _export(self._checkpoint, self._entry)
        mark_used(self._entry)
        return self._entry / f"{name}.xml"

    def _make(self) -> None:
        folder().mkdir(parents=True, exist_ok=True)
        folder().chmod(0o700)  # whatever the user's umask lets others write
        if self._entry.is_dir() and not self._entry.is_symlink():
            shutil.rmtree(self._entry)
        self._entry.unlink(missing_ok=True)
        with atomic_path(self._entry) as part:
            _export(self._checkpoint, part)
        shrink(folder(), keep=self._entry)


def _key(checkpoint: Checkpoint) -> str:
    facts = [checkpoint.sha256, checkpoint.config.to_dict(), _maker()]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:40]


@cache
def _maker() -> str:
    """What would make a graph now: the versions, and this program's own code for it."""
    package = Path(__file__).resolve().parents[1]
    code = [*sorted((package / "model").glob("*.py")), *sorted((package / "engine").glob("*.py"))]
    hashes = [hashlib.sha256(file.read_bytes()).hexdigest() for file in code]
    return json.dumps([*hashes, *(version(name) for name in ("keras", "openvino"))])


def _export(checkpoint: Checkpoint, target: Path) -> None:
    target.mkdir(mode=0o700)
    request = {
        "name": checkpoint.name,
        "weights": str(checkpoint.path.resolve()),
        "origin": str(checkpoint.origin.absolute()),
        "sha256": checkpoint.sha256,
        "config": checkpoint.config.to_dict(),
    }
    run_module("cait_viz.engine.export", json.dumps(request), str(target))
    hashes = {file.name: sha256(file) for file in target.iterdir()}
    contents = json.dumps({"name": checkpoint.name, "sha256": hashes})
    (target / CONTENTS).write_text(contents, encoding="utf-8")
    for file in target.iterdir():
        file.chmod(0o600)


def _intact(entry: Path, name: str) -> bool:
    """Whether the graph of that name is in an entry, whole, and nobody else's."""
    try:
        if hasattr(os, "geteuid"):  # not on Windows, where the user's cache is the user's alone
            places = [entry.parent, entry, entry / CONTENTS, *entry.glob(f"{name}.*")]
            if any(_is_open_to_others(place.lstat()) for place in places):
                return False
        hashes = json.loads((entry / CONTENTS).read_text(encoding="utf-8"))["sha256"]
        return all(sha256(entry / file) == hashes[file] for file in (f"{name}.xml", f"{name}.bin"))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_open_to_others(status: os.stat_result) -> bool:
    writable = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return status.st_uid != os.geteuid() or bool(writable) or stat.S_ISLNK(status.st_mode)
