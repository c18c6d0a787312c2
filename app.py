"""The web app's page, in the order in which it is seen.

Run it with `make app`, `cait-viz app` or `streamlit run app.py`. The network runs in threads of its own
(cait_viz.serving.engines); everything that is drawn comes from an `Analysis`.
"""

import html
from collections.abc import Callable, Mapping
from mimetypes import guess_type
from typing import Any

import streamlit as st

from cait_viz.analysis import CONFIDENT, Analysis
from cait_viz.drawing.figures import FIGURE_FORMATS, percent
from cait_viz.drawing.overlay import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAPS, Look
from cait_viz.errors import CaitVizError
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.page.address import MEAN, follow_address, reset_block_and_head, write_address
from cait_viz.serving.page.markup import STYLE, notice, verbatim
from cait_viz.serving.page.result import TILE_SIDE, ScreenResult, analyze
from cait_viz.serving.page.source import choose_image, keep_uploads_off_the_disk, show_gallery
from cait_viz.serving.state import server
from cait_viz.weights.registry import BUNDLED, Variant
from cait_viz.weights.resolve import FILENAME

PAPER = "https://arxiv.org/abs/2103.17239"

# How much darker the part of the image is drawn that the network did not see.
DIM_UNSEEN = 0.6

# What the choices are called, the first being the default.
STYLES = {"overlay": "Overlay", "paper": "Paper", "map": "Map alone"}
VIEWS = {"crop": "Center crop", "whole": "Whole image"}
SCALES = {"head": "Each map", "shared": "All heads"}
INTERPOLATIONS = {"bicubic": "Bicubic", "nearest": "Patches"}
AUTOMATIC = "automatic"


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="cait-viz · where a vision transformer looks", page_icon="👁", layout="wide")
    st.html(STYLE)
    keep_uploads_off_the_disk()
    try:
        server()
    except CaitVizError as error:
        st.html(notice(f"{error}."))
        return
    follow_address()
    st.title("Where does a vision transformer look?")
    st.markdown("A CaiT names what is in an image; its class attention shows which parts it attended to.")
    with st.sidebar:
        image = choose_image()
        model = choose_model()
        view = choose("Part of the image", "view", VIEWS)
        block, head = choose_block_and_head(model)
        look = choose_look()
    write_address(image.sample.slug if image.sample else None)
    show_gallery(image)
    if missing := server().missing(model):
        show_download_of(missing)
    elif result := analyze(image, model, view):
        show_map(result, model, block, head, look)
        show_heads(result, look)
        show_files(result, block, head, look)
        show_explanation(model)


# The sidebar


def choose_model() -> AvailableModel:
    """Any model of the server's, with its size, accuracy and whether it is on this machine."""
    st.subheader("Model")
    models = server().models
    name = st.selectbox(
        "Model", tuple(models), key="model", format_func=lambda name: describe_model(models[name]),
        on_change=reset_block_and_head, label_visibility="collapsed",
    )  # fmt: skip
    model = models[name]
    if model.variant is None:
        where = f"your own weights ({verbatim(model.weights)})"
    else:
        where = "not on this machine yet (↓)" if server().missing(model) else "on this machine"
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
        facts.append("↓")
    return " · ".join(facts)


def choose(label: str, key: str, names: Mapping[Any, str]) -> Any:
    """One of a few options, all of them visible by name."""
    st.session_state.setdefault(key, next(iter(names)))
    return st.segmented_control(label, tuple(names), key=key, format_func=names.__getitem__, required=True)


def choose_block_and_head(model: AvailableModel) -> tuple[int, int | None]:
    """A class-attention block and a head of it, or the mean of its heads."""
    st.subheader("Attention")
    blocks = {block: f"CA block {block + 1}" for block in range(model.config.ca_ffn_layers)}
    block = choose("Class-attention block", "block", blocks)
    heads: tuple[str | int, ...] = (MEAN, *range(model.config.num_heads))
    head = st.selectbox("Head", heads, key="head", format_func=head_name)
    return block, None if isinstance(head, str) else head


def head_name(head: str | int | None) -> str:
    """A head as the paper counts them."""
    return f"Head {head + 1}" if isinstance(head, int) else "Mean of the heads"


def choose_look() -> Look:
    """How the maps are drawn."""
    st.subheader("Look")
    style = choose("Style", "style", STYLES)
    colors = {AUTOMATIC: f"{DEFAULT_COLORMAPS[style]} (this style's)"} | {name: name for name in COLORMAPS}
    colormap = st.selectbox("Colors", tuple(colors), key="colormap", format_func=colors.__getitem__)
    usual, fixed = round(100 * DEFAULT_ALPHA), style != "overlay"
    opacity = st.slider("Opacity of the map", 0, 100, usual, format="%d %%", key="opacity", disabled=fixed)
    scale = choose("Color scale", "scale", SCALES)
    interpolation = choose("Upsampling", "interpolation", INTERPOLATIONS)
    return Look(
        style=style,
        colormap=None if colormap == AUTOMATIC else colormap,
        alpha=opacity / 100,
        interpolation=interpolation,
        scale=scale,
        dim_unseen=DIM_UNSEEN,
    )


# The main part


def show_download_of(variant: Variant) -> None:
    """Say that the weights are not here, and fetch them if the person wants."""
    if variant.repo_id is None:
        st.html(notice(f"The weights of {variant.name} are missing; install the program again."))
        return
    place = st.empty()
    with place.container(border=True):
        st.markdown(
            f"**{variant.name} is not on this machine yet.** Its {FILENAME} has "
            f"{variant.download_megabytes:,} MB and comes from the Hugging Face hub ({variant.repo_id})."
        )
        wanted = st.button("Download it", type="primary", icon=":material/download:")
    if not wanted:
        return
    bar = place.progress(0.0, f"Downloading {variant.name}")

    def show(done: int, total: int) -> None:
        text = f"Downloading {variant.name}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"
        bar.progress(min(1.0, done / total) if total else 0.0, text)

    try:
        server().download(variant, show)
    except CaitVizError as error:
        place.html(notice(str(error)))
        st.button("Try again", key="retry_download")
        return
    st.rerun()


def show_map(result: ScreenResult, model: AvailableModel, block: int, head: int | None, look: Look) -> None:
    """The chosen map, large, with the predictions beside it."""
    left, right = st.columns([3, 2], gap="large")
    with left:
        drawn, alt = result.small.overlay(block, head, **vars(look)), f"{result.small.title(block, head)}."
        st.image(drawn, alt=alt, width="stretch", output_format="JPEG")
        numbers = ", ".join(concentration(result.small, block, head))
        st.caption(f"CA block {block + 1}, {head_name(head).lower()}: {numbers}. {what_was_seen(result)}")
        if result.small.image_remark:
            st.caption(verbatim(result.small.image_remark))
    with right:
        st.subheader(f"What {model.name if model.variant else verbatim(model.name)} says")
        kinds = result.small.kinds()
        if kinds and model.variant is BUNDLED:  # it is better at kinds than at classes
            st.html(ranked_list(kinds[:3], "kinds"))
            st.caption("Kinds of things; each adds up its classes. Among the 1,000 classes:")
        elif kinds:
            st.caption(f"Kind: {kinds[0][0]}, {percent(kinds[0][1])} in all its classes.")
        st.html(prediction_list(result.small))
        st.caption(f"In bold: every class above {percent(CONFIDENT)}. {about_model(model)}")


def what_was_seen(result: ScreenResult) -> str:
    """How much of the image the network saw."""
    left, top, right, bottom = result.seen
    width, height = result.size
    if result.small.view == "whole":
        return f"The network saw the whole image ({width} × {height} pixels), squashed to a square."
    if (right - left, bottom - top) == (width, height):
        return f"The network saw all of its {width} × {height} pixels."
    seen = f"{right - left} × {bottom - top}"
    return f"The network saw {seen} of its {width} × {height} pixels, and not what is dimmed."


def concentration(analysis: Analysis, block: int, head: int | None) -> list[str]:
    """What stretching a map to its full range throws away, in words."""
    itself, entropy, patches = analysis.concentration(block, head)
    return [f"itself {percent(itself)}", f"{patches:.0f} patches", f"entropy {entropy:.2f} nats"]


def prediction_list(analysis: Analysis) -> str:
    """The five most probable classes and every class above the mark, as a list with bars."""
    return ranked_list(analysis.top(max(5, len(analysis.confident()))), "predictions")


def ranked_list(shares: list[tuple[str, float]], name: str) -> str:
    """Names with their probabilities and bars, those above the mark in bold."""
    rows = [
        f'<li class="{"confident" if share > CONFIDENT else ""}"><div class="line"><span>{html.escape(label)}'
        f'</span><span class="share">{percent(share)}</span></div>'
        f'<div class="bar" style="width:{100 * share:.1f}%"></div></li>'
        for label, share in shares
    ]
    return f'<ol class="ranked {name}">{"".join(rows)}</ol>'


def about_model(model: AvailableModel) -> str:
    """How good the model is that made the predictions."""
    if model.variant is None:
        return f"Your own weights ({verbatim(model.weights)}), {model.accuracy}."
    if model.variant.repo_id is None:
        return f"The bundled model, trained for this program and not one of the paper's: {model.accuracy}."
    return f"One of the paper's models: {model.accuracy}."


def show_heads(result: ScreenResult, look: Look) -> None:
    """Every head of every class-attention block, as in the paper's Figure 6; each can be chosen."""
    st.subheader("Every head")
    rows, columns = result.tile.grid_shape
    st.markdown(
        "Under each map: the attention that the class token keeps for itself, over how many of the "
        f"{rows * columns} patches the rest spreads, and the entropy that this is computed from."
    )
    for block in range(result.tile.blocks):
        st.markdown(f"**CA block {block + 1}**")
        with st.container(horizontal=True, gap="small"):
            for head in (None, *range(result.tile.heads)):
                with st.container(width=TILE_SIDE, gap="xsmall"):
                    show_tile(result.tile, block, head, look)


def show_tile(tile: Analysis, block: int, head: int | None, look: Look) -> None:
    """One small map with its numbers and the button that chooses it."""
    drawn, alt = tile.overlay(block, head, **vars(look)), tile.title(block, head)
    st.image(drawn, alt=alt, width=TILE_SIDE, output_format="JPEG")
    state = st.session_state
    choice = {"block": block, "head": MEAN if head is None else head}
    st.button(
        "Mean" if head is None else head_name(head),
        key=f"tile_{block}_{choice['head']}",
        type="primary" if (state.block, state.head) == (block, choice["head"]) else "secondary",
        width="stretch",
        help=f"Show CA block {block + 1}, {head_name(head).lower()}",
        on_click=state.update,
        args=(choice,),
    )
    st.caption("  \n".join(concentration(tile, block, head)))


def show_files(result: ScreenResult, block: int, head: int | None, look: Look) -> None:
    """Files to keep; each is made when its button is pressed, and none reruns the page."""
    st.subheader("Keep it")
    small, whole = result.small, result.whole
    figure_look = {"colormap": look.colormap, "interpolation": look.interpolation, "scale": look.scale}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        kind = st.selectbox("Format of the figures", FIGURE_FORMATS, format_func=str.upper, width=180)
        files: dict[str, tuple[str, Callable[[], bytes]]] = {
            "This map (PNG)": (
                f"{small.file_stem(block, head)}_{look.style}.png",
                lambda: whole().png(block, head, **vars(look)),
            ),
            f"Figure 6: all heads ({kind.upper()})": (
                f"{small.file_prefix}_heads.{kind}",
                lambda: whole().figure("heads", kind, **figure_look),
            ),
            f"Figure 7: saliency ({kind.upper()})": (
                f"{small.file_prefix}_ca{block}_saliency.{kind}",
                lambda: whole().figure("saliency", kind, block=block, **figure_look),
            ),
            "Every map (ZIP)": (f"{small.file_prefix}_maps.zip", lambda: whole().archive(**vars(look))),
            "The numbers (NPZ)": (f"{small.file_prefix}.npz", lambda: whole().npz()),
        }
        for label, (name, make) in files.items():
            st.download_button(
                label, make, name, guess_type(name)[0] or "application/octet-stream", key=f"download_{name}",
                on_click="ignore", icon=":material/download:",
            )  # fmt: skip
    st.caption(
        "Maps have the image's own resolution and carry what made them in the file. "
        "File names count blocks and heads from 0, as the keys in the numbers do."
    )


def show_explanation(model: AvailableModel) -> None:
    """What class attention is, and what it is not."""
    st.subheader("What you are looking at")
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


def counted(number: int, thing: str) -> str:
    """So many of a thing, in words."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


main()
