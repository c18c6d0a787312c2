"""Which weights to use: the bundled ones, a published model's, or your own file; no Keras."""

from pathlib import Path

from cait_viz._files import sha256
from cait_viz._resources import BUNDLED_WEIGHTS
from cait_viz._text import one_line
from cait_viz.errors import CheckpointError, DownloadError
from cait_viz.weights import hub
from cait_viz.weights.architecture import Checkpoint, infer_config, require_match, unwrapped, with_head_of
from cait_viz.weights.conversion import as_safetensors
from cait_viz.weights.hub import Progress
from cait_viz.weights.registry import BUNDLED, VARIANTS, Variant, get_variant, match_variant
from cait_viz.weights.safetensors import TensorFile, open_safetensors

__all__ = ["FILENAME", "Checkpoint", "available", "locate", "resolve"]

FILENAME = "model.safetensors"


def resolve(
    model: str | None = None,
    weights: Path | str | None = None,
    *,
    download: bool = True,
    progress: bool | Progress = True,
) -> Checkpoint:
    """Find the weights to use, and read their header.

    Nothing given: the bundled ones. Only a model's name: its own, from this machine or downloaded. Only
    weights: the architecture that their shapes show. Both: the weights have to fit the model, all but the
    number of classes, which follows their head.

    Args:
        model: name of a variant.
        weights: a safetensors file with timm's tensor names, which may share a prefix such as "module."; a
            SavedModel's folder or a PyTorch checkpoint, which are converted once.
        download: whether weights that are not on this machine may be downloaded. A download is compared with
            the SHA-256 that the hub announced and with the variant's shapes, and leaves nothing if it fails.
        progress: how a download is shown, see `hub.download`.

    Raises:
        UnknownModelError: there is no variant of that name.
        CheckpointError: the weights cannot be read or do not fit, or must not be downloaded.
        DownloadError: they could not be downloaded.
    """
    variant = None if model is None else get_variant(model)
    if weights is not None:
        given = Path(weights).expanduser().absolute()
        return _own_weights(unwrapped(open_safetensors(as_safetensors(given), given)), variant)
    variant = variant or BUNDLED
    file = locate(variant)
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


def _own_weights(file: TensorFile, asked: Variant | None) -> Checkpoint:
    """The checkpoint that a file makes; it has to fit the variant, if one is asked for."""
    if asked is not None:
        config = with_head_of(file.header, asked.config)
        require_match(file, config, asked.name)
        return Checkpoint(name=asked.name, file=file, config=config, variant=asked, as_published=False)
    config = infer_config(file)
    require_match(file, config)
    bundled = _is_bundled(file.path)
    variant = BUNDLED if bundled else match_variant(config)
    if variant is not None:
        config = with_head_of(file.header, variant.config)
    known = variant is not None and config == variant.config
    name = variant.name if variant and known else one_line(file.origin.stem, 100)
    return Checkpoint(name=name, file=file, config=config, variant=variant, as_published=bundled)


def _is_bundled(path: Path) -> bool:
    """Whether it is a copy of the bundled weights. Only a file of their size is hashed."""
    if not BUNDLED_WEIGHTS.is_file() or path.stat().st_size != BUNDLED_WEIGHTS.stat().st_size:
        return False
    return sha256(path) == sha256(BUNDLED_WEIGHTS)


def available() -> frozenset[str]:
    """Names of the variants whose weights are on this machine; reads their headers, uses no network."""
    return frozenset(variant.name for variant in VARIANTS.values() if locate(variant))


def locate(variant: Variant) -> TensorFile | None:
    """The variant's own weights on this machine, whole and of its shapes, or None; no network is used."""
    path = BUNDLED_WEIGHTS if variant.repo_id is None else hub.cached(variant.repo_id, FILENAME)
    try:
        return _open(path, variant) if path else None
    except CheckpointError:
        return None


def _open(path: Path, variant: Variant) -> TensorFile:
    file = open_safetensors(path)
    require_match(file, variant.config)
    return file


def _download(variant: Variant, progress: bool | Progress) -> TensorFile:
    if variant.repo_id is None:
        raise CheckpointError(
            f"{variant.name}: its weights are missing ({BUNDLED_WEIGHTS}); install the program again, or "
            "name another model"
        )
    path = hub.download(variant.repo_id, FILENAME, name=variant.name, progress=progress)
    try:
        return _open(path, variant)
    except CheckpointError as error:
        hub.discard(path)
        raise DownloadError(
            f"{variant.name}: what the hub sent for {variant.repo_id} is not this model and was removed; "
            f"check HF_ENDPOINT ({error})"
        ) from error
