"""What timm's CaiT is made of, written down once more and apart from the package.

`lively_weights` makes, from names and shapes alone, the very weights the reference outputs were
computed with; both are NumPy only.
"""

import zlib

import numpy as np


def timm_shapes(config):
    """Names and shapes of `timm.models.cait.Cait(...).state_dict()` for a CaiTConfig."""
    c, h, m = config.projection_dim, config.num_heads, int(config.projection_dim * config.mlp_ratio)
    p, n = config.patch_size, (config.image_size // config.patch_size) ** 2
    shapes = {
        "cls_token": (1, 1, c),
        "pos_embed": (1, n, c),
        "patch_embed.proj.weight": (c, 3, p, p),
        "patch_embed.proj.bias": (c,),
    }
    feed_forward = {
        "mlp.fc1.weight": (m, c),
        "mlp.fc1.bias": (m,),
        "mlp.fc2.weight": (c, m),
        "mlp.fc2.bias": (c,),
    }
    norms = {f"norm{i}.{kind}": (c,) for i in (1, 2) for kind in ("weight", "bias")}
    scales = {"gamma_1": (c,), "gamma_2": (c,)}
    talking_heads = {
        "attn.qkv.weight": (3 * c, c),
        "attn.qkv.bias": (3 * c,),
        "attn.proj.weight": (c, c),
        "attn.proj.bias": (c,),
        "attn.proj_l.weight": (h, h),
        "attn.proj_l.bias": (h,),
        "attn.proj_w.weight": (h, h),
        "attn.proj_w.bias": (h,),
    }
    class_attention = {}
    for name in ("q", "k", "v", "proj"):
        class_attention |= {f"attn.{name}.weight": (c, c), f"attn.{name}.bias": (c,)}
    for i in range(config.sa_ffn_layers):
        block = scales | norms | talking_heads | feed_forward
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in block.items()}
    for i in range(config.ca_ffn_layers):
        block = scales | norms | class_attention | feed_forward
        shapes |= {f"blocks_token_only.{i}.{name}": shape for name, shape in block.items()}
    shapes |= {"norm.weight": (c,), "norm.bias": (c,)}
    if not config.pre_logits:
        shapes |= {"head.weight": (config.num_classes, c), "head.bias": (config.num_classes,)}
    return shapes


def lively_weights(shapes):
    """Deterministic float32 weights under which every residual branch matters.

    Each array depends on its own name and shape only. timm's initial weights (LayerScale 1e-5, biases
    0) would hide every mistake in the branches.
    """
    return {name: _lively(name, shape) for name, shape in shapes.items()}


def _lively(name, shape):
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if "gamma" in name:
        value = 0.1 + 0.05 * noise
    elif name.endswith(("norm1.weight", "norm2.weight")) or name == "norm.weight":
        value = 1 + 0.1 * noise
    elif "proj_l.weight" in name or "proj_w.weight" in name:
        value = np.eye(shape[0]) + 0.3 * noise
    elif name in ("cls_token", "pos_embed"):
        value = 0.2 * noise
    elif name.endswith("bias"):
        value = 0.1 * noise
    else:
        value = noise / np.sqrt(np.prod(shape[1:]))
    return value.astype(np.float32)
