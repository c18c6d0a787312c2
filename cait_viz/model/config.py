"""The options of one CaiT: plain data, no Keras."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isclose, nan
from sys import float_info
from typing import Literal, get_args

from cait_viz._sizes import ImageSize, image_shape

Precision = Literal["float32", "bfloat16"]  # of the arithmetic
GlobalPool = Literal["token", "avg"]


@dataclass(frozen=True, kw_only=True)
class CaiTConfig:
    """Options of one CaiT, named as the arguments of the Keras tutorial's `get_config`.

    The defaults are those of cait_xxs24_224 (paper, Table 1).

    Attributes:
        image_size: size of the network input in pixels: the side of a square, or height and width.
        patch_size: side of one patch, in pixels; divides `image_size`.
        projection_dim: width of the embedding (the paper's d).
        sa_ffn_layers: number of self-attention blocks.
        ca_ffn_layers: number of class-attention blocks.
        num_heads: attention heads; divides `projection_dim`.
        mlp_ratio: width of the hidden layer of each feed-forward network, in units of `projection_dim`.
        layer_norm_eps: epsilon of every LayerNorm.
        init_values: initial value of LayerScale's diagonal (paper, section 2.2); None or 0 builds no
            LayerScale.
        dropout_rate: rate of every dropout of the patch stage, in [0, 1).
        sd_prob: probability that stochastic depth drops a residual branch, in [0, 1).
        global_pool: "token" classifies from the class token, "avg" from the mean of the patches.
        pre_logits: return the pooled features and build no classifier.
        num_classes: width of the classifier.

    Raises:
        ValueError: an option has a value that makes no network; the message names both.
    """

    image_size: ImageSize = 224
    patch_size: int = 16
    projection_dim: int = 192
    sa_ffn_layers: int = 24
    ca_ffn_layers: int = 2
    num_heads: int = 4
    mlp_ratio: float = 4
    layer_norm_eps: float = 1e-6
    init_values: float | None = 1e-5
    dropout_rate: float = 0.0
    sd_prob: float = 0.0
    global_pool: GlobalPool = "token"
    pre_logits: bool = False
    num_classes: int = 1000

    def __post_init__(self) -> None:
        given = self.image_size
        if isinstance(self.image_size, list | tuple) and len(self.image_size) == 2:  # JSON knows no tuples
            height, width = self.image_size
            if _is_count(height) and _is_count(width):
                object.__setattr__(self, "image_size", height if height == width else (height, width))
        sides = image_shape(self.image_size)
        whole = len(sides) == 2 and all(map(_is_count, sides))
        _require("image_size", whole, "a whole number of at least 1, or two", given)
        for name in (
            "patch_size",
            "projection_dim",
            "sa_ffn_layers",
            "ca_ffn_layers",
            "num_heads",
            "num_classes",
        ):
            value = getattr(self, name)
            self._require(name, _is_count(value), "a whole number of at least 1")
        for name in ("mlp_ratio", "layer_norm_eps"):
            self._require(name, 0 < _number(getattr(self, name)) <= float_info.max, "a positive number")
        self._require(
            "init_values",
            self.init_values is None or 0 <= _number(self.init_values) <= float_info.max,
            "a positive number, or None for no LayerScale",
        )
        for name in ("dropout_rate", "sd_prob"):
            self._require(name, 0 <= _number(getattr(self, name)) < 1, "at least 0 and below 1")
        pools = get_args(GlobalPool)
        self._require("global_pool", self.global_pool in pools, f"one of {pools}")
        self._require("pre_logits", isinstance(self.pre_logits, bool), "True or False")
        patch, heads = self.patch_size, self.num_heads
        fits = all(side % patch == 0 for side in sides)
        _require("image_size", fits, f"a multiple of patch_size {patch}", given)
        fits = self.projection_dim % heads == 0
        self._require("projection_dim", fits, f"a multiple of num_heads {heads}")
        hidden = self.projection_dim * self.mlp_ratio
        self._require(
            "mlp_ratio",
            hidden <= float_info.max and round(hidden) >= 1 and isclose(hidden, round(hidden)),
            f"whole on {self.projection_dim} dimensions",
        )

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        _require(name, holds, wanted, getattr(self, name))

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the network input, in pixels."""
        return image_shape(self.image_size)

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of patches of the network input."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_patches(self) -> int:
        """Patches of the network input, N."""
        rows, columns = self.grid_shape
        return rows * columns

    @property
    def mlp_dim(self) -> int:
        """Width of the hidden layer of the feed-forward networks."""
        return round(self.projection_dim * self.mlp_ratio)

    def check_images(self, shape: Sequence[int | None]) -> None:
        """Refuse images of another shape than (B, height, width, 3), with a ValueError that names both."""
        height, width = self.image_shape
        if tuple(shape[1:]) != (height, width, 3):
            raise ValueError(f"images must have shape (B, {height}, {width}, 3), not {tuple(shape)}")

    def to_dict(self) -> dict[str, object]:
        """The options as keyword arguments."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class WeightsSource:
    """Where the weights of a network came from.

    Attributes:
        name: what results call the model.
        file: name of the weights file.
        sha256: of that file, in hexadecimal.
        saliency_block: index of the class-attention block that serves best as saliency.
        trained_size: side of the network input that they were trained for, in pixels.
    """

    name: str
    file: str
    sha256: str
    saliency_block: int
    trained_size: int


def _require(name: str, holds: bool, wanted: str, given: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, not {given!r}")


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _number(value: object) -> float:
    """The value, if it is a number of Python's; else NaN, which no comparison accepts."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else nan
