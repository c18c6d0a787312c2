"""Which weights speak: find a checkpoint, fetch it, read its architecture and its tensors.

The one format is safetensors with timm's tensor names. No Keras here: `weights` puts what is read
into a network.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from cait_viz import hub
from cait_viz.errors import CheckpointError, DownloadError
from cait_viz.hub import Progress, sha256
from cait_viz.resources import BUNDLED_WEIGHTS
from cait_viz.variants import BUNDLED, VARIANTS, CaiTConfig, Variant, get_variant
from cait_viz.weightfile import Shape, Tensor, read_header, shown, unreadable
from cait_viz.wording import listed, one_line

__all__ = [
    "Checkpoint",
    "Progress",
    "fetch",
    "locate",
    "match_variant",
    "read_config",
    "read_tensors",
    "resolve",
    "sha256",
    "tensor_shapes",
]

FILENAME = "model.safetensors"

# safetensors' names of the types that weights come in; all become float32.
_FLOATS = ("F64", "F32", "F16", "BF16")
# No CaiT is deeper; a block number beyond it is an odd name and not an architecture.
_MAX_BLOCKS = 1000
_USUAL = CaiTConfig()


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


def tensor_shapes(config: CaiTConfig) -> dict[str, Shape]:
    """Names and shapes of timm's CaiT of that architecture, in timm's order.

    Linear weights are (out, in), the patch embedding's kernel is (out, 3, patch, patch). Without a head
    if `config.pre_logits`.
    """
    dim, patch, heads = config.projection_dim, config.patch_size, config.num_heads
    shapes: dict[str, Shape] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, config.num_patches, dim),
        "patch_embed.proj.weight": (dim, 3, patch, patch),
        "patch_embed.proj.bias": (dim,),
    }
    talking_heads = {
        "qkv": (3 * dim, dim),
        "proj": (dim, dim),
        "proj_l": (heads, heads),
        "proj_w": (heads, heads),
    }
    class_attention = dict.fromkeys(("q", "k", "v", "proj"), (dim, dim))
    for stage, depth, attention in (
        ("blocks", config.sa_ffn_layers, talking_heads),
        ("blocks_token_only", config.ca_ffn_layers, class_attention),
    ):
        for index in range(depth):
            shapes |= {
                f"{stage}.{index}.{name}": shape for name, shape in _block_shapes(config, attention).items()
            }
    shapes |= {"norm.weight": (dim,), "norm.bias": (dim,)}
    if not config.pre_logits:
        shapes |= _linear("head", (config.num_classes, dim))
    return shapes


def _block_shapes(config: CaiTConfig, attention: Mapping[str, tuple[int, int]]) -> dict[str, Shape]:
    dim = config.projection_dim
    shapes: dict[str, Shape] = dict.fromkeys(("gamma_1", "gamma_2", "norm1.weight", "norm1.bias"), (dim,))
    for name, shape in attention.items():
        shapes |= _linear(f"attn.{name}", shape)
    shapes |= {"norm2.weight": (dim,), "norm2.bias": (dim,)}
    return shapes | _linear("mlp.fc1", (config.mlp_dim, dim)) | _linear("mlp.fc2", (dim, config.mlp_dim))


def _linear(name: str, shape: tuple[int, int]) -> dict[str, Shape]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def read_config(path: Path) -> CaiTConfig:
    """Read the architecture off the shapes in a checkpoint's header; no tensor is read.

    What shapes do not show has its default: LayerNorm's epsilon, the rates of dropout and stochastic
    depth, pooling by the class token. A checkpoint without a head has `pre_logits=True`.

    Raises:
        CheckpointError: not a safetensors file, not a CaiT, or not a whole one; the message names every
            tensor that is missing, left over or of a wrong shape.
    """
    header = read_header(path)
    config = _infer_config(path, header)
    _require_match(path, header, config)
    return config


def read_tensors(path: Path, config: CaiTConfig) -> dict[str, np.ndarray]:
    """Read a checkpoint's tensors as float32, by timm's names and in timm's order.

    float16, bfloat16 and float64 are converted.

    Args:
        path: the safetensors file.
        config: the architecture that it has to fit.

    Raises:
        CheckpointError: not a safetensors file, or one that does not fit; the message names every
            tensor that is missing, left over, of a wrong shape or type, or not finite.
    """
    header = read_header(path)
    _require_match(path, header, config)
    if any(tensor.dtype == "BF16" for tensor in header.values()):
        import ml_dtypes  # noqa: F401  (teaches NumPy the type; comes with Keras)
    try:
        with safe_open(path, framework="np") as file, np.errstate(over="ignore"):
            tensors = {
                name: file.get_tensor(name).astype(np.float32, copy=False) for name in tensor_shapes(config)
            }
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from None
    broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{shown(path)}: holds values that are not finite in {listed(broken)}; give a checkpoint of "
            "before the training went astray"
        )
    return tensors


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
        _require_match(path, read_header(path), variant.config)
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
        _require_match(path, read_header(path), variant.config)
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
        weights: a safetensors file with timm's tensor names.
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
        return _given_weights(Path(weights).expanduser(), variant)
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
        config = _with_head_of(header, variant.config)
        _require_match(path, header, config, variant.name)
        return Checkpoint(name=variant.name, path=path, config=config, variant=variant, as_published=False)
    config = _infer_config(path, header)
    _require_match(path, header, config)
    if BUNDLED_WEIGHTS.is_file() and sha256(path) == sha256(BUNDLED_WEIGHTS):
        return Checkpoint(
            name=BUNDLED.name, path=path, config=BUNDLED.config, variant=BUNDLED, as_published=True
        )
    variant = match_variant(config)
    if variant is not None:
        config = _with_head_of(header, variant.config)
    same_head = variant is not None and config == variant.config
    name = variant.name if variant is not None and same_head else one_line(path.stem, 100)
    return Checkpoint(name=name, path=path, config=config, variant=variant, as_published=False)


def _with_head_of(header: Mapping[str, Tensor], config: CaiTConfig) -> CaiTConfig:
    """The architecture with as many classes as the checkpoint's head has; without a head, none."""
    head = header.get("head.weight") or header.get("head.bias")
    if head is None:
        return replace(config, pre_logits=True)
    if not head.shape or head.shape[0] < 1:  # told as a wrong shape
        return config
    return replace(config, num_classes=head.shape[0])


def _infer_config(path: Path, header: Mapping[str, Tensor]) -> CaiTConfig:
    """The architecture that most tensors agree on, so that one that is missing or wrong is told as such."""
    sa_layers, ca_layers = (_count_blocks(header, stage) for stage in ("blocks", "blocks_token_only"))
    dim = _common_side(header, r"blocks(_token_only)?\.\d+\.norm1\.weight", 1, 0)
    heads = _common_side(header, r"blocks\.\d+\.attn\.proj_l\.weight", 2, 0)
    if not (sa_layers and ca_layers and dim and heads):
        raise CheckpointError(
            f"{shown(path)}: is no CaiT with timm's tensor names, it has "
            f"{listed(list(header)) or 'no tensors'}; {_advice_on_names(header)}"
        )
    # Without these the rest of a usual CaiT still tells what is missing.
    patch = _common_side(header, r"patch_embed\.proj\.weight", 4, 3) or _USUAL.patch_size
    positions = _common_side(header, "pos_embed", 3, 1) or _USUAL.num_patches
    hidden = _common_side(header, r"blocks\.\d+\.mlp\.fc1\.weight", 2, 0) or dim * int(_USUAL.mlp_ratio)
    side = math.isqrt(positions)
    if side**2 != positions:
        raise CheckpointError(
            f"{shown(path)}: its pos_embed holds {positions} positions, which is no square grid; give a "
            "checkpoint for square inputs, in which the class token has no position"
        )
    try:
        config = CaiTConfig(
            image_size=patch * side,
            patch_size=patch,
            projection_dim=dim,
            sa_ffn_layers=sa_layers,
            ca_ffn_layers=ca_layers,
            num_heads=heads,
            mlp_ratio=_ratio(hidden, dim),
        )
    except ValueError as error:
        raise CheckpointError(
            f"{shown(path)}: its shapes make no CaiT ({error}); save it again from timm"
        ) from None
    return _with_head_of(header, config)


def _common_side(header: Mapping[str, Tensor], pattern: str, rank: int, axis: int) -> int | None:
    """The most frequent length along an axis among the tensors of that name and rank."""
    sides = Counter(
        tensor.shape[axis]
        for name, tensor in header.items()
        if len(tensor.shape) == rank and re.fullmatch(pattern, name, re.ASCII)
    )
    return sides.most_common(1)[0][0] if sides else None


def _ratio(hidden: int, dim: int) -> float:
    """The ratio that gives exactly this hidden width when it is multiplied with `dim` again."""
    if hidden % dim == 0:
        return hidden // dim
    ratio = hidden / dim
    nearby = (ratio, math.nextafter(ratio, 0), math.nextafter(ratio, math.inf))
    return next((candidate for candidate in nearby if candidate * dim == hidden), ratio)


def _count_blocks(header: Iterable[str], stage: str) -> int:
    """Blocks of a stage: one more than the highest number, so that a block left out is told as missing."""
    numbers = {
        int(match[1]) for name in header if (match := re.match(rf"{stage}\.(\d{{1,9}})\.", name, re.ASCII))
    }
    highest = max(numbers, default=-1) + 1
    return highest if highest <= _MAX_BLOCKS else len(numbers)


def _advice_on_names(header: Mapping[str, Tensor]) -> str:
    wrapped = next((name for name in header if name.endswith(".cls_token")), None)
    if wrapped is not None:
        prefix = wrapped.removesuffix("cls_token")
        return f"if it is a CaiT within another module, save it with names that lack {one_line(prefix)!r}"
    return "give the weights of a CaiT, saved from timm"


def _require_match(
    path: Path,
    header: Mapping[str, Tensor],
    config: CaiTConfig,
    model: str = "the architecture its shapes show",
) -> None:
    """Refuse a checkpoint that does not fit, naming every tensor in which it differs."""
    expected = tensor_shapes(config)
    both = [name for name in expected if name in header]
    faults = {
        "missing": listed(name for name in expected if name not in header),
        "left over": listed(name for name in header if name not in expected),
        "of a wrong shape": listed(
            {
                name: f"{_size(header[name].shape)} instead of {_size(expected[name])}"
                for name in both
                if header[name].shape != expected[name]
            }
        ),
        "of a wrong type": listed(
            {name: header[name].dtype for name in both if header[name].dtype not in _FLOATS}
        ),
    }
    told = "; ".join(f"{fault}: {names}" for fault, names in faults.items() if names)
    if told:
        raise CheckpointError(
            f"{shown(path)}: does not fit {model}; {told}; give the weights of this model, or name the model "
            "that they belong to"
        )


def _size(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"
