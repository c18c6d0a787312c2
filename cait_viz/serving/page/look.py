"""The question *Where did it look?*: the paper's maps."""

import streamlit as st
from PIL import Image

from cait_viz._text import counted
from cait_viz.attention.maps import Scale
from cait_viz.drawing.figures import percent
from cait_viz.drawing.overlay import Appearance
from cait_viz.results.analysis import Analysis
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.page.address import MEAN, choose_patch, chosen_patch
from cait_viz.serving.page.components.choice import Option, choose_option
from cait_viz.serving.page.components.patches import Picture, pick_patch
from cait_viz.serving.page.files import choose_format, download_button
from cait_viz.serving.page.markup import ratio_of, verbatim
from cait_viz.serving.page.options import head_name
from cait_viz.serving.page.predictions import show_predictions
from cait_viz.serving.page.result import TILE_SIDE, ScreenResult

PAPER = "https://arxiv.org/abs/2103.17239"

# Least side in pixels of a head's map in the grid, on a narrow screen.
NARROWEST_TILE = 108


def show_look(
    result: ScreenResult, model: AvailableModel, block: int, head: int | None, appearance: Appearance
) -> None:
    """The chosen map beside its photograph, the predictions, every head, files to keep, and what a map is."""
    show_answer(result, model, block, head, appearance)
    show_heads(result, model, appearance)
    show_files(result, block, head, appearance)
    show_reading_guide(model)


def show_answer(
    result: ScreenResult, model: AvailableModel, block: int, head: int | None, appearance: Appearance
) -> None:
    """The chosen map beside its photograph, and the predictions."""
    st.html(ratio_of(result.small.size))
    with st.container(horizontal=True, key="answer"):
        with st.container(key="pictures"):
            show_map(result, block, head, appearance)
        with st.container(key="says"):
            show_predictions(result, model)


def show_map(result: ScreenResult, block: int, head: int | None, appearance: Appearance) -> None:
    """The photograph and the chosen map, and what is to be said of it."""
    small = result.small
    name = small.image_name
    pictures = [
        Picture(Image.fromarray(small.image), f"The image {name}", name, what_was_seen(result)),
        Picture(
            small.overlay(block, head, **vars(appearance)),
            f"{small.title(block, head)}.",
            head_of_block(block, head),
        ),
    ]
    patch = chosen_patch(small.grid_shape)
    pick_patch(pictures, small.grid_shape, small.box, patch, "pictures_of_map", choose_patch)
    st.markdown(looks_at(small, block, head), help=exact_figures(small, block, head, appearance.scale))
    if patch is not None:
        st.markdown(share_of_patch(small, block, head, patch))
    if small.image_remark:
        st.caption(verbatim(small.image_remark))


def head_of_block(block: int, head: int | None) -> str:
    """A head and its block, as the paper counts them."""
    return f"{head_name(head)} of CA block {block + 1}"


def what_was_seen(result: ScreenResult) -> str:
    """How much of the image the network saw."""
    left, top, right, bottom = result.seen
    width, height = result.size
    if result.small.view == "squash":
        rows, columns = result.small.grid_shape
        squashed = ", squashed to a square" if rows == columns and width != height else ""
        return f"The network saw the whole image ({width} × {height} pixels){squashed}."
    if (right - left, bottom - top) == (width, height):
        return f"The network saw all of its {width} × {height} pixels."
    return f"The network saw {right - left} × {bottom - top} of its {width} × {height} pixels."


def looks_at(analysis: Analysis, block: int, head: int | None) -> str:
    """How widely a head looks, and what it keeps for the class token itself."""
    itself, _, patches = analysis.concentration(block, head)
    rows, columns = analysis.grid_shape
    who = "The mean of the heads" if head is None else head_name(head)
    return (
        f"{who} looks at about **{patches:.0f} of {rows * columns} patches** and keeps "
        f"{percent(itself)} of its attention for the class token itself."
    )


def exact_figures(analysis: Analysis, block: int, head: int | None, scale: Scale) -> str:
    """What the sentence is computed from, and what the colors leave out."""
    itself, entropy, patches = analysis.concentration(block, head)
    return (
        f"Entropy over the patches: {entropy:.2f} nats; its exponential, {patches:.1f}, is the number of "
        f"patches. Attention of the class token to itself: {100 * itself:.2f} %. The colors show neither: "
        f"they go from the least to the most attention{' of all heads' if scale == 'shared' else ''}."
    )


def share_of_patch(analysis: Analysis, block: int, head: int | None, patch: int) -> str:
    """How much attention the chosen patch gets."""
    rows, columns = analysis.grid_shape
    row, column = divmod(patch, columns)
    share = float(analysis.attention(block, head)[1 + patch])
    return (
        f"The patch in row {row + 1}, column {column + 1} gets **{100 * share:.2f} %** of the attention; "
        f"an even share would be {100 / (rows * columns):.2f} %."
    )


def show_heads(result: ScreenResult, model: AvailableModel, appearance: Appearance) -> None:
    """Every head of every class-attention block, as in the paper's Figure 6; each can be chosen."""
    st.header(
        "Every head", anchor=False, help="Choose one to see it large. The paper's Figure 6 shows the same."
    )
    tile, state = result.tile, st.session_state
    heads = (None, *range(tile.heads))
    groups = {
        f"CA block {block + 1}": [option_of(tile, block, head, appearance) for head in heads]
        for block in range(tile.blocks)
    }

    def choose(value: str) -> None:
        block, head = value.split("_")
        if state.model == model.name:  # which may have changed with the same click's run
            state.update(block=int(block), head=MEAN if head == MEAN else int(head))

    choose_option(
        "Block and head", groups, f"{state.block}_{state.head}", "heads", choose, TILE_SIDE, NARROWEST_TILE
    )


def option_of(tile: Analysis, block: int, head: int | None, appearance: Appearance) -> Option:
    """One small map with what is to be said of it."""
    name = "Mean" if head is None else head_name(head)
    _, entropy, patches = tile.concentration(block, head)
    return Option(
        value=f"{block}_{MEAN if head is None else head}",
        image=tile.overlay(block, head, **vars(appearance)),
        alt=tile.title(block, head),
        label=f"{name}, CA block {block + 1}",
        caption=name,
        note=f"about {patches:.0f} patches",
        help=f"{head_of_block(block, head)}: {patches:.1f} patches, entropy {entropy:.2f} nats",
    )


def show_files(result: ScreenResult, block: int, head: int | None, appearance: Appearance) -> None:
    """The maps, the figures and the numbers, to keep."""
    st.header("Download", anchor=False)
    small, whole = result.small, result.whole
    figure_appearance = {
        "colormap": appearance.colormap,
        "interpolation": appearance.interpolation,
        "scale": appearance.scale,
    }
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        kind = choose_format("Format of the figures")
        download_button(
            "This map (PNG)",
            f"{small.file_stem(block, head)}_{appearance.style}.png",
            lambda: whole().png(block, head, **vars(appearance)),
        )
        download_button(
            f"Figure 6: all heads ({kind.upper()})",
            f"{small.file_prefix}_heads.{kind}",
            lambda: whole().figure("heads", kind, **figure_appearance),
        )
        download_button(
            f"Figure 7: saliency ({kind.upper()})",
            f"{small.file_prefix}_ca{block}_saliency.{kind}",
            lambda: whole().figure("saliency", kind, block=block, **figure_appearance),
        )
        download_button(
            "Every map (ZIP)", f"{small.file_prefix}_maps.zip", lambda: whole().archive(**vars(appearance))
        )
        download_button("The numbers (NPZ)", f"{small.file_prefix}.npz", lambda: whole().npz())
    st.caption(
        "Maps have the image's own resolution and carry what made them in the file. "
        "File names count blocks and heads from 0, as the keys in the numbers do."
    )


def show_reading_guide(model: AvailableModel) -> None:
    """What class attention is, and what it is not."""
    st.header("What you are looking at", anchor=False)
    patch_stage = counted(model.config.sa_ffn_layers, "block")
    class_stage = counted(model.config.ca_ffn_layers, "**class-attention** block")
    st.markdown(
        f"After {patch_stage} in which patches attend to each other, a class token reads the patches in "
        f"{class_stage}, and the prediction is made from it alone. A map shows how that reading was spread "
        "over the patches. **It is not an explanation of one class:** no target class enters it, and the "
        "same map stands behind every line of the predictions. Nor is it a cause: a patch that was read need "
        "not have changed the answer. "
        f"[Going deeper with Image Transformers]({PAPER}) (Touvron et al. 2021), Figures 6 and 7."
    )
