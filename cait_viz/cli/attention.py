"""`cait-viz attention`."""

from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from cait_viz._checks import check_index
from cait_viz._files import check_output, replacing
from cait_viz.cli.options import Image, ModelOptions, report

SABlocks = Annotated[tuple[int, ...], Parameter(show_default=False)]


def attention(
    image: Image, /, *, npz: Path, sa_block: SABlocks = (), given: ModelOptions = ModelOptions()
) -> None:
    """Write the attention tensors of an image to a NumPy archive.

    The archive holds, in float32: pixels (1, H, W, 3), normalised; logits (1, C); for each class-attention
    block I ca_ffn_block_I_att (1, heads, 1, 1 + N), index 0 being the class token itself; for each
    self-attention block K asked for sa_ffn_block_K_att (1, heads, N, N).

    Args:
        npz: the archive to write; .npz.
        sa_block: a self-attention block, from 0, to write as well (default: none); can be repeated.
    """
    for block in sa_block:
        check_index("SA block", block, given.config.sa_ffn_layers)
    check_output(npz, [".npz"], given.inputs(image))
    [loaded], network = given.load(image)
    from cait_viz.api import attention_tensors

    tensors = attention_tensors(loaded, network, given.view, sa_block)
    with replacing(npz) as file:
        np.savez(file, **tensors)  # type: ignore[arg-type]
    report(npz, ", ".join(tensors))
