"""Which weights to use: the bundled ones, a published model's, or a file of one's own; no Keras."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cait_viz._files import sha256
from cait_viz._resources import BUNDLED_WEIGHTS
from cait_viz._text import one_line
from cait_viz.errors import CheckpointError, DownloadError
from cait_viz.model.config import CaiTConfig
from cait_viz.weights import hub
from cait_viz.weights.architecture import infer_config, require_match, with_head_of
from cait_viz.weights.conversion import as_safetensors
from cait_viz.weights.hub import Progress
from cait_viz.weights.registry import BUNDLED, VARIANTS, Variant, get_variant
from cait_viz.weights.safetensors import read_header

FILENAME = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The decision which model speaks.

    Attributes:
        name: what to call it: the variant's name, or the stem of a file of another architecture.
        path: the safetensors file.
        config: the architecture, with as many classes as the file's head has.
        variant: the named variant of that architecture, if there is one.
        as_published: whether these are the variant's own weights, so that what is known of its
            accuracy holds for them; False for every file a person gave.
    """

    name: str
    path: Path
    config: CaiTConfig
    variant: Variant | None
    as_published: bool

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, in hexadecimal, as it was when first asked for."""
        return sha256(self.path)

    @property
    def saliency_block(self) -> int:
        """Index of the class-attention block that serves best as saliency, as far as it is known."""
        as_bundled = replace(
            self.config, image_size=BUNDLED.config.image_size
        )  # it may be trained at another
        if self.variant is None and _architecture(as_bundled) == _architecture(BUNDLED.config):
            return BUNDLED.saliency_block  # trained from it, most likely; no published model is built so
        return self.variant.saliency_block if self.variant else 0


def match_variant(config: CaiTConfig) -> Variant | None:
    """The published variant of that architecture, whatever the head; None if there is none."""
    for variant in VARIANTS.values():
        if variant is not BUNDLED and _architecture(variant.config) == _architecture(config):
            return variant
    return None


def _architecture(config: CaiTConfig) -> CaiTConfig:
    """The part of the options that decides on the shapes, the head apart."""
    return CaiTConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        projection_dim=config.projection_dim,
        sa_ffn_layers=config.sa_ffn_layers,
        ca_ffn_layers=config.ca_ffn_layers,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
    )


def locate(variant: Variant) -> Path | None:
    """The variant's own weights on this machine, whole and of its shapes; None if they are not here.

    Bundled with the program, or in the hub's cache. Asks no network.
    """
    if variant.repo_id is None:
        return BUNDLED_WEIGHTS if BUNDLED_WEIGHTS.is_file() else None
    path = hub.cached(variant.repo_id, FILENAME)
    if path is None:
        return None
    try:
        require_match(path, read_header(path), variant.config)
    except CheckpointError:
        return None
    return path


def fetch(variant: Variant, *, progress: bool | Progress = True) -> Path:
    """The variant's own weights: those on this machine, else downloaded from the hub into its cache.

    A connection that drops is taken up again where it broke. A download that is killed leaves nothing
    that could be taken for weights, and starts over. What arrives is compared with the SHA-256 that the
    hub announced and with the variant's shapes, and removed if either differs.

    Args:
        variant: whose weights.
        progress: True shows a bar on standard error if that is a terminal, False shows nothing; a
            function is called with the bytes that are here and the bytes in all. What it raises ends
            the download and passes through.

    Raises:
        DownloadError: the weights could not be fetched; the message says what to do.
        CheckpointError: the bundled weights are missing.
    """
    path = locate(variant)
    if path is not None:
        return path
    if variant.repo_id is None:
        raise CheckpointError(
            f"{variant.name}: its weights are missing ({BUNDLED_WEIGHTS}); install the program again, or "
            "name another model"
        )
    path = hub.download(variant.repo_id, FILENAME, name=variant.name, progress=progress)
    try:
        require_match(path, read_header(path), variant.config)
    except CheckpointError as error:
        hub.discard(path)
        raise DownloadError(
            f"{variant.name}: what the hub sent for {variant.repo_id} is not this model and was removed; "
            f"check HF_ENDPOINT ({error})"
        ) from error
    return path


def resolve(
    model: str | None = None,
    weights: Path | str | None = None,
    *,
    download: bool = True,
    progress: bool | Progress = True,
) -> Checkpoint:
    """Decide which model speaks.

    Nothing given: the bundled one. Only a model's name: its own weights, from this machine or
    downloaded. Only weights: the architecture that their shapes show. Both: the weights have to fit the
    model, all but the number of classes, which follows their head.

    Args:
        model: name of a variant.
        weights: a safetensors file with timm's tensor names; a SavedModel's folder or a PyTorch checkpoint,
            which are converted once.
        download: whether weights that are not on this machine may be downloaded.
        progress: how a download is shown, see `fetch`.

    Raises:
        UnknownModelError: there is no variant of that name.
        CheckpointError: the weights cannot be read or do not fit, or are not on this machine and must
            not be downloaded.
        DownloadError: they could not be downloaded.
    """
    variant = None if model is None else get_variant(model)
    if weights is not None:
        return _given_weights(as_safetensors(Path(weights).expanduser()), variant)
    variant = variant or BUNDLED
    path = locate(variant)
    if path is not None and not hub.is_intact(path):
        hub.discard(path)  # damaged since it was downloaded
        path = None
    if path is None:
        if not download and variant.repo_id is not None:
            raise CheckpointError(
                f"{variant.name} is not on this machine; download it with `cait-viz fetch {variant.name}`"
            )
        path = fetch(variant, progress=progress)
    return Checkpoint(name=variant.name, path=path, config=variant.config, variant=variant, as_published=True)


def _given_weights(path: Path, variant: Variant | None) -> Checkpoint:
    """Read what a person's own weights are; they have to fit the variant, if one is asked for."""
    header = read_header(path)
    if variant is not None:
        config = with_head_of(header, variant.config)
        require_match(path, header, config, variant.name)
        return Checkpoint(name=variant.name, path=path, config=config, variant=variant, as_published=False)
    config = infer_config(path, header)
    require_match(path, header, config)
    if BUNDLED_WEIGHTS.is_file() and sha256(path) == sha256(BUNDLED_WEIGHTS):
        return Checkpoint(
            name=BUNDLED.name, path=path, config=BUNDLED.config, variant=BUNDLED, as_published=True
        )
    variant = match_variant(config)
    if variant is not None:
        config = with_head_of(header, variant.config)
    same_head = variant is not None and config == variant.config
    name = variant.name if variant is not None and same_head else one_line(path.stem, 100)
    return Checkpoint(name=name, path=path, config=config, variant=variant, as_published=False)
