"""Images of which one is chosen: by a click on it, or with the arrow keys."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import streamlit as st
from PIL import Image

from cait_viz.serving.page.components.assets import data_address, text_of

_component = st.components.v2.component("cait_viz_choice", css=text_of("choice.css"), js=text_of("choice.js"))


@dataclass(frozen=True)
class Option:
    """An image that can be chosen."""

    value: str  # tells it from the others
    image: Image.Image | str  # or the address that holds it
    alt: str
    label: str  # what a screen reader calls it; it holds what is seen under the image
    caption: str = ""  # under the image
    note: str = ""  # under the caption
    help: str = ""  # while the pointer rests on it


def choose_option(
    label: str,
    groups: Mapping[str, Sequence[Option]],
    chosen: str | None,
    key: str,
    on_choose: Callable[[str], None],
    width: int,
    narrowest: int | None,
) -> None:
    """Draw groups of images, each under its heading, as one radio group.

    Args:
        label: what is chosen, for a screen reader.
        groups: the images by heading; an empty heading is not drawn.
        chosen: the value of the chosen one, or None.
        key: tells the group from others on the page.
        on_choose: is called with the value of a newly chosen one before the page runs again.
        width: width of an image in CSS pixels, where there is room.
        narrowest: the least width, to which the images of a group shrink so that they fit in a row; None for
            images that do not shrink, in one row that can be scrolled.
    """
    drawn = [
        {
            "heading": heading,
            "options": [vars(option) | {"image": _address(option.image)} for option in options],
        }
        for heading, options in groups.items()
    ]
    _component(
        key=key,
        data={"label": label, "groups": drawn, "chosen": chosen, "width": width, "narrowest": narrowest},
        on_chosen_change=lambda: on_choose(st.session_state[key].chosen),
    )


def _address(image: Image.Image | str) -> str:
    return image if isinstance(image, str) else data_address(image)
