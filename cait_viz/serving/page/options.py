"""The sidebar: the model, the part of the image, the block and the head, and how the maps are drawn."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from cait_viz.attention.maps import Scale
from cait_viz.drawing.overlay import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAPS, Appearance, Style
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.page.address import DETAILS, MEAN, PARTS, reset_block_and_head
from cait_viz.serving.page.markup import verbatim
from cait_viz.serving.state import server

# How much darker the part of the image is drawn that the network did not see.
DIM_UNSEEN = 0.6

# What the choices are called, the first being the default.
STYLE_LABELS = {"overlay": "Overlay", "paper": "Paper", "map": "Map alone"}
VIEW_LABELS = dict(zip(PARTS, ("Center", "Whole", "Squashed"), strict=True))
SCALE_LABELS = {"head": "Each map", "shared": "All heads"}
INTERPOLATION_LABELS = {"bicubic": "Bicubic", "nearest": "Patches"}


def choose_model() -> AvailableModel:
    """Any model of the server's, with its size, accuracy and whether it is on this machine."""
    st.header("Model", anchor=False)
    models = server().models
    name = st.selectbox(
        "Model", tuple(models), key="model", format_func=lambda name: describe_model(models[name]),
        on_change=reset_block_and_head, label_visibility="collapsed",
    )  # fmt: skip
    model = models[name]
    if model.variant is None:
        where = f"your own weights ({verbatim(model.weights)})"
    else:
        missing = "not on this server" if server().read_only else "not on this machine yet (↓)"
        where = missing if server().missing(model) else "on this machine"
    accuracy = f", {model.variant.top1:.1f} % top-1" if model.variant and model.variant.top1 else ""
    st.caption(f"{model.parameters / 1e6:.1f} M parameters{accuracy}, {where}")
    if model.remark:
        st.caption(verbatim(model.remark))
    return model


def describe_model(model: AvailableModel) -> str:
    """One line of the list of models, short enough for the sidebar."""
    millions = model.parameters / 1e6
    facts = [model.name, f"{millions:.0f} M" if millions >= 1 else f"{millions:.1f} M"]
    if model.variant and model.variant.top1:
        facts.append(f"{model.variant.top1:.1f} %")
    if server().missing(model):
        facts.append("not here" if server().read_only else "↓")
    return " · ".join(facts)


def choose(label: str, key: str, names: Mapping[Any, str]) -> Any:
    """One of a few options, all of them visible by name."""
    st.session_state.setdefault(key, next(iter(names)))
    return st.segmented_control(label, tuple(names), key=key, format_func=names.__getitem__, required=True)


def choose_block_and_head(model: AvailableModel) -> tuple[int, int | None]:
    """A class-attention block and a head of it, or the mean of its heads."""
    st.header("Attention", anchor=False)
    blocks = {block: f"CA block {block + 1}" for block in range(model.config.ca_ffn_layers)}
    block = choose("Class-attention block", "block", blocks)
    heads: tuple[str | int, ...] = (MEAN, *range(model.config.num_heads))
    head = st.selectbox("Head", heads, key="head", format_func=head_name)
    return block, None if isinstance(head, str) else head


def choose_detail(model: AvailableModel) -> str:
    """How finely the network reads: how many times the trained resolution, as the address has it."""
    side, patch = model.config.image_shape[0], model.config.patch_size
    sides = {detail: round(float(detail) * side / patch) * patch for detail in DETAILS}
    detail: str = choose("Resolution", "detail", {detail: f"{side} px" for detail, side in sides.items()})
    return detail


def head_name(head: str | int | None) -> str:
    """A head as the paper counts them."""
    return f"Head {head + 1}" if isinstance(head, int) else "Mean of the heads"


def choose_appearance(*, compares_heads: bool) -> Appearance:
    """How the maps are drawn; `compares_heads` says whether they are the heads' own, which share a scale."""
    st.header("Appearance", anchor=False)
    style = choose("Style", "style", STYLE_LABELS)
    colormap = choose_colormap(style)
    st.session_state.setdefault("opacity", round(100 * DEFAULT_ALPHA))
    opacity = st.slider(
        "Opacity of the map", 0, 100, format="%d %%", key="opacity", disabled=style != "overlay",
        help="Where the attention is largest; with less attention the map fades into the photograph.",
    )  # fmt: skip
    scale: Scale = choose("Color scale", "scale", SCALE_LABELS) if compares_heads else "head"
    interpolation = choose("Upsampling", "interpolation", INTERPOLATION_LABELS)
    return Appearance(
        style=style,
        colormap=colormap,
        alpha=opacity / 100,
        interpolation=interpolation,
        scale=scale,
        dim_unseen=DIM_UNSEEN,
    )


def choose_colormap(style: Style) -> str | None:
    """A colormap, or None for the style's own.

    Another style brings its own, unless the person chose another than the own one of the style before.
    """
    state = st.session_state
    own = DEFAULT_COLORMAPS[style]
    before = DEFAULT_COLORMAPS[state.get("style_of_colors", style)]
    if state.get("colormap", before) == before:
        state.colormap = own
    state.style_of_colors = style
    colormap = st.selectbox("Colors", COLORMAPS, key="colormap")
    return None if colormap == own else colormap
