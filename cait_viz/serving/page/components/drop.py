"""Images that are dropped or pasted anywhere on the page go to an uploader of Streamlit's."""

import streamlit as st

from cait_viz.serving.page.components.assets import text_of

_component = st.components.v2.component("cait_viz_drop", js=text_of("drop.js"))


def accept_drops(uploader: str) -> None:
    """Hand what is dropped or pasted to the uploader in the container of this key.

    While something is dragged over the page, that container has the attribute `data-dropping`.
    """
    _component(key=f"{uploader}_drop", data={"uploader": uploader}, height=1)
