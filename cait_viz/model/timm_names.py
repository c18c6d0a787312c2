"""Every weight of a CaiT by timm's name: its shape there, and the variable that holds it here.

timm's names are the one checkpoint format of this program. No Keras is imported.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cait_viz.model.config import CaiTConfig

Shape = tuple[int, ...]

# How timm's axes are ordered in Keras: a dense weight is (out, in) there and (in, out) here, a
# convolution's (out, in, height, width) there and (height, width, in, out) here.
_DENSE = (1, 0)
_CONVOLUTION = (2, 3, 1, 0)


class TimmTensor(NamedTuple):
    """A weight as timm has it.

    Attributes:
        shape: timm's.
        variable: path of attributes to the Keras variable in a `CaiT`, such as "blocks.0.attn.qkv.kernel".
        axes: the order of timm's axes in that variable; None where they are the same.
    """

    shape: Shape
    variable: str
    axes: tuple[int, ...] | None = None

    def from_keras(self, value: np.ndarray) -> np.ndarray:
        """The Keras variable's value with timm's order of axes."""
        return value if self.axes is None else np.ascontiguousarray(value.transpose(np.argsort(self.axes)))


def timm_tensors(config: CaiTConfig) -> dict[str, TimmTensor]:
    """All weights of timm's CaiT of that architecture by name, in timm's order.

    Without a head if `config.pre_logits`; without the gammas, which timm always has, if
    `config.init_values` is falsy.
    """
    dim, patch, heads = config.projection_dim, config.patch_size, config.num_heads
    tensors = {
        "cls_token": TimmTensor((1, 1, dim), "cls_token"),
        "pos_embed": TimmTensor((1, config.num_patches, dim), "pos_embed"),
        "patch_embed.proj.weight": TimmTensor((dim, 3, patch, patch), "patch_embed.kernel", _CONVOLUTION),
        "patch_embed.proj.bias": TimmTensor((dim,), "patch_embed.bias"),
    }
    mixing = (heads, heads)
    talking_heads = {"qkv": (3 * dim, dim), "proj": (dim, dim), "proj_l": mixing, "proj_w": mixing}
    class_attention = dict.fromkeys(("q", "k", "v", "proj"), (dim, dim))
    for index in range(config.sa_ffn_layers):
        tensors |= _block(f"blocks.{index}", config, talking_heads)
    for index in range(config.ca_ffn_layers):
        tensors |= _block(f"blocks_token_only.{index}", config, class_attention)
    tensors |= _norm("norm", dim)
    if not config.pre_logits:
        tensors |= _linear("head", (config.num_classes, dim))
    return tensors


def count_parameters(config: CaiTConfig) -> int:
    """The number of weights of that architecture."""
    return sum(math.prod(tensor.shape) for tensor in timm_tensors(config).values())


def assign(model: Any, tensors: Mapping[str, np.ndarray]) -> None:
    """Put a whole checkpoint into a `CaiT`.

    Args:
        model: the network to fill.
        tensors: timm name -> array, complete and of timm's shapes (`weights.resolve` checks both).
    """
    for name, tensor in timm_tensors(model.config).items():
        value = tensors[name]
        _variable(model, tensor).assign(value if tensor.axes is None else value.transpose(tensor.axes))


def state_dict(model: Any) -> dict[str, np.ndarray]:
    """Every weight of a `CaiT` as timm names and shapes it, float32."""
    return {
        name: tensor.from_keras(_variable(model, tensor).numpy().astype(np.float32))
        for name, tensor in timm_tensors(model.config).items()
    }


def resample_positions(positions: np.ndarray, grid_shape: tuple[int, int]) -> np.ndarray:
    """A position embedding for another resolution, interpolated bicubically (paper, section 4.1).

    Args:
        positions: (1, N, C), N a square number: the patches of a square, row by row.
        grid_shape: rows and columns of patches of the new input.

    Returns:
        (1, rows · columns, C) float32; `positions` themselves where the grid is the same.
    """
    before, (rows, columns) = math.isqrt(positions.shape[1]), grid_shape
    if (before, before) == grid_shape:
        return positions
    planes = positions[0].T.reshape(-1, before, before).astype(np.float32)
    filter_ = Image.Resampling.BICUBIC
    resized = [np.asarray(Image.fromarray(plane).resize((columns, rows), filter_)) for plane in planes]
    return np.ascontiguousarray(np.stack(resized, axis=-1).reshape(1, rows * columns, -1))


def _variable(found: Any, tensor: TimmTensor) -> Any:
    for part in tensor.variable.split("."):
        found = found[int(part)] if part.isdigit() else getattr(found, part)
    return found


def _block(name: str, config: CaiTConfig, attention: Mapping[str, Shape]) -> dict[str, TimmTensor]:
    dim = config.projection_dim
    scales = (1, 2) if config.init_values else ()
    tensors = {f"{name}.gamma_{i}": TimmTensor((dim,), f"{name}.layer_scale{i}.gamma") for i in scales}
    tensors |= _norm(f"{name}.norm1", dim)
    for projection, shape in attention.items():
        tensors |= _linear(f"{name}.attn.{projection}", shape)
    tensors |= _norm(f"{name}.norm2", dim)
    tensors |= _linear(f"{name}.mlp.fc1", (config.mlp_dim, dim))
    return tensors | _linear(f"{name}.mlp.fc2", (dim, config.mlp_dim))


def _linear(name: str, shape: Shape) -> dict[str, TimmTensor]:
    return {
        f"{name}.weight": TimmTensor(shape, f"{name}.kernel", _DENSE),
        f"{name}.bias": TimmTensor(shape[:1], f"{name}.bias"),
    }


def _norm(name: str, dim: int) -> dict[str, TimmTensor]:
    return {
        f"{name}.weight": TimmTensor((dim,), f"{name}.gamma"),
        f"{name}.bias": TimmTensor((dim,), f"{name}.beta"),
    }
