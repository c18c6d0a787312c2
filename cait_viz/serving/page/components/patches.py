"""Images side by side on which a patch is chosen: by a click, a tap or the keyboard."""

from collections.abc import Hashable, Sequence
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
    of: Hashable,
    key: str,
    shown: int | None = None,
) -> int | None:
    """Draw images of one size, as large as fits, and give the patch that is chosen on them.

    A second click on the chosen patch, or the Escape key, takes the choice back.

    Args:
        pictures: they show the same place at the same point; the first has the keyboard's focus.
        grid_shape: rows and columns of patches.
        box: the part that the network saw, in pixels of the images: the patches divide it.
        of: what the patch is chosen in; with another one, none is chosen.
        key: tells the choice from others on the page.
        shown: the patch that is marked while none is chosen.

    Returns:
        The patch's index, row by row from the top left, or None.
    """
    state = st.session_state
    chosen = chosen_patch(of, key)
    width, height = pictures[0].image.size
    _component(
        key=key,
        data={
            "pictures": [vars(one) | {"image": data_address(one.image)} for one in pictures],
            "size": [width, height],
            "grid": grid_shape,
            "box": [box.left / width, box.top / height, box.right / width, box.bottom / height],
            "chosen": shown if chosen is None else chosen,
        },
        on_chosen_change=lambda: choose_patch(state[key].chosen["patch"], of, key),
    )
    return chosen


def chosen_patch(of: Hashable, key: str) -> int | None:
    """The patch that is chosen in `of`, or None. Arguments as for `pick_patch`."""
    chosen_in, chosen = st.session_state.get(f"{key}_chosen", (of, None))
    return chosen if chosen_in == of else None


def choose_patch(patch: int | None, of: Hashable, key: str) -> None:
    """Choose a patch, or with None take the choice back. Arguments as for `pick_patch`."""
    st.session_state[f"{key}_chosen"] = (of, patch)
