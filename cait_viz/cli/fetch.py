"""`cait-viz fetch`."""

from typing import Annotated

from cyclopts import Parameter

from cait_viz.cli.main import complain
from cait_viz.errors import CheckpointError
from cait_viz.weights.registry import get_variant
from cait_viz.weights.resolve import resolve


def fetch(models: Annotated[list[str], Parameter(name="MODEL")], /) -> int:
    """Download the weights of models into the cache of the Hugging Face hub.

    Args:
        models: names that `cait-viz models` lists.

    Returns:
        The exit status: 1 if one of them could not be fetched.
    """
    status = 0
    for variant in [get_variant(name) for name in dict.fromkeys(models)]:
        try:
            print(f"{variant.name}: {resolve(variant.name).path}", flush=True)
        except CheckpointError as error:  # the others may well be there
            complain(error)
            status = 1
    return status
