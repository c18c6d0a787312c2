"""`cait-viz app`."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from cait_viz.cli.options import Count, ModelOptions, ServedModel
from cait_viz.errors import UsageError


def app(
    *,
    port: Annotated[int | None, Parameter(validator=Number(gte=1, lte=65535))] = None,
    host: str | None = None,
    read_only: bool = False,
    images_per_minute: Count | None = None,
    model_options: ServedModel = ModelOptions(),
    streamlit_options: Annotated[Sequence[str], Parameter(parse=False)],
) -> None:
    """Serve the web app, which opens on the --weights that are given.

    What follows -- is passed on to `streamlit run`.

    Args:
        port: port to listen on (default: 8501).
        host: address to listen on (default: this machine alone).
        read_only: let visitors download no models. In any case nobody can upload weights, images stay in
            memory, and web addresses of images are fetched from the public internet alone.
        images_per_minute: how many images one visitor may give in a minute, by upload, camera and web address
            together; reloading the page counts as a new visitor (default: any number).
    """
    if model_options.labels and not model_options.weights:
        raise UsageError("--labels is for --weights; the app's other models have names")
    _ = model_options.config  # refuses what cannot be used
    from cait_viz.serving import models, state

    own = models.user_model(model_options.checkpoint, model_options.labels) if model_options.weights else None
    settings = {"port": port, "address": host}
    named = [f"--server.{name}={value}" for name, value in settings.items() if value is not None]
    state.launch(
        [*named, *streamlit_options],
        user_model=own,
        engine=model_options.engine,
        precision=model_options.precision,
        read_only=read_only,
        images_per_minute=images_per_minute,
    )
