"""`cait-viz attention`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cait_viz._files import check_output, replacing
from cait_viz.attention.maps import check_index
from cait_viz.cli.options import ModelOptions, report


def attention(
    image: str,
    /,
    *,
    npz: Path,
    sa_block: Annotated[tuple[int, ...], Parameter(show_default=False)] = (),
    model: ModelOptions = ModelOptions(),
) -> None:
    """Write the attention tensors of an image to a NumPy archive.

    The archive holds, in float32: pixels (1, H, W, 3), normalised; logits (1, C); for each class-attention
    block I ca_ffn_block_I_att (1, heads, 1, 1 + N), index 0 being the class token itself; for each
    self-attention block K asked for sa_ffn_block_K_att (1, heads, N, N).

    Args:
        image: path or web address of an image.
        npz: the archive to write; .npz.
        sa_block: a self-attention block, from 0, to write as well; may be given several times
            (default: none).
    """
    for block in sa_block:
        check_index("SA block", block, model.config.sa_ffn_layers)
    check_output(npz, [".npz"], model.inputs(image))
    [loaded], network = model.load(image)
    import numpy as np

    from cait_viz.api import attention_tensors

    tensors = attention_tensors(loaded, network, model.view, sa_block)
    with replacing(npz) as file:
        np.savez(file, **tensors)  # type: ignore[arg-type]
    report(npz, ", ".join(tensors))
