"""Tensors of a checkpoint into a CaiT and back, by timm's names."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from PIL import Image

from cait_viz.model import CaiT

# How timm's axes are ordered in Keras: a dense weight is (out, in) there and (in, out) here, a
# convolution's (out, in, height, width) there and (height, width, in, out) here.
_DENSE = (1, 0)
_CONVOLUTION = (2, 3, 1, 0)


def assign(model: CaiT, tensors: Mapping[str, np.ndarray]) -> None:
    """Put a whole checkpoint into `model`.

    Args:
        model: the network to fill.
        tensors: timm name -> array, complete and rightly shaped (`checkpoints.read_tensors` sees to it).
    """
    for name, variable, axes in _table(model):
        tensor = tensors[name]
        variable.assign(tensor if axes is None else tensor.transpose(axes))


def state_dict(model: CaiT) -> dict[str, np.ndarray]:
    """Every weight of `model` as timm names and shapes it, float32."""
    tensors = {}
    for name, variable, axes in _table(model):
        value = keras.ops.convert_to_numpy(variable.value).astype(np.float32)
        tensors[name] = value if axes is None else np.ascontiguousarray(value.transpose(np.argsort(axes)))
    return tensors


def resample_positions(positions: np.ndarray, grid_size: int) -> np.ndarray:
    """A position embedding for another number of patches, interpolated bicubically.

    For a network that goes on at another resolution, as the paper's do (section 4.1).

    Args:
        positions: (1, N, C), N a square number: the patches of a square, row by row.
        grid_size: patches along one side of the new input.

    Returns:
        (1, grid_size², C) float32; `positions` themselves where the number is the same.
    """
    before = math.isqrt(positions.shape[1])
    if before == grid_size:
        return positions
    planes = positions[0].T.reshape(-1, before, before).astype(np.float32)
    size = (grid_size, grid_size)
    resized = [np.asarray(Image.fromarray(plane).resize(size, Image.Resampling.BICUBIC)) for plane in planes]
    return np.ascontiguousarray(np.stack(resized, axis=-1).reshape(1, grid_size**2, -1))


_Row = tuple[str, Any, tuple[int, ...] | None]


def _table(model: CaiT) -> Iterator[_Row]:
    """The timm name, the Keras variable and the order of timm's axes in it, for every weight."""
    yield "cls_token", model.cls_token, None
    yield "pos_embed", model.pos_embed, None
    yield from _affine("patch_embed.proj", model.patch_embed, _CONVOLUTION)
    for index, block in enumerate(model.blocks):
        yield from _block(f"blocks.{index}", block, ("qkv", "proj_l", "proj", "proj_w"))
    for index, block in enumerate(model.blocks_token_only):
        yield from _block(f"blocks_token_only.{index}", block, ("q", "k", "v", "proj"))
    yield from _norm("norm", model.norm)
    if model.head is not None:
        yield from _affine("head", model.head, _DENSE)


def _block(prefix: str, block: Any, projections: tuple[str, ...]) -> Iterator[_Row]:
    yield f"{prefix}.gamma_1", block.layer_scale1.gamma, None
    yield f"{prefix}.gamma_2", block.layer_scale2.gamma, None
    yield from _norm(f"{prefix}.norm1", block.norm1)
    yield from _norm(f"{prefix}.norm2", block.norm2)
    for name in projections:
        yield from _affine(f"{prefix}.attn.{name}", getattr(block.attn, name), _DENSE)
    for name in ("fc1", "fc2"):
        yield from _affine(f"{prefix}.mlp.{name}", getattr(block.mlp, name), _DENSE)


def _affine(name: str, layer: Any, axes: tuple[int, ...]) -> Iterator[_Row]:
    yield f"{name}.weight", layer.kernel, axes
    yield f"{name}.bias", layer.bias, None


def _norm(name: str, layer: Any) -> Iterator[_Row]:
    yield f"{name}.weight", layer.gamma, None
    yield f"{name}.bias", layer.beta, None
