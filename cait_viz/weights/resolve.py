"""Which weights to use: the bundled ones, a published model's, or a file of one's own; no Keras."""

from pathlib import Path

from cait_viz._files import sha256
from cait_viz._resources import BUNDLED_WEIGHTS
from cait_viz._text import one_line
from cait_viz.errors import CheckpointError, DownloadError
from cait_viz.weights import hub
from cait_viz.weights.architecture import infer_config, require_match, with_head_of
from cait_viz.weights.checkpoint import Checkpoint
from cait_viz.weights.conversion import as_safetensors
from cait_viz.weights.hub import Progress
from cait_viz.weights.registry import BUNDLED, VARIANTS, Variant, get_variant, match_variant
from cait_viz.weights.safetensors import open_safetensors
from cait_viz.weights.tensors import TensorFile, unwrap

__all__ = ["FILENAME", "Checkpoint", "available", "fetch", "locate", "resolve"]

FILENAME = "model.safetensors"


def resolve(
    model: str | None = None,
    weights: Path | str | None = None,
    *,
    download: bool = True,
    progress: bool | Progress = True,
) -> Checkpoint:
    """Find the weights to use, and read their header.

    Nothing given: the bundled ones. Only a model's name: its own weights, from this machine or
    downloaded. Only weights: the architecture that their shapes show. Both: the weights have to fit the
    model, all but the number of classes, which follows their head.

    Args:
        model: name of a variant.
        weights: a safetensors file with timm's tensor names, which may share a prefix such as "module.".
        weights: a safetensors file with timm's tensor names; a SavedModel's folder or a PyTorch checkpoint,
            which are converted once.
        download: whether weights that are not on this machine may be downloaded.
        progress: how a download is shown, see `fetch`.

    Raises:
        UnknownModelError: there is no variant of that name.
        CheckpointError: the weights cannot be read or do not fit, with every tensor that is missing, left
            over or of a wrong shape; or they are not on this machine and must not be downloaded.
        DownloadError: they could not be downloaded.
    """
    variant = None if model is None else get_variant(model)
    if weights is not None:
        return _own_weights(open_weights(Path(weights).expanduser()), variant)
        return _own_weights(open_weights(Path(weights).expanduser()), variant)
    variant = variant or BUNDLED
    file = _on_this_machine(variant)
    if file is not None and not hub.is_intact(file.path):
        hub.discard(file.path)  # damaged since it was downloaded
        file = None
    if file is None:
        if not download and variant.repo_id is not None:
            raise CheckpointError(
                f"{variant.name} is not on this machine; download it with `cait-viz fetch {variant.name}`"
            )
        file = _download(variant, progress)
    return Checkpoint(name=variant.name, file=file, config=variant.config, variant=variant, as_published=True)


def open_weights(path: Path) -> TensorFile:
    """Open what a person gave as weights: the one place that decides by its kind how it is read."""
    return unwrap(open_safetensors(as_safetensors(path)))


def _own_weights(file: TensorFile, variant: Variant | None) -> Checkpoint:
    """The checkpoint that a file makes; it has to fit the variant, if one is asked for."""
    if variant is not None:
        config = with_head_of(file.header, variant.config)
        require_match(file, config, variant.name)
        return Checkpoint(name=variant.name, file=file, config=config, variant=variant, as_published=False)
    config = infer_config(file)
    require_match(file, config)
    if _is_bundled(file.path):
        return Checkpoint(name=BUNDLED.name, file=file, config=config, variant=BUNDLED, as_published=True)
    variant = match_variant(config)
    if variant is not None:
        config = with_head_of(file.header, variant.config)
    same_head = variant is not None and config == variant.config
    name = variant.name if variant is not None and same_head else one_line(file.path.stem, 100)
    return Checkpoint(name=name, file=file, config=config, variant=variant, as_published=False)


def _is_bundled(path: Path) -> bool:
    """Whether it is a copy of the bundled weights. Only a file of their size is hashed."""
    try:
        same_size = path.stat().st_size == BUNDLED_WEIGHTS.stat().st_size
    except OSError:  # the bundled weights are missing
        return False
    return same_size and sha256(path) == sha256(BUNDLED_WEIGHTS)


def available() -> frozenset[str]:
    """Names of the variants whose weights are on this machine, whole and of their shapes.

    Reads the header of each file that is there; uses no network.
    """
    return frozenset(variant.name for variant in VARIANTS.values() if _on_this_machine(variant))


def locate(variant: Variant) -> Path | None:
    """The variant's own weights on this machine, whole and of its shapes; None if they are not here.

    Bundled with the program, or in the hub's cache. Uses no network.
    """
    file = _on_this_machine(variant)
    return file.path if file else None


def fetch(variant: Variant, *, progress: bool | Progress = True) -> Path:
    """The variant's own weights: those on this machine, else downloaded from the hub into its cache.

    A download that is killed leaves nothing that could be taken for weights. The file is compared with the
    SHA-256 that the hub announced and with the variant's shapes, and removed if either differs.

    Args:
        variant: whose weights.
        progress: True shows a bar on standard error if that is a terminal, False shows nothing; a
            function is called with the bytes downloaded so far and the bytes in all. An exception that it
            raises ends the download and is passed on.

    Raises:
        DownloadError: the weights could not be downloaded; the message says what to do.
        CheckpointError: the bundled weights are missing.
    """
    return locate(variant) or _download(variant, progress).path


def _on_this_machine(variant: Variant) -> TensorFile | None:
    path = BUNDLED_WEIGHTS if variant.repo_id is None else hub.cached(variant.repo_id, FILENAME)
    if path is None:
        return None
    try:
        file = open_safetensors(path)
        require_match(file, variant.config)
    except CheckpointError:
        return None
    return file


def _download(variant: Variant, progress: bool | Progress) -> TensorFile:
    if variant.repo_id is None:
        raise CheckpointError(
            f"{variant.name}: its weights are missing ({BUNDLED_WEIGHTS}); install the program again, or "
            "name another model"
        )
    path = hub.download(variant.repo_id, FILENAME, name=variant.name, progress=progress)
    try:
        file = open_safetensors(path)
        require_match(file, variant.config)
    except CheckpointError as error:
        hub.discard(path)
        raise DownloadError(
            f"{variant.name}: what the hub sent for {variant.repo_id} is not this model and was removed; "
            f"check HF_ENDPOINT ({error})"
        ) from error
    return file
