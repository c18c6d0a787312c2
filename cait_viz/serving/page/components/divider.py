"""Two images over one another, and a line to move between them: by dragging or the arrow keys."""

from collections.abc import Sequence

import streamlit as st

from cait_viz.serving.page.components.assets import data_address, text_of
from cait_viz.serving.page.components.patches import Picture

_component = st.components.v2.component(
    "cait_viz_divider", css=text_of("divider.css"), js=text_of("divider.js")
)


def divide(pictures: Sequence[Picture], key: str) -> None:
    """Draw two images of one size, the first left of the line and the second right of it."""
    width, height = pictures[0].image.size
    _component(
        key=key,
        data={
            "pictures": [{"image": data_address(one.image), "alt": one.alt} for one in pictures],
            "size": [width, height],
        },
    )
