"""`cait-viz app`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from cait_viz.cli.options import ModelOptions
from cait_viz.errors import UsageError


def app(
    *options: Annotated[str, Parameter(name="OPTION")],
    port: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))] = None,
    host: str | None = None,
    weights: Path | None = None,
    labels: Path | None = None,
) -> None:
    """Serve the web app.

    Args:
        options: what follows -- is passed on to `streamlit run`.
        port: port to listen on (default: 8501).
        host: address to listen on (default: this machine alone).
        weights: a checkpoint of your own to open the app on: a safetensors file with timm's tensor names.
        labels: the names of its classes, one a line.
    """
    if labels is not None and weights is None:
        raise UsageError(
            "--labels is for --weights: the app's other models have names for their classes; give the "
            "weights too, or leave it out"
        )
    from cait_viz.serving import models, state

    own = None
    if weights is not None:
        given = ModelOptions(weights=weights, labels=labels)
        _ = given.config  # refuses what cannot be used
        own = models.own(given.checkpoint, labels)
    settings = {"--server.port": port, "--server.address": host}
    state.launch(
        [*(f"{name}={value}" for name, value in settings.items() if value is not None), *options], own
    )
