"""The names and calls of the Keras tutorial on CaiT, thin over this package's own.

https://keras.io/examples/vision/cait: each name takes the tutorial's arguments and returns what it returns
there. Where the tutorial departs from the published networks, this follows the networks: the GELU is exact,
stochastic depth draws anew for each block, `global_pool="avg"` works, and images are not distorted
(`preprocess_image`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cait_viz._keras import keras, ops
from cait_viz.attention.maps import head_mean, min_max, patch_grids, upsample
from cait_viz.images.preprocess import IMAGENET_MEAN, IMAGENET_STD, normalize, prepare
from cait_viz.images.read import ImageSource, read_image
from cait_viz.model import cait, layers
from cait_viz.model.config import CaiTConfig
from cait_viz.weights.labels import class_names

image_size = 224
patch_size = 16
imagenet_labels = list(class_names(1000))

# As the networks' weights are, whatever `keras.config.floatx` says.
_FLOAT32 = {"dtype": "float32"}

crop_layer = keras.layers.CenterCrop(image_size, image_size, **_FLOAT32)
norm_layer = keras.layers.Normalization(
    mean=[255 * mean for mean in IMAGENET_MEAN],
    variance=[(255 * std) ** 2 for std in IMAGENET_STD],
    **_FLOAT32,
)


def LayerScale(init_values: float, projection_dim: int, **kwargs: Any) -> layers.LayerScale:  # noqa: N802
    """A learned factor for each channel of a residual branch, (…, C) -> (…, C)."""
    layer = layers.LayerScale(init_values, **_FLOAT32 | kwargs)
    layer.build((None, projection_dim))
    return layer


def StochasticDepth(drop_prob: float, **kwargs: Any) -> layers.StochasticDepth:  # noqa: N802
    """Drop the residual branch of random samples while training, (B, …) -> (B, …)."""
    return layers.StochasticDepth(drop_prob, **_FLOAT32 | kwargs)


def ClassAttention(  # noqa: N802
    projection_dim: int, num_heads: int, dropout_rate: float, **kwargs: Any
) -> layers.ClassAttention:
    """Attention of the class token, (B, 1 + N, C) -> (B, 1, C) and scores (B, H, 1, 1 + N)."""
    layer = layers.ClassAttention(num_heads, dropout_rate, **_FLOAT32 | kwargs)
    layer.build((None, None, projection_dim))
    return layer


def TalkingHeadAttention(  # noqa: N802
    projection_dim: int, num_heads: int, dropout_rate: float, **kwargs: Any
) -> layers.TalkingHeadAttention:
    """Self-attention with talking heads, (B, N, C) -> (B, N, C) and scores (B, H, N, N)."""
    layer = layers.TalkingHeadAttention(num_heads, dropout_rate, **_FLOAT32 | kwargs)
    layer.build((None, None, projection_dim))
    return layer


def mlp(x: Any, dropout_rate: float, hidden_units: Sequence[int]) -> Any:
    """The feed-forward network of a block: a dense layer for each width, the exact GELU after the first."""
    for index, units in enumerate(hidden_units):
        x = keras.layers.Dense(units, activation="gelu" if index == 0 else None, **_FLOAT32)(x)
        x = keras.layers.Dropout(dropout_rate, **_FLOAT32)(x)
    return x


def LayerScaleBlockClassAttention(  # noqa: N802
    projection_dim: int,
    num_heads: int,
    layer_norm_eps: float,
    init_values: float | None,
    mlp_units: Sequence[int],
    dropout_rate: float,
    sd_prob: float,
    name: str,
) -> keras.Model:
    """A block of the class stage, as a functional model.

    [patches (B, N, C), class token (B, 1, C)] -> [class token (B, 1, C), scores (B, H, 1, 1 + N)].
    """
    patches = keras.Input((None, projection_dim), **_FLOAT32)
    class_token = keras.Input((None, projection_dim), **_FLOAT32)
    tokens = keras.layers.Concatenate(axis=1, **_FLOAT32)([class_token, patches])
    normed = _layer_norm(tokens, layer_norm_eps)
    branch, scores = ClassAttention(projection_dim, num_heads, dropout_rate)(normed)
    x = _add_branch(class_token, branch, init_values, sd_prob)
    branch = mlp(_layer_norm(x, layer_norm_eps), dropout_rate, mlp_units)
    x = _add_branch(x, branch, init_values, sd_prob)
    return keras.Model([patches, class_token], [x, scores], name=name)


def LayerScaleBlock(  # noqa: N802
    projection_dim: int,
    num_heads: int,
    layer_norm_eps: float,
    init_values: float | None,
    mlp_units: Sequence[int],
    dropout_rate: float,
    sd_prob: float,
    name: str,
) -> keras.Model:
    """A block of the patch stage, as a functional model: (B, N, C) -> [(B, N, C), scores (B, H, N, N)]."""
    patches = keras.Input((None, projection_dim), **_FLOAT32)
    normed = _layer_norm(patches, layer_norm_eps)
    branch, scores = TalkingHeadAttention(projection_dim, num_heads, dropout_rate)(normed)
    x = _add_branch(patches, branch, init_values, sd_prob)
    branch = mlp(_layer_norm(x, layer_norm_eps), dropout_rate, mlp_units)
    x = _add_branch(x, branch, init_values, sd_prob)
    return keras.Model(patches, [x, scores], name=name)


def _layer_norm(x: Any, epsilon: float) -> Any:
    return keras.layers.LayerNormalization(epsilon=epsilon, **_FLOAT32)(x)


def _add_branch(x: Any, branch: Any, init_values: float | None, sd_prob: float) -> Any:
    """`x` with a residual branch added (paper, equation 4)."""
    if init_values:
        branch = LayerScale(init_values, x.shape[-1])(branch)
    if sd_prob:
        branch = StochasticDepth(sd_prob)(branch)
    return keras.layers.Add(**_FLOAT32)([x, branch])


def get_config(
    image_size: int = 224,
    patch_size: int = 16,
    projection_dim: int = 192,
    sa_ffn_layers: int = 24,
    ca_ffn_layers: int = 2,
    num_heads: int = 4,
    mlp_ratio: int = 4,
    layer_norm_eps: float = 1e-6,
    init_values: float | None = 1e-5,
    dropout_rate: float = 0.0,
    sd_prob: float = 0.0,
    global_pool: str = "token",
    pre_logits: bool = False,
    num_classes: int = 1000,
) -> dict[str, Any]:
    """The arguments of `CaiT`; by default those of cait_xxs24_224."""
    options = dict(locals())
    options["num_patches"] = (options.pop("image_size") // patch_size) ** 2
    options["mlp_units"] = [projection_dim * options.pop("mlp_ratio"), projection_dim]
    return options


def CaiT(  # noqa: N802
    projection_dim: int,
    patch_size: int,
    num_patches: int,
    init_values: float | None,
    mlp_units: Sequence[int],
    sa_ffn_layers: int,
    ca_ffn_layers: int,
    num_heads: int,
    layer_norm_eps: float,
    dropout_rate: float,
    sd_prob: float,
    global_pool: str,
    pre_logits: bool,
    num_classes: int,
    **options: Any,
) -> cait.CaiT:
    """A `cait_viz.CaiT` of that architecture, with fresh weights.

    As in the paper, dropout acts in the patch stage only. `options` are Keras' own (name, dtype).

    Raises:
        ValueError: the arguments make no CaiT; the message names the value.
    """
    side = math.isqrt(num_patches)
    if side**2 != num_patches:
        raise ValueError(f"num_patches must be a square number, not {num_patches}")
    hidden, *last = mlp_units
    if last != [projection_dim]:
        raise ValueError(
            f"mlp_units must be a hidden width and projection_dim {projection_dim}, not {list(mlp_units)}"
        )
    config = CaiTConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        projection_dim=projection_dim,
        sa_ffn_layers=sa_ffn_layers,
        ca_ffn_layers=ca_ffn_layers,
        num_heads=num_heads,
        mlp_ratio=hidden / projection_dim,
        layer_norm_eps=layer_norm_eps,
        init_values=init_values,
        dropout_rate=dropout_rate,
        sd_prob=sd_prob,
        global_pool=global_pool,  # type: ignore[arg-type]  # checked by the config
        pre_logits=pre_logits,
        num_classes=num_classes,
    )
    return cait.CaiT(config, **options)


def preprocess_image(image: ImageSource, size: int = image_size, squash: bool = False) -> np.ndarray:
    """The network's input for one image, (1, size, size, 3) float32.

    Args:
        image: a Pillow image, an array, a path or bytes.
        size: side of the input, in pixels.
        squash: the tutorial's pixels: the whole image squashed to a square of 256/224 of `size`, its center
            cut out. By default those of the published accuracies, which are not distorted.

    Raises:
        ImageError: the image cannot be read.
    """
    if not squash:
        return prepare(image, size)
    side = int(256 / 224 * size)
    start = int((side - size) / 2)
    square = read_image(image).resize((side, side), Image.Resampling.BICUBIC)
    return normalize(np.asarray(square.crop((start, start, start + size, start + size))))[np.newaxis]


def load_image_from_url(url: str) -> tuple[Image.Image, np.ndarray]:
    """The image at a web address, and the network's input for it.

    Raises:
        ImageError: nothing answers there, or what answers is no image.
    """
    from cait_viz.images.web import fetch

    image = read_image(fetch(url, allow_private=True))
    return image, preprocess_image(image)


def get_cls_attention_map(attention_scores: Any, return_saliency: bool = False) -> Any:
    """Where the class token looks, upsampled from the patches to the network's input.

    Args:
        attention_scores: scores of one class-attention block, (B, H, 1, 1 + N); the first image is drawn.
        return_saliency: (rows, cols, 1) instead of (rows, cols, H): the mean of the heads, stretched to
            [0, 1] (paper, Figure 7).
    """
    scores = ops.convert_to_numpy(attention_scores)[0, :, 0]
    side = math.isqrt(scores.shape[1] - 1)
    grids = patch_grids(scores, (side, side))
    if return_saliency:
        grids = min_max(head_mean(grids))[np.newaxis]
    size = (side * patch_size, side * patch_size)
    return ops.convert_to_tensor(np.stack([upsample(grid, size) for grid in grids], axis=-1))
