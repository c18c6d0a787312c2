"""The options of one CaiT: plain data, no Keras."""

from dataclasses import asdict, dataclass
from math import isclose
from sys import float_info
from typing import Literal, TypeGuard, get_args

GlobalPool = Literal["token", "avg"]


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
