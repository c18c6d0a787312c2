"""The question *How did it get there?*: what happened before the class token."""

from collections.abc import Sequence
from functools import partial

import altair as alt
import streamlit as st
from PIL import Image

from cait_viz import questions
from cait_viz._text import number_text, told_apart
from cait_viz.drawing.figures import percent
from cait_viz.drawing.overlay import Appearance
from cait_viz.results.tracing import BlockAttention, Trace
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.page.address import MEAN, choose_patch, chosen_patch
from cait_viz.serving.page.components.choice import Option, choose_option
from cait_viz.serving.page.components.patches import Picture, pick_patch
from cait_viz.serving.page.files import choose_format, download_button
from cait_viz.serving.page.markup import ratio_of, verbatim
from cait_viz.serving.page.options import choose, head_name
from cait_viz.serving.page.result import ScreenResult, ask

# Sides in pixels of the maps in a strip: where there is room, and on a narrow screen.
STRIP_SIDE, NARROWEST = 104, 72

DIRECTIONS = {"out": "Where it looks", "in": "Who looks at it"}
SCORES = {"softmax": "Attention", "mixed": "Mixed scores"}

# Heights in pixels: of a plot, and of a line of its legend.
PLOT, LINE = 260, 20


def show_path(
    result: ScreenResult, _: AvailableModel, block: int, head: int | None, appearance: Appearance
) -> None:
    """One patch in one self-attention block, the way through all blocks, and what each would have said."""
    trace = ask(result, questions.trace, "trace")
    if trace is None:
        return
    st.html(ratio_of(result.small.size))
    show_patch(result, trace, block, head, appearance)
    show_depths(result, trace, block, head, appearance)
    show_rollout(result, trace, block, head, appearance)
    show_distances(trace)
    show_files(result, trace, block, head, appearance)


def show_patch(
    result: ScreenResult, trace: Trace, block: int, head: int | None, appearance: Appearance
) -> None:
    """Where one patch looks in one self-attention block, or who looks at it."""
    small = result.small
    # Until one is chosen, the patch that the class token looks at most.
    patch = chosen_patch(small.grid_shape)
    if patch is None:
        patch = int(small.attention(block, head)[1:].argmax())
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        sa_block = choose_sa_block(trace.blocks)
        heads: tuple[str | int, ...] = (MEAN, *range(small.heads))
        chosen = st.selectbox("Head of the block", heads, key="sa_head", format_func=head_name, width=180)
        incoming = choose("Of the chosen patch", "direction", DIRECTIONS) == "in"
        mixed = choose("Scores", "scores", SCORES) == "mixed"
        place_by_numbers(result, patch)
    question = partial(questions.block_attention, block=sa_block, mixed=mixed)
    attention = ask(result, question, ("block", sa_block, mixed))
    if attention is None:
        return
    which = None if isinstance(chosen, str) else chosen
    grid = attention.grid(patch, which, incoming=incoming)
    title = attention.title(patch, which, incoming=incoming)
    pictures = [
        Picture(Image.fromarray(small.image), f"The image {small.image_name}", "Choose a patch"),
        Picture(
            small.draw(grid, signed=mixed, **vars(appearance)),
            f"{title}.",
            f"{DIRECTIONS['in' if incoming else 'out']}: {head_name(which)} of SA block {sa_block + 1}",
        ),
    ]
    pick_patch(pictures, small.grid_shape, small.box, patch, "pictures_of_patch", choose_patch)
    st.markdown(about_patch(attention, patch, which, incoming))
    show_blocks(result, trace, patch, incoming, appearance)


def choose_sa_block(count: int) -> int:
    """A self-attention block, from 0."""
    state = st.session_state
    state.sa_block = min(state.get("sa_block", count - 1), count - 1)
    blocks = range(count)
    return st.selectbox("SA block", blocks, key="sa_block", format_func=lambda k: str(k + 1), width=110)


def place_by_numbers(result: ScreenResult, patch: int) -> None:
    """The patch by its row and column, for who cannot click."""
    state, (rows, columns) = st.session_state, result.small.grid_shape
    state.patch_row, state.patch_column = (1 + place for place in divmod(patch, columns))

    def take() -> None:
        choose_patch((state.patch_row - 1) * columns + state.patch_column - 1)

    with st.container(horizontal=True, width="content", gap="small"):
        st.number_input("Row", 1, rows, key="patch_row", on_change=take, width=84)
        st.number_input("Column", 1, columns, key="patch_column", on_change=take, width=84)


def about_patch(attention: BlockAttention, patch: int, head: int | None, incoming: bool) -> str:
    """What the map of a patch says, in a sentence."""
    grid = attention.grid(patch, head, incoming=incoming)
    itself = float(grid.flat[patch])
    if attention.mixed:
        return (
            "**Mixed scores** are what the patches' values are multiplied by, after the heads are mixed. "
            "They may be negative (blue), have colors of their own, and are no distribution: here from "
            f"{number_text(grid.min(), 'z.3f')} to {number_text(grid.max(), 'z.3f')}."
        )
    if incoming:
        return (
            f"All patches together pay this one **{grid.sum():.2f} times** what an even share would be; "
            f"it pays itself {percent(itself)} of its own attention."
        )
    spread = attention.effective_patches(patch, head)
    return f"It looks at about **{spread:.0f} of {grid.size} patches**, {percent(itself)} of it at itself."


def show_blocks(
    result: ScreenResult, trace: Trace, patch: int, incoming: bool, appearance: Appearance
) -> None:
    """The same patch in every self-attention block; each can be chosen."""
    ask_block = trace.looked_at_by if incoming else trace.looks_at
    where = DIRECTIONS["in" if incoming else "out"]

    def option(block: int) -> Option:
        name = f"SA block {block + 1}"
        drawn = result.tile.draw(ask_block(block, patch), **vars(appearance))
        return Option(
            str(block), drawn, f"{where}: attention, {name}, mean of the heads", name, str(block + 1)
        )

    st.header(
        "The same patch in every block",
        anchor=False,
        help=f"{where}: the attention (softmax), mean of the heads, whatever head and scores are chosen "
        "above. Choose one to see it large.",
    )
    options = [option(block) for block in range(trace.blocks)]
    choose_in_strip("SA block", "sa_block", options, st.session_state.sa_block)


def choose_in_strip(label: str, key: str, options: Sequence[Option], chosen: int) -> None:
    """Small images of which one is chosen by its place; the session's state gets it under the key."""

    def choose(value: str) -> None:
        st.session_state[key] = int(value)

    choose_option(label, {"": options}, str(chosen), f"{key}s", choose, STRIP_SIDE, NARROWEST)


def show_depths(
    result: ScreenResult, trace: Trace, block: int, head: int | None, appearance: Appearance
) -> None:
    """What the network would have said and drawn, had the patch stage stopped earlier."""
    st.header(
        "If it had stopped earlier",
        anchor=False,
        help="The logit lens (nostalgebraist 2020): the class stage reads the patches of each depth. It was "
        "trained on the last depth alone.",
    )
    followed = trace.lens_leading()
    names = told_apart(label for label, _ in followed)  # two classes of one name are two lines
    points = [
        {"depth": depth, "share": float(share), "class": name}
        for name, (_, shares) in zip(names, followed, strict=True)
        for depth, share in enumerate(shares)
    ]
    chart = alt.Chart(alt.Data(values=points)).mark_line(point=True)
    depth = alt.X("depth:Q", title="After so many self-attention blocks", axis=alt.Axis(tickMinStep=1))
    share = alt.Y("share:Q", title="Probability", axis=alt.Axis(format=".0%"))
    label = alt.Color(
        "class:N",
        title=None,
        legend=alt.Legend(orient="bottom", columns=1, labelLimit=300),
        sort=names,
    )
    st.altair_chart(chart.encode(depth, share, label).properties(height=PLOT + LINE * len(followed)))

    def option(depth: int) -> Option:
        [(label, share)] = trace.lens_top(depth)
        drawn = result.tile.draw(trace.lens(depth, block, head), **vars(appearance))
        name = "Embedding" if depth == 0 else f"After {depth}"
        return Option(
            str(depth),
            drawn,
            f"{name}: {label}",
            f"{name}, {label}, {percent(share)}",
            name,
            f"{label}, {percent(share)}",
        )

    st.markdown(
        f"The map of CA block {block + 1}, {head_name(head).lower()}, as each depth would have drawn it, and "
        "the class that it would have named:"
    )
    chosen = st.session_state.depth
    choose_in_strip("Depth", "depth", [option(depth) for depth in range(trace.blocks + 1)], chosen)
    said = ", ".join(
        f"{verbatim(label)} {percent(share)}" for label, share in trace.lens_top(chosen, len(followed))
    )
    where = "Of the patches as they are embedded" if chosen == 0 else f"After {chosen} blocks"
    st.markdown(f"{where} it would have said: {said}.")


def show_rollout(
    result: ScreenResult, trace: Trace, block: int, head: int | None, appearance: Appearance
) -> None:
    """The class token's attention, traced back to the image."""
    st.header(
        "Traced back to the image",
        anchor=False,
        help="Attention rollout (Abnar and Zuidema 2020): the patches that the class token read are "
        "themselves made of others; each block is taken to keep half of what was there.",
    )
    small = result.small
    with st.container(horizontal=True):
        for title, drawn in {
            "As the class token reads it": small.overlay(block, head, **vars(appearance)),
            "Traced back through all SA blocks": small.draw(trace.rollout(block, head), **vars(appearance)),
        }.items():
            with st.container(width=420):
                st.image(
                    drawn,
                    caption=title,
                    output_format="JPEG",
                    alt=f"{small.title(block, head)}: {title.lower()}",
                )


def show_distances(trace: Trace) -> None:
    """How far each head looks, on average."""
    st.header("How far the heads look", anchor=False, help="Dosovitskiy et al. 2021, Figure 7, for CaiT.")
    points = [
        {"block": block + 1, "distance": float(distance), "head": head_name(head)}
        for block, distances in enumerate(trace.distances)
        for head, distance in enumerate(distances)
    ]
    chart = alt.Chart(alt.Data(values=points)).mark_point(filled=True, size=60)
    scale, axis = alt.Scale(domain=[0.5, trace.blocks + 0.5], nice=False), alt.Axis(tickMinStep=1, format="d")
    block = alt.X("block:Q", title="Self-attention block", scale=scale, axis=axis)
    distance = alt.Y("distance:Q", title="Mean distance in pixels")
    head = alt.Color(
        "head:N",
        title=None,
        legend=alt.Legend(orient="bottom", columns=2),
        sort=[head_name(head) for head in range(trace.analysis.heads)],
    )
    st.altair_chart(
        chart.encode(block, distance, head).properties(height=PLOT + LINE * trace.analysis.heads // 2)
    )


def show_files(
    result: ScreenResult, trace: Trace, block: int, head: int | None, appearance: Appearance
) -> None:
    """The figure, the rollout and the numbers, to keep."""
    st.header("Download", anchor=False)
    prefix = result.small.file_prefix
    colors = {
        "colormap": appearance.colormap,
        "interpolation": appearance.interpolation,
        "alpha": appearance.alpha,
    }

    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        kind = choose_format("Format of the figure")
        download_button(
            f"All depths ({kind.upper()})",
            f"{prefix}_trace.{kind}",
            lambda: trace.figure(kind, block=block, **colors),
        )
        download_button(
            "Rollout (PNG)",
            f"{prefix}_ca{block}_rollout.png",
            lambda: trace.rollout_png(block, head, **vars(appearance)),
        )
        download_button("The numbers (NPZ)", f"{prefix}_trace.npz", trace.npz)
