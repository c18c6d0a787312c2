"""Files to keep; each is made when its button is pressed, and none reruns the page."""

from collections.abc import Callable
from mimetypes import guess_type

import streamlit as st

from cait_viz.drawing.figures import FIGURE_FORMATS, FigureFormat


def choose_format(label: str) -> FigureFormat:
    """The format of the figures that are offered."""
    kind: FigureFormat = st.selectbox(label, FIGURE_FORMATS, format_func=str.upper, width=180)
    return kind


def download_button(label: str, name: str, make: Callable[[], bytes]) -> None:
    """A button that saves what `make` gives, under a name that no other file on the page has."""
    st.download_button(
        label,
        make,
        name,
        guess_type(name)[0] or "application/octet-stream",
        key=f"download_{name}",
        on_click="ignore",
        icon=":material/download:",
    )
