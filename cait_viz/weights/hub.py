"""One file of the Hugging Face hub: from its cache, or downloaded and checked.

huggingface_hub is imported where it is needed: its HTTP client takes a quarter of a second to import, and
most runs of this program never use it.
"""

import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cait_viz._files import sha256
from cait_viz._text import one_line
from cait_viz.errors import DownloadError

Progress = Callable[[int, int], None]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_OTHER_DISK = "make room, or set HF_HOME to a folder on another disk"


def cached(repo_id: str, filename: str) -> Path | None:
    """The file's path in the hub's cache, or None. Uses no network and does not look inside the file."""
    cache = Path(_hub().HF_HUB_CACHE)
    try:
        # The folder's name is documented ("How to manage the cache"); looking for it first avoids importing
        # the HTTP client where nothing is cached.
        if not (cache / _hub().REPO_ID_SEPARATOR.join(["models", *repo_id.split("/")])).is_dir():
            return None
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(repo_id, filename, cache_dir=cache)
    except OSError:  # another user's cache, which may not be read
        return None
    return Path(path) if isinstance(path, str) else None


def download(repo_id: str, filename: str, *, name: str, progress: bool | Progress = True) -> Path:
    """Download a file into the hub's cache, replacing what it holds under that name; gives the path there.

    The file is compared with the SHA-256 that the server announced, and removed if it differs.

    Args:
        repo_id: owner and name of the repository.
        filename: the file.
        name: what the progress bar and the errors call it.
        progress: True shows a bar on a terminal, False nothing; a function is called with the bytes so far
            and the bytes in all, and an exception that it raises ends the download and is passed on.

    Raises:
        DownloadError: the file could not be downloaded; the message says what to do.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    bar = _progress_bar(name, progress)
    try:
        # huggingface_hub warns of a full disk and goes on; without a network it retries for 23 s.
        metadata = get_hf_file_metadata(hf_hub_url(repo_id, filename))
        if metadata.commit_hash is None or metadata.etag is None:
            raise DownloadError(
                f"{name}: {_hub().ENDPOINT} is no model hub, perhaps the login page of a network; open it in "
                "a browser, and check HF_ENDPOINT and the proxy"
            )
        _require_space(name, metadata.size or 0)
        # What another process has fetched meanwhile is not removed under its hands.
        found = cached(repo_id, filename)
        if found and sha256(found) != metadata.etag:
            discard(found)
        path = Path(hf_hub_download(repo_id, filename, tqdm_class=bar))
    except DownloadError:
        raise
    except Exception as error:
        if bar.stopped_by is not None:
            raise bar.stopped_by from None
        raise DownloadError(f"{name}: {_advice(error, repo_id, filename)}") from error
    # A small file, and one from a mirror, may come without a SHA-256.
    arrived, announced = sha256(path), metadata.etag
    if _SHA256.fullmatch(announced) and arrived != announced:
        discard(path)
        raise DownloadError(
            f"{name}: what {_hub().ENDPOINT} sent has the SHA-256 {arrived[:12]}… and not the announced "
            f"{announced[:12]}…, so it was removed; fetch it again, if need be from another network"
        )
    return path


def is_intact(path: Path) -> bool:
    """Whether a file of the cache has the SHA-256 that the server announced; True where that is not known."""
    # The cache names a file's content after its SHA-256 and links to it, where there are links.
    announced = path.readlink().name if path.is_symlink() else ""
    return not _SHA256.fullmatch(announced) or sha256(path) == announced


def discard(path: Path) -> None:
    """Remove a file from the hub's cache, and what it links to there; a DownloadError if that is refused."""
    cache = Path(_hub().HF_HUB_CACHE).resolve()
    while cache in (path.parent.resolve() / path.name).parents:
        target = path.parent / path.readlink() if path.is_symlink() else None
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DownloadError(
                f"{path}: is damaged and cannot be removed ({error.strerror}); remove it by hand"
            ) from error
        if target is None:
            return
        path = target


def _progress_bar(name: str, progress: bool | Progress) -> Any:
    """A class for huggingface_hub: its own bar, named after the model; or none, and reports to a function."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        stopped_by: BaseException | None = None

        def __init__(self, *args: Any, **options: Any) -> None:
            hidden = {} if progress is True else {"disable": True}
            super().__init__(*args, **options | {"desc": name} | hidden)
            self.done, self.size = options.get("initial", 0), options.get("total")
            self.update(0)

        def update(self, n: float | None = 1) -> bool | None:
            self.done += int(n or 0)
            if callable(progress):
                try:
                    progress(self.done, self.size or self.done)
                except BaseException as error:
                    Bar.stopped_by = error
                    raise
            return super().update(n)

        def update_transfer(self, *_: Any, **__: Any) -> None:
            """The hub's deduplicating protocol reports on one bar and not on two."""

        set_transfer_postfix_str = update_transfer

    return Bar


def _require_space(name: str, size: int) -> None:
    cache = Path(_hub().HF_HUB_CACHE)
    there = next((folder for folder in (cache, *cache.parents) if folder.exists()), None)
    free = shutil.disk_usage(there).free if there else size
    if free < size:
        raise DownloadError(
            f"{name}: takes {size / 1e6:,.0f} MB and the disk that holds {cache} has {free / 1e6:,.0f} MB "
            f"left; {_OTHER_DISK}"
        )


def _advice(error: BaseException, repo_id: str, filename: str) -> str:
    """What went wrong and what to do."""
    import httpx2
    from huggingface_hub import errors

    # huggingface_hub wraps a failed request in this error, which is an EntryNotFoundError too.
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    reason = one_line(re.sub(r"\[Errno -?\d+\] ", "", str(error))) or type(error).__name__
    hub, cache, login = _hub().ENDPOINT, _hub().HF_HUB_CACHE, "log in with `hf auth login`"
    where = f"{hub}/{repo_id}"
    elsewhere = f"or download {where}/resolve/main/{filename} elsewhere and give that file as weights"
    unreachable = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
    no_address = (httpx2.UnsupportedProtocol, httpx2.InvalidURL)
    advice: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (errors.OfflineModeIsEnabled, "it is not on this machine and HF_HUB_OFFLINE is set; unset it"),
        (errors.GatedRepoError, f"its owner wants terms to be accepted; accept them at {where} and {login}"),
        (errors.RepositoryNotFoundError, f"{where} is not there, or private; check HF_ENDPOINT, or {login}"),
        (errors.EntryNotFoundError, f"{where} has no file {filename}; check HF_ENDPOINT"),
        (no_address, f"HF_ENDPOINT is {hub!r}, which is no web address; correct it or unset it"),
        (unreachable, f"{hub} cannot be reached ({reason}); check the network and the proxy, {elsewhere}"),
        (httpx2.TransportError, f"the connection to {hub} broke off ({reason}); fetch it again"),
    )
    for kind, sentence in advice:
        if isinstance(error, kind):
            return sentence
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        if status in (401, 403):
            return f"{hub} refuses access ({status}); check HF_ENDPOINT, and {login} or unset HF_TOKEN"
        return f"{hub} answers {status}; try again in a few minutes, or check HF_ENDPOINT and the proxy"
    if isinstance(error, OSError) and error.errno is not None:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the disk that holds {cache} is full; {_OTHER_DISK}"
        return f"the cache {cache} cannot be written ({error.strerror}); set HF_HOME to another folder"
    return f"the download failed ({reason}); fetch it again, {elsewhere}"


def _hub() -> Any:
    """The settings of huggingface_hub."""
    from huggingface_hub import constants

    return constants
