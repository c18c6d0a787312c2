"""One file of the Hugging Face hub: out of its cache, or downloaded, whole and as announced.

The cache, the offline switch, the access token, `HF_HOME` and `HF_ENDPOINT` are huggingface_hub's own.
That package is imported where it is needed: its HTTP client takes a quarter of a second to import, and
most runs of this program never use it.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cait_viz._files import sha256
from cait_viz._text import one_line
from cait_viz.errors import DownloadError

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub import HfFileMetadata

# Xet, the hub's other protocol, tells its progress from threads of its own and resumes in ways that nothing
# here watches over; plain HTTP is what the tests hold to dropped connections and wrong contents.
# Read by huggingface_hub as it is imported.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")

Progress = Callable[[int, int], None]

# Waits between the tries to ask the hub about a file, in seconds. huggingface_hub would wait 23 s
# before it says that there is no network.
_RETRY_WAITS = (0.5, 2.0)
# Answers of a server that may be another one a moment later.
_PASSING_STATUS = (408, 429, 500, 502, 503, 504)
# What a killed download leaves is not taken up by a later one; after this many seconds without
# a byte nobody is writing it any more.
_STALE_AFTER = 3600
# Bytes after which the progress is told and what arrived is safe from a drop.
_CHUNK = 2**19
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def cached(repo_id: str, filename: str) -> Path | None:
    """The file as the hub's cache holds it, or None. Asks no network and does not look inside."""
    from huggingface_hub import constants

    try:
        # The folder's name is documented ("How to manage the cache"); looking for it first spares the
        # import of the HTTP client where nothing is cached.
        if not _repo_folder(repo_id).is_dir():
            return None
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(repo_id, filename, cache_dir=constants.HF_HUB_CACHE)
    except OSError:  # a cache of another user, not to be read
        return None
    return Path(path) if isinstance(path, str) else None


def download(repo_id: str, filename: str, *, name: str, progress: bool | Progress = True) -> Path:
    """Download a file into the hub's cache; what the cache held under that name is replaced.

    A connection that drops is taken up where it broke. What arrives is compared with the SHA-256 that
    the server announced, and removed if it differs.

    Args:
        repo_id: owner and name of the repository.
        filename: the file in it.
        name: what the progress bar and the errors call it.
        progress: True shows a bar on standard error if that is a terminal, False shows nothing; a
            function is called with the bytes that are here and the bytes in all. What it raises ends
            the download and passes through.

    Returns:
        The path in the cache.

    Raises:
        DownloadError: the file could not be fetched; the message says what to do.
    """
    import huggingface_hub

    bar = _progress_bar(name, progress)
    try:
        with _quiet():
            metadata = _ask(repo_id, filename, name)
            size = metadata.size or 0
            _sweep(repo_id)
            _require_space(name, size)
            stale = cached(repo_id, filename)
            if stale is not None:
                discard(stale)
            _prepare_to_resume()
            path = Path(huggingface_hub.hf_hub_download(repo_id, filename, tqdm_class=bar))
    except DownloadError:
        raise
    except Exception as error:
        if bar.stopped_by is not None:
            raise bar.stopped_by from None
        raise DownloadError(_sentence(error, repo_id, filename, name)) from error
    _require_announced(path, metadata.etag, repo_id, name)
    return path


def is_intact(path: Path) -> bool:
    """Whether a file of the cache has the SHA-256 it was announced with; True where that is not known.

    The cache names a file's content after its SHA-256 and links to it; where links are not to be
    had (Windows) there is nothing to compare with.
    """
    announced = path.readlink().name if path.is_symlink() else ""
    return not _SHA256.fullmatch(announced) or sha256(path) == announced


def discard(path: Path) -> None:
    """Remove a file from the hub's cache, and the content that it links to as far as that lies there too.

    Raises:
        DownloadError: the cache cannot be written.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE).resolve()
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


def _repo_folder(repo_id: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, constants.REPO_ID_SEPARATOR.join(["models", *repo_id.split("/")]))


def _ask(repo_id: str, filename: str, name: str) -> "HfFileMetadata":
    """What the hub says of the file: its size and, as its ETag, its SHA-256."""
    import httpx2
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(repo_id, filename)
    for wait in (*_RETRY_WAITS, None):
        try:
            metadata = get_hf_file_metadata(url)
            break
        except (httpx2.NetworkError, httpx2.RemoteProtocolError):
            if wait is None:
                raise
        except HfHubHTTPError as error:
            if wait is None or error.response.status_code not in _PASSING_STATUS:
                raise
        time.sleep(wait)
    if metadata.commit_hash is None or metadata.etag is None:
        raise DownloadError(
            f"{name}: what answers at {_endpoint()} is not a model hub, perhaps the login page of a network; "
            "open it in a browser, and check HF_ENDPOINT and the proxy"
        )
    return metadata


def _prepare_to_resume() -> None:
    """Have huggingface_hub resume a broken download whatever broke it, and from where it broke.

    It resumes one whose connection was closed (a protocol error) or fell silent (a timeout), but a reset
    is a read error for its HTTP client, and that one it does not expect: its session gets a hook that
    turns the one into the other while a body is read. And it keeps what arrived in pieces of 10 MB, so
    that on a line that breaks more often it would never get on.
    """
    from huggingface_hub import constants, get_session

    constants.DOWNLOAD_CHUNK_SIZE = min(constants.DOWNLOAD_CHUNK_SIZE, _CHUNK)
    session = get_session()
    hooks = session.event_hooks
    if _expect_resets not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _expect_resets]}


def _expect_resets(response: "httpx2.Response") -> None:
    import httpx2

    class Stream(httpx2.SyncByteStream):
        def __init__(self, body: Any) -> None:
            self.body = body

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self.body
            except httpx2.ReadError as error:
                raise httpx2.RemoteProtocolError(str(error), request=response.request) from error

        def close(self) -> None:
            self.body.close()

    response.stream = Stream(response.stream)


def _progress_bar(name: str, progress: bool | Progress) -> Any:
    """A class that huggingface_hub accepts as its progress bar."""
    if progress is True:
        return _terminal_bar(name)
    return _reporting_bar(progress if callable(progress) else lambda _done, _total: None)


def _terminal_bar(name: str) -> Any:
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """The hub's own bar, called after the model and not after the address."""

        stopped_by = None

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"desc": name})

    return Bar


def _reporting_bar(tell: Progress) -> Any:
    class Report:
        """The part of tqdm's interface that huggingface_hub uses."""

        stopped_by: BaseException | None = None

        def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any) -> None:
            self.n, self.total = initial, total
            self.update(0)

        def update(self, count: float | None = 1) -> None:
            self.n += int(count or 0)
            try:
                tell(self.n, self.total or self.n)
            except BaseException as error:
                Report.stopped_by = error
                raise

        def update_transfer(self, count: float) -> None:
            """Bytes on the wire, which count differently from the file's where the hub deduplicates."""

        def set_postfix_str(self, *_: Any, **__: Any) -> None: ...

        set_transfer_postfix_str = refresh = close = set_description = set_postfix_str

        def __enter__(self) -> "Report":
            return self

        def __exit__(self, *_: object) -> None: ...

    return Report


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub's warnings off standard error: each retry is one, and an error is told once."""

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    loggers = [
        logging.getLogger(f"huggingface_hub.{room}")
        for room in ("file_download", "utils._http", "utils._xet")
    ]
    for logger in loggers:
        logger.addFilter(is_error)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_error)


def _sweep(repo_id: str) -> None:
    """Remove what killed downloads of this repository left behind."""
    limit = time.time() - _STALE_AFTER
    for leftover in (_repo_folder(repo_id) / "blobs").glob("*.incomplete"):
        with contextlib.suppress(OSError):
            if leftover.stat().st_mtime < limit:
                leftover.unlink()


def _require_space(name: str, size: int) -> None:
    cache = _cache()
    there = next((folder for folder in (cache, *cache.parents) if folder.exists()), None)
    if there is None:
        return
    free = shutil.disk_usage(there).free
    if free < size:
        raise DownloadError(
            f"{name}: the download takes {_mb(size)} and the disk that holds {cache} has {_mb(free)} left; "
            "make room, or set HF_HOME to a folder on another disk"
        )


def _require_announced(path: Path, etag: str | None, repo_id: str, name: str) -> None:
    """Remove the file unless it has the SHA-256 that the server announced as its ETag."""
    if etag is None or not _SHA256.fullmatch(etag):  # a small file, or a mirror that announces none
        return
    arrived = sha256(path)
    if arrived != etag:
        discard(path)
        raise DownloadError(
            f"{name}: what {_endpoint()} sent for {repo_id} has the SHA-256 {arrived[:12]}… and not the "
            f"announced {etag[:12]}…, so it was removed; fetch it again, if need be from another network"
        )


def _sentence(error: Exception, repo_id: str, filename: str, name: str) -> str:
    """Say in one line what went wrong and what to do."""
    from huggingface_hub import errors

    where = f"{_endpoint()}/{repo_id}"
    by_kind: tuple[tuple[type[Exception], str], ...] = (
        (
            errors.OfflineModeIsEnabled,
            "it is not on this machine and HF_HUB_OFFLINE forbids to download it; unset HF_HUB_OFFLINE, or "
            "give a file of your own as weights",
        ),
        (
            errors.GatedRepoError,
            f"the owner wants terms to be accepted first; accept them at {where} and log in with "
            "`hf auth login`",
        ),
        (
            errors.RepositoryNotFoundError,
            f"there is no repository at {where}, or it is private; check HF_ENDPOINT, or log in with "
            "`hf auth login`",
        ),
        (
            errors.EntryNotFoundError,
            f"the repository at {where} has no file {filename}; check HF_ENDPOINT, or give a file of your "
            "own as weights",
        ),
        (errors.RevisionNotFoundError, f"the repository at {where} has no branch main; check HF_ENDPOINT"),
    )
    # LocalEntryNotFoundError is huggingface_hub's "see my cause"; it is an EntryNotFoundError too.
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    for kind, text in by_kind:
        if isinstance(error, kind):
            return f"{name}: {text}"
    if isinstance(error, errors.HfHubHTTPError):
        return f"{name}: {_status_sentence(error.response.status_code)}"
    return f"{name}: {_system_sentence(error, f'{where}/resolve/main/{filename}')}"


def _status_sentence(status: int) -> str:
    if status == 401:
        return (
            f"{_endpoint()} refuses access (401), the repository is not there or private, or the token is "
            "not valid; check HF_ENDPOINT, and log in with `hf auth login` or unset HF_TOKEN"
        )
    if status == 403:
        return (
            f"{_endpoint()} refuses access (403); check the rights of the token that `hf auth whoami` shows"
        )
    if status in _PASSING_STATUS:
        return f"{_endpoint()} is out of order or busy (it answers {status}); try again in a few minutes"
    return f"{_endpoint()} answers {status}; check HF_ENDPOINT and the proxy"


def _system_sentence(error: Exception, url: str) -> str:
    import httpx2

    reason = one_line(re.sub(r"\[Errno -?\d+\] ", "", str(error))) or type(error).__name__
    elsewhere = f"or download {url} elsewhere and give that file as weights"
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return f"HF_ENDPOINT is {_endpoint()!r}, which is no web address; correct it or unset it"
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.ProxyError):
        return f"{_endpoint()} cannot be reached ({reason}); check the network and the proxy, {elsewhere}"
    if isinstance(error, httpx2.TransportError):
        return (
            f"the connection to {_endpoint()} broke off and could not be taken up again ({reason}); check "
            "the network and fetch again"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return _disk_sentence(error)
    if "Consistency check" in reason:
        return f"{_endpoint()} sent a file of another size than it announced; fetch it again"
    return f"the download failed ({reason}); try again, {elsewhere}"


def _disk_sentence(error: OSError) -> str:
    if error.errno in _NO_SPACE:
        return (
            f"the disk that holds {_cache()} is full; make room, or set HF_HOME to a folder on another disk"
        )
    return f"the cache {_cache()} cannot be written ({error.strerror}); set HF_HOME to a folder of your own"


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
