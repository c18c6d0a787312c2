"""The architecture's options and the registry of named models.

Everything here is plain data: no Keras, no files, no network.
"""

from dataclasses import asdict, dataclass
from math import isclose
from sys import float_info
from typing import Literal, TypeGuard, get_args

from cait_viz.errors import UnknownModelError

GlobalPool = Literal["token", "avg"]

# Per-channel mean and standard deviation, RGB in [0, 1], with which every CaiT was trained
# and evaluated (timm: IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD).
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class CaiTConfig:
    """Options of one CaiT, named as the arguments of the Keras tutorial's `get_config`.

    The defaults are those of cait_xxs24_224 (paper, Table 1).

    Attributes:
        image_size: side of the square network input, in pixels.
        patch_size: side of one patch, in pixels; divides `image_size`.
        projection_dim: width of the embedding (the paper's d).
        sa_ffn_layers: number of self-attention blocks.
        ca_ffn_layers: number of class-attention blocks.
        num_heads: attention heads; divides `projection_dim`.
        mlp_ratio: width of the hidden layer of each feed-forward network, in units of `projection_dim`.
        layer_norm_eps: epsilon of every LayerNorm.
        init_values: initial value of LayerScale's diagonal (paper, section 2.2).
        dropout_rate: rate of every dropout of the patch stage, in [0, 1).
        sd_prob: probability that stochastic depth drops a residual branch, in [0, 1).
        global_pool: "token" classifies from the class token, "avg" from the mean of the patches.
        pre_logits: return the pooled features and build no classifier.
        num_classes: width of the classifier.

    Raises:
        ValueError: an option has a value that makes no network; the message names both.
    """

    image_size: int = 224
    patch_size: int = 16
    projection_dim: int = 192
    sa_ffn_layers: int = 24
    ca_ffn_layers: int = 2
    num_heads: int = 4
    mlp_ratio: float = 4
    layer_norm_eps: float = 1e-6
    init_values: float = 1e-5
    dropout_rate: float = 0.0
    sd_prob: float = 0.0
    global_pool: GlobalPool = "token"
    pre_logits: bool = False
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for name in _COUNTS:
            _require(
                _is_whole(getattr(self, name)), name, getattr(self, name), "a whole number of at least 1"
            )
        for name in ("mlp_ratio", "layer_norm_eps", "init_values"):
            _require(_is_positive(getattr(self, name)), name, getattr(self, name), "a positive number")
        for name in ("dropout_rate", "sd_prob"):
            _require(_is_rate(getattr(self, name)), name, getattr(self, name), "at least 0 and below 1")
        pools = get_args(GlobalPool)
        _require(self.global_pool in pools, "global_pool", self.global_pool, f"one of {pools}")
        _require(isinstance(self.pre_logits, bool), "pre_logits", self.pre_logits, "True or False")
        for name, divisor in (("image_size", "patch_size"), ("projection_dim", "num_heads")):
            value, unit = getattr(self, name), getattr(self, divisor)
            _require(value % unit == 0, name, value, f"a multiple of {divisor} {unit}")
        width = self.projection_dim * self.mlp_ratio
        _require(
            width <= float_info.max and round(width) >= 1 and isclose(width, round(width)),
            "mlp_ratio",
            self.mlp_ratio,
            f"whole on {self.projection_dim} dimensions",
        )

    @property
    def grid_size(self) -> int:
        """Patches along one side of the network input."""
        return self.image_size // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of the network input, N."""
        return self.grid_size**2

    @property
    def mlp_dim(self) -> int:
        """Width of the hidden layer of the feed-forward networks."""
        return round(self.projection_dim * self.mlp_ratio)

    def to_dict(self) -> dict[str, object]:
        """The options as keyword arguments, in the order of the tutorial."""
        return asdict(self)


_COUNTS = (
    "image_size",
    "patch_size",
    "projection_dim",
    "sa_ffn_layers",
    "ca_ffn_layers",
    "num_heads",
    "num_classes",
)


def _require(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: object) -> bool:
    return _is_number(value) and 0 < value <= float_info.max


def _is_rate(value: object) -> bool:
    return _is_number(value) and 0 <= value < 1


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One named model: its architecture and what is known of its published weights.

    Attributes:
        name: the model's name, as typed after `--model`.
        config: the architecture.
        parameters: number of weights, all of them trainable.
        accuracy: what is known of its accuracy, in a few words for a person.
        top1: ImageNet-1k top-1 accuracy in percent as timm measured it; None for a model not
            measured on ImageNet.
        saliency_block: index of the class-attention block that serves best as saliency.
        license: SPDX name of the weights' licence.
        repo_id: repository on the hub that holds the weights; None for bundled weights.
    """

    name: str
    config: CaiTConfig
    parameters: int
    accuracy: str
    top1: float | None = None
    saliency_block: int = 0
    license: str = "Apache-2.0"
    repo_id: str | None = None

    @property
    def download_megabytes(self) -> int:
        """What its weights take to download: the published ones are float32."""
        return round(4 * self.parameters / 1e6) if self.repo_id else 0


def _published(
    name: str, depth: int, dim: int, heads: int, init_values: float, parameters: int, top1: float
) -> Variant:
    config = CaiTConfig(
        image_size=int(name.rpartition("_")[2]),
        projection_dim=dim,
        sa_ffn_layers=depth,
        num_heads=heads,
        init_values=init_values,
    )
    return Variant(
        name=name,
        config=config,
        parameters=parameters,
        accuracy=f"{top1:.1f} % top-1 on ImageNet-1k, as timm measured it",
        top1=top1,
        repo_id=f"timm/{name}.fb_dist_in1k",
    )


BUNDLED = Variant(
    name="bundled",
    config=CaiTConfig(sa_ffn_layers=12),
    parameters=6_612_808,
    accuracy="68 % top-1 on Imagenette, 57 % on Imagewoof, among 1000 classes",
    # Its second class-attention block lies on the object, its first on the context: the other
    # way round from the published models. Measured; see the model card beside the weights.
    saliency_block=1,
)

# Paper, Table 1 and Table 3; parameter counts and top-1 of timm's checkpoints. LayerScale starts
# at 1e-5, from 36 blocks of the wide models on at 1e-6 (paper, section 2.2, and timm's cait.py).
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        BUNDLED,
        _published("cait_xxs24_224", 24, 192, 4, 1e-5, 11_956_264, 78.4),
        _published("cait_xxs24_384", 24, 192, 4, 1e-5, 12_029_224, 81.0),
        _published("cait_xxs36_224", 36, 192, 4, 1e-5, 17_299_720, 79.8),
        _published("cait_xxs36_384", 36, 192, 4, 1e-5, 17_372_680, 82.2),
        _published("cait_xs24_384", 24, 288, 6, 1e-5, 26_670_088, 84.1),
        _published("cait_s24_224", 24, 384, 8, 1e-5, 46_916_200, 83.5),
        _published("cait_s24_384", 24, 384, 8, 1e-5, 47_062_120, 85.0),
        _published("cait_s36_384", 36, 384, 8, 1e-6, 68_366_632, 85.5),
        _published("cait_m36_384", 36, 768, 16, 1e-6, 271_221_352, 86.1),
        _published("cait_m48_448", 48, 768, 16, 1e-6, 356_460_520, 86.5),
    )
}


def get_variant(name: str) -> Variant:
    """The variant of that name.

    Raises:
        UnknownModelError: there is none; the message lists those that are.
    """
    try:
        return VARIANTS[name]
    except KeyError:
        known = ", ".join(VARIANTS)
        raise UnknownModelError(f"there is no model named {name!r}; the models are {known}") from None
