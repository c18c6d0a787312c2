"""Images side by side on which a patch is chosen: by a click, a tap or the keyboard."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st
from PIL import Image

from cait_viz.images.preprocess import Box
from cait_viz.serving.page.components.assets import data_address, text_of

_component = st.components.v2.component(
    "cait_viz_patches", css=text_of("patches.css"), js=text_of("patches.js")
)


@dataclass(frozen=True)
class Picture:
    """An image with what is said under it."""

    image: Image.Image
    alt: str
    caption: str
    note: str = ""


def pick_patch(
    pictures: Sequence[Picture],
    grid_shape: tuple[int, int],
    box: Box,
    marked: int | None,
    key: str,
    on_choose: Callable[[int | None], None],
) -> None:
    """Draw images of one size, as large as fits, on which a patch is chosen.

    A second click on the marked patch, or the Escape key, takes the choice back.

    Args:
        pictures: they show the same place at the same point; the first has the keyboard's focus.
        grid_shape: rows and columns of patches.
        box: the part that the network saw, in pixels of the images: the patches divide it.
        marked: the patch that is marked, row by row from the top left, or None.
        key: tells the component from others on the page.
        on_choose: is called with the newly chosen patch, or with None, before the page runs again.
    """
    width, height = pictures[0].image.size
    _component(
        key=key,
        data={
            "pictures": [vars(one) | {"image": data_address(one.image)} for one in pictures],
            "size": [width, height],
            "grid": grid_shape,
            "box": [box.left / width, box.top / height, box.right / width, box.bottom / height],
            "chosen": marked,
        },
        on_chosen_change=lambda: on_choose(st.session_state[key].chosen["patch"]),
    )
