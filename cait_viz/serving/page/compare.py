"""The question *Side by side*: two maps of one image, or of two, by one network or two."""

from dataclasses import replace

import streamlit as st

from cait_viz import questions
from cait_viz._text import told_apart
from cait_viz.drawing.figures import percent
from cait_viz.drawing.overlay import Appearance
from cait_viz.errors import CaitVizError
from cait_viz.results.analysis import Analysis
from cait_viz.results.comparison import (
    Map,
    MapName,
    attention_map,
    draw_comparison,
    explaining_map,
    rollout_map,
    shared_limits,
)
from cait_viz.serving.models import SAME, AvailableModel
from cait_viz.serving.page.address import (
    MEAN,
    comparable_models,
    reset_other_block_and_head,
)
from cait_viz.serving.page.components.divider import divide
from cait_viz.serving.page.components.patches import Picture
from cait_viz.serving.page.files import choose_format, download_button
from cait_viz.serving.page.markup import notice, ratio_of, verbatim
from cait_viz.serving.page.options import choose, head_name
from cait_viz.serving.page.result import ScreenResult, answer_beside, ask
from cait_viz.serving.page.source import ChosenImage, own_images, samples
from cait_viz.serving.page.why import ask_explanation

METHODS: dict[MapName, str] = {
    "attention": "Attention",
    "rollout": "Rollout",
    "gradient": "Gradient × attention",
    "relevance": "Relevance",
}
RANGES = {"own": "Each map", "shared": "Both maps"}
SHOWN = {"beside": "Beside each other", "line": "With a line to move"}


def show_compare(
    result: ScreenResult, model: AvailableModel, block: int, head: int | None, appearance: Appearance
) -> None:
    """Two maps; the first has the block and head of the sidebar."""
    with st.container(horizontal=True, gap="large", key="sides"):
        with st.container(key="first_side"):
            st.header("First map", anchor=False, help="Of the block and head in the sidebar.")
            method = choose_method("map")
        with st.container(key="second_side"):
            st.header("Second map", anchor=False)
            other = choose_other(result, model)
    if other is None:
        return
    second, other_method, other_block, other_head = other
    first_map = map_of(result, method, block, head)
    second_map = map_of(second, other_method, other_block, other_head)
    if first_map is None or second_map is None:
        return
    show_maps(result, second, first_map, second_map, appearance)


def choose_method(key: str) -> MapName:
    """Which map is drawn."""
    methods = tuple(METHODS)
    method: MapName = st.selectbox("Method", methods, key=key, format_func=METHODS.__getitem__, width=140)
    return method


def choose_other(
    result: ScreenResult, model: AvailableModel
) -> tuple[ScreenResult, MapName, int, int | None] | None:
    """The second map's analysis, method, block and head; None where it fails, and the page says why."""
    models = comparable_models()

    def name_of(choice: str) -> str:
        return "The same" if choice == SAME else choice

    with st.container(horizontal=True, gap="small"):
        method = choose_method("other_map")
        name = st.selectbox(
            "Model",
            (SAME, *models),
            key="other_model",
            format_func=name_of,
            on_change=reset_other_block_and_head,
            width=120,
        )
        chosen = model if name == SAME else models[name]
        blocks = {block: f"CA block {block + 1}" for block in range(chosen.config.ca_ffn_layers)}
        heads: tuple[str | int, ...] = (MEAN, *range(chosen.config.num_heads))
        block = st.selectbox(
            "Block",
            tuple(blocks),
            key="other_block",
            format_func=blocks.__getitem__,
            width=120,
            disabled=method == "relevance",
        )
        head = st.selectbox(
            "Head",
            heads,
            key="other_head",
            format_func=short_head_name,
            width=105,
            disabled=method in ("relevance", "gradient"),
        )
        image = choose_other_image(result)
    try:
        second = result if (image, chosen) == (result.image, model) else answer_beside(result, image, chosen)
    except CaitVizError as error:
        st.html(notice(f"{error}."))
        return None
    return second, method, block, None if isinstance(head, str) else head


def short_head_name(head: str | int) -> str:
    """A head as the paper counts them, where there is little room."""
    return head_name(head) if isinstance(head, int) else "Mean"


def choose_other_image(result: ScreenResult) -> ChosenImage:
    """The same image, a sample, or another image that the person gave."""
    own = {key: image for key, image in own_images().items() if image != result.image}
    names = {SAME: "The same", **{slug: sample.title for slug, sample in samples().items()}}
    newest = list(reversed(own))  # first; the page tells options by their text
    called = told_apart(own[key].name for key in newest)
    names |= {key: f"Yours: {name}" for key, name in zip(newest, called, strict=True)}
    choice: str = st.selectbox(
        "Image",
        list(names),
        key="other",
        format_func=lambda choice: names[choice],
        width=140,
        help="The samples, and the images that you gave.",
    )
    if choice in own:
        return own[choice]
    return result.image if choice == SAME else samples()[choice].chosen


def map_of(result: ScreenResult, method: MapName, block: int, head: int | None) -> Map | None:
    """A map of an image on the screen; None where it fails, and the page says why."""
    if method == "attention":
        return attention_map(result.small, block, head)
    if method == "rollout":
        trace = ask(result, questions.trace, "trace")
        found = rollout_map(trace, block, head) if trace else None
    else:
        explanation = ask_explanation(result, int(result.small.ranking[0]))
        found = explaining_map(explanation, method, block) if explanation else None
    return replace(found, analysis=result.small) if found else None


def show_maps(
    result: ScreenResult, second: ScreenResult, one: Map, other: Map, appearance: Appearance
) -> None:
    """Both maps, what they are, and the figure of the two."""
    state = st.session_state
    alike = one.facts["method"] == other.facts["method"]
    shared = alike and state.ranges == "shared"
    same_image = result.image == second.image
    limits = shared_limits([one, other]) if shared else None
    drawing = vars(appearance) | {"scale": "shared" if shared else "head"}
    pictures = [
        Picture(each.draw(limits, **drawing), f"{each.title}.", each.name, said(each.analysis))
        for each in (one, other)
    ]
    if same_image and state.shown == "line":
        divide(pictures, "divided")
        st.caption(f"Left of the line: {verbatim(one.name)}. Right of it: {verbatim(other.name)}.")
    else:
        with st.container(horizontal=True, gap="medium", key="compared"):
            for number, picture in enumerate(pictures):
                with st.container(key=f"compared_{number}"):
                    st.html(ratio_of(picture.image.size, f".st-key-compared_{number}"))
                    st.image(picture.image, alt=picture.alt, output_format="JPEG", width="stretch")
                    st.markdown(f"**{verbatim(picture.caption)}**  \n{picture.note}")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        if same_image:
            choose("Show them", "shown", SHOWN)
        if alike:
            choose("Color range", "ranges", RANGES)
        else:
            st.caption("Two methods measure in two units: each map has a color range of its own.")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        kind = choose_format("Format of the figure")
        download_button(
            f"Both as a figure ({kind.upper()})",
            f"{state.question}_{result.small.file_prefix}_{second.small.file_prefix}.{kind}",
            lambda: draw_comparison([one, other], kind, **drawing),
        )


def said(analysis: Analysis) -> str:
    """What a network said of an image, in Markdown."""
    [(label, share)] = analysis.top(1)
    image, model = verbatim(analysis.image_name), verbatim(analysis.model.name)
    size = "" if analysis.model.as_trained else f" at {analysis.model.input_size}, not as it was trained"
    return f"{image}, {model}{size}: {verbatim(label)}, {percent(share)}"
