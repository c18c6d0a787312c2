"""A checkpoint: the architecture that its shapes show, and its tensors; no Keras."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from cait_viz._files import sha256
from cait_viz._sizes import ImageSize
from cait_viz._text import file_text, listed, one_line
from cait_viz.errors import CheckpointError, SelectionError
from cait_viz.model.config import CaiTConfig, WeightsSource
from cait_viz.model.timm_names import resample_positions, timm_tensors
from cait_viz.weights.registry import BUNDLED, Variant, same_architecture
from cait_viz.weights.safetensors import Tensor, TensorFile

# safetensors' names of the types that weights come in; all become float32.
_FLOATS = ("F64", "F32", "F16", "BF16")
# No CaiT is deeper; a block number beyond it is an odd name and not an architecture.
_MAX_BLOCKS = 1000
_USUAL = CaiTConfig()
# A tensor's name after whatever a training program put before it, such as "module._orig_mod.".
_WRAPPED = re.compile(
    r"((?:[^.]+\.)*?)((?:cls_token|pos_embed|patch_embed|blocks|blocks_token_only|norm|head)(?:\..+)?)",
    re.DOTALL,
)
# What tells from the weights their exponential moving average (EMA), in what is put before a name.
_EMA = re.compile(r"(?<![a-z])ema(?![a-z])|averag", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights that were found to fit an architecture; only their header has been read.

    Attributes:
        name: what to call it: the variant's name, or the stem of a file of another architecture.
        config: the architecture, with as many classes as the file's head has.
        variant: the named variant of that architecture, if there is one.
        as_published: whether these are the variant's own weights, with its accuracy.
        file: the file, with timm's names.
    """

    name: str
    config: CaiTConfig
    variant: Variant | None
    as_published: bool
    file: TensorFile = field(repr=False)

    def at(self, image_size: ImageSize | None) -> "Checkpoint":
        """The same weights for inputs of another size, or, for None, of the same.

        Raises:
            SelectionError: no size that the patches divide.
        """
        return replace(self, config=at_size(self.name, self.config, image_size))

    @property
    def trained_size(self) -> int:
        """Side of the square input that the position embedding in the file is of, in pixels."""
        return math.isqrt(self.file.header["pos_embed"].shape[1]) * self.config.patch_size

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.file.path

    @property
    def origin(self) -> Path:
        """The file, or what it was converted from: what results name."""
        return self.file.origin

    @property
    def remark(self) -> str:
        """A sentence for the person on how the file was understood; mostly empty."""
        return self.file.remark

    @cached_property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal of the file that was given, as it was when first asked for.

        Of a folder, that of the file which it was converted to.
        """
        return sha256(self.origin if self.origin.is_file() else self.path)

    @property
    def unchanged(self) -> bool:
        """Whether the file is there as it was when `sha256` was first asked for."""
        try:
            return replace(self).sha256 == self.sha256  # the copy hashes the file anew
        except OSError:
            return False

    @property
    def saliency_block(self) -> int:
        """Index of the class-attention block that serves best as saliency, as far as it is known."""
        if self.variant is not None:
            return self.variant.saliency_block
        # What has the architecture of the bundled network, which is nobody else's, was most likely trained
        # from it, perhaps at another resolution.
        at_its_size = replace(self.config, image_size=BUNDLED.config.image_size)
        return BUNDLED.saliency_block if same_architecture(at_its_size, BUNDLED.config) else 0

    @property
    def source(self) -> WeightsSource:
        """What a network with these weights says of them."""
        return WeightsSource(
            name=self.name,
            file=self.origin.name,
            sha256=self.sha256,
            saliency_block=self.saliency_block,
            trained_size=self.trained_size,
        )


def at_size(name: str, config: CaiTConfig, image_size: ImageSize | None) -> CaiTConfig:
    """The architecture of the network of that name for inputs of another size, or, for None, of the same.

    Raises:
        SelectionError: no size that the patches divide.
    """
    try:
        return config if image_size is None else replace(config, image_size=image_size)
    except ValueError:
        raise SelectionError(
            f"{name} takes inputs whose sides are multiples of {config.patch_size} pixels, not {image_size}"
        ) from None


def read_tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """A checkpoint's tensors by timm's names and in timm's order, as float32.

    The position embedding is interpolated where the checkpoint's inputs have another size than its file's.

    Raises:
        CheckpointError: the file cannot be read, or holds values that are not finite.
    """
    stored = checkpoint.file.read(timm_tensors(checkpoint.config))
    with np.errstate(over="ignore"):
        tensors = {name: tensor.astype(np.float32, copy=False) for name, tensor in stored.items()}
    broken = [name for name, tensor in tensors.items() if not np.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"{file_text(checkpoint.origin)}: holds values that are not finite in {listed(broken)}; give a "
            "checkpoint from before the training diverged"
        )
    tensors["pos_embed"] = resample_positions(tensors["pos_embed"], checkpoint.config.grid_shape)
    return tensors


def with_head_of(header: Mapping[str, Tensor], config: CaiTConfig) -> CaiTConfig:
    """The architecture with as many classes as the checkpoint's head has; without a head, none."""
    head = header.get("head.weight") or header.get("head.bias")
    if head is None:
        return replace(config, pre_logits=True)
    if not head.shape or head.shape[0] < 1:  # require_match names it
        return config
    return replace(config, num_classes=head.shape[0])


def unwrapped(file: TensorFile) -> TensorFile:
    """The file with its one CaiT, or of a model and its EMA the EMA, by timm's names.

    These have lost their prefix, such as "module.". What a training saved beside the two is left out, and
    beside a model alone its counters are. Any other file keeps all that it holds.
    """
    groups: dict[str, dict[str, Tensor]] = {}  # by prefix
    for name, tensor in file.header.items():
        if match := _WRAPPED.fullmatch(name):
            groups.setdefault(match[1], {})[match[2]] = tensor
    whole = [prefix for prefix, group in groups.items() if _is_whole(replace(file, header=group))]
    averages = [prefix for prefix in whole if _EMA.search(prefix)]
    if len(averages) > 1:  # "ema.online_model." and "ema.ema_model."
        averages = [prefix for prefix in averages if _EMA.search(prefix.split(".")[-2])]
    beside_model = len(whole) > 1 and len(averages) == 1
    chosen = averages if beside_model else whole
    if len(chosen) == 1 and chosen != [""]:
        group = groups[chosen[0]]
        within = chosen[0] if beside_model else ""
        used = {tensor.stored for tensor in group.values()}
        others = [name for name in file.header if name not in used and name.startswith(within)]
        if all(math.prod(file.header[name].shape) == 1 for name in others):  # counters
            remark = "The file holds a model and its EMA; the EMA is used." if beside_model else ""
            return replace(file, header=group, remark=remark)
    shared = next(iter(groups), "")
    if all(name.startswith(shared) for name in file.header):
        return replace(file, header={name.removeprefix(shared): part for name, part in file.header.items()})
    return file


def _is_whole(file: TensorFile) -> bool:
    """Whether all tensors of a CaiT are there, by their names."""
    try:
        return timm_tensors(infer_config(file)).keys() <= file.header.keys()
    except CheckpointError:
        return False


def infer_config(file: TensorFile) -> CaiTConfig:
    """The architecture that most tensors agree on, so that one that is missing or wrong is named as such.

    What shapes do not show has its default; without any gamma `init_values=None`, without a head
    `pre_logits=True`. A CheckpointError says why names or shapes are not a CaiT's.
    """
    header, name = file.header, file_text(file.origin)
    sa_layers, ca_layers = (_count_blocks(header, stage) for stage in ("blocks", "blocks_token_only"))
    dim = _common_side(header, r"blocks(_token_only)?\.\d+\.norm1\.weight", 1, 0)
    heads = _common_side(header, r"blocks\.\d+\.attn\.proj_l\.weight", 2, 0)
    if not (sa_layers and ca_layers and dim and heads):
        raise CheckpointError(
            f"{name}: is no CaiT with timm's tensor names, it has {listed(list(header)) or 'no tensors'}; "
            f"{_advice_on_names(header)}"
        )
    # Without these the shapes of a usual CaiT still show what is missing.
    patch = _common_side(header, r"patch_embed\.proj\.weight", 4, 3) or _USUAL.patch_size
    positions = _common_side(header, "pos_embed", 3, 1) or _USUAL.num_patches
    hidden = _common_side(header, r"blocks\.\d+\.mlp\.fc1\.weight", 2, 0) or dim * _USUAL.mlp_ratio
    layer_scale = any(tensor.endswith((".gamma_1", ".gamma_2")) for tensor in header)
    side = math.isqrt(positions)
    if side**2 != positions:
        raise CheckpointError(
            f"{name}: its pos_embed holds {positions} positions, which is no square grid; give a checkpoint "
            "for square inputs, in which the class token has no position"
        )
    try:
        config = CaiTConfig(
            image_size=patch * side,
            patch_size=patch,
            projection_dim=dim,
            sa_ffn_layers=sa_layers,
            ca_ffn_layers=ca_layers,
            num_heads=heads,
            mlp_ratio=hidden / dim,
            init_values=_USUAL.init_values if layer_scale else None,
        )
    except ValueError as error:
        raise CheckpointError(f"{name}: its shapes make no CaiT ({error}); save it again from timm") from None
    return with_head_of(header, config)


def _common_side(header: Mapping[str, Tensor], pattern: str, rank: int, axis: int) -> int | None:
    """The most frequent length along an axis among the tensors of that name and rank."""
    sides = Counter(
        tensor.shape[axis]
        for name, tensor in header.items()
        if len(tensor.shape) == rank and re.fullmatch(pattern, name, re.ASCII)
    )
    return sides.most_common(1)[0][0] if sides else None


def _count_blocks(header: Iterable[str], stage: str) -> int:
    """Blocks of a stage: one more than the highest number, so that a block left out counts as missing."""
    matches = (re.match(rf"{stage}\.(\d{{1,9}})\.", name, re.ASCII) for name in header)
    numbers = {int(match[1]) for match in matches if match}
    count = max(numbers, default=-1) + 1
    return count if count <= _MAX_BLOCKS else len(numbers)


def _advice_on_names(header: Iterable[str]) -> str:
    prefixes = [one_line(name.removesuffix("cls_token")) for name in header if name.endswith("cls_token")]
    if len(prefixes) > 1:
        return f"of the networks in it ({listed(prefixes)}), save one in a file of its own"
    if not any(prefixes):
        return "give the weights of a CaiT, saved from timm"
    return f"if it is a CaiT within another module, save it with names that lack {prefixes[0]!r}"


def require_match(
    file: TensorFile, config: CaiTConfig, model: str = "the architecture its shapes show"
) -> None:
    """Refuse, with a CheckpointError, a file with tensors missing, left over or of a wrong shape or type."""
    header, expected = file.header, timm_tensors(config)
    both = {name: header[name] for name in expected if name in header}
    faults = {
        "missing": [name for name in expected if name not in header],
        "left over": [name for name in header if name not in expected],
        "of a wrong shape": {
            name: f"{_size(tensor.shape)} instead of {_size(expected[name].shape)}"
            for name, tensor in both.items()
            if tensor.shape != expected[name].shape
        },
        "of a wrong type": {
            name: tensor.dtype for name, tensor in both.items() if tensor.dtype not in _FLOATS
        },
    }
    found = "; ".join(f"{fault}: {listed(names)}" for fault, names in faults.items() if names)
    if found:
        raise CheckpointError(
            f"{file_text(file.origin)}: does not fit {model}; {found}; give the weights of this model, or "
            "name the model that they belong to"
        )


def _size(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
