"""Fewer operations for the same answer: what is linear next to a dense layer becomes a part of it.

For a network that is only run: its numbers differ by rounding. NumPy alone, by timm's names.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from cait_viz.model.config import CaiTConfig


def folded(tensors: Mapping[str, np.ndarray], config: CaiTConfig) -> tuple[dict[str, np.ndarray], CaiTConfig]:
    """The same network with fewer operations.

    - A norm's scale and shift go into the dense layers that read it: W (g ⊙ x + b) = (W diag(g)) x + W b.
      The norm is left with ones and zeros.
    - LayerScale goes into the dense layer before it: λ ⊙ (W x + b) = (diag(λ) W) x + λ ⊙ b. The
      configuration has none left.
    - The bias of `proj_l` adds one number to all scores of a head, which the softmax takes away again.

    Args:
        tensors: timm name -> array, complete and of timm's shapes; left as they are.
        config: the architecture.

    Returns:
        The tensors and the architecture that they are of.
    """
    after = dict(tensors)

    def scale_inputs(norm: str, *layers: str) -> None:
        gamma, beta = after[f"{norm}.weight"], after[f"{norm}.bias"]
        for layer in layers:
            weight = after[f"{layer}.weight"]
            after[f"{layer}.bias"] = after[f"{layer}.bias"] + weight @ beta
            after[f"{layer}.weight"] = weight * gamma
        after[f"{norm}.weight"], after[f"{norm}.bias"] = np.ones_like(gamma), np.zeros_like(beta)

    def scale_outputs(layer: str, gamma: str) -> None:
        if gamma in after:
            factors = after.pop(gamma)
            after[f"{layer}.weight"] = after[f"{layer}.weight"] * factors[:, None]
            after[f"{layer}.bias"] = after[f"{layer}.bias"] * factors

    stages = {
        "blocks": (config.sa_ffn_layers, ("qkv",)),
        "blocks_token_only": (config.ca_ffn_layers, ("q", "k", "v")),
    }
    for stage, (count, projections) in stages.items():
        for block in (f"{stage}.{index}" for index in range(count)):
            scale_inputs(f"{block}.norm1", *(f"{block}.attn.{name}" for name in projections))
            scale_inputs(f"{block}.norm2", f"{block}.mlp.fc1")
            scale_outputs(f"{block}.attn.proj", f"{block}.gamma_1")
            scale_outputs(f"{block}.mlp.fc2", f"{block}.gamma_2")
            if stage == "blocks":
                bias = f"{block}.attn.proj_l.bias"
                after[bias] = np.zeros_like(after[bias])
    if not config.pre_logits:
        scale_inputs("norm", "head")
    return after, replace(config, init_values=None)
