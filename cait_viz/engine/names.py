"""What the graphs of a network and their outputs are called."""

from collections.abc import Sequence

from cait_viz.model.config import CaiTConfig

# Images to logits, class attention and the patches at each depth; patches and a head mask to the first two.
NETWORK, CLASS_STAGE = "network", "class_stage"


def self_attention(block: int) -> str:
    """The graph from patches to the attention of one self-attention block."""
    return f"self_attention_{block}"


def sa_keys(blocks: Sequence[int]) -> list[str]:
    """What the attention of self-attention blocks is called."""
    return [f"sa_ffn_block_{block}_att" for block in blocks]


def ca_keys(config: CaiTConfig) -> list[str]:
    """What the attention of the class-attention blocks is called."""
    return [f"ca_ffn_block_{block}_att" for block in range(config.ca_ffn_layers)]
