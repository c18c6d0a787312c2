"""The web app: widgets, and nothing that could be called without them.

Run it with `make app`, `cait-viz app` or `streamlit run app.py`. The network runs in a process of
its own (cait_viz.worker); everything that is drawn comes from an `Analysis`.
"""

import hashlib
import html
import json
from collections.abc import Callable, Hashable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.formparsers import MultiPartParser

from cait_viz._resources import SAMPLES
from cait_viz._text import one_line
from cait_viz.analysis import CONFIDENT, Analysis
from cait_viz.attention.maps import INTERPOLATIONS, SCALES
from cait_viz.drawing.figures import FIGURE_FORMATS, percent
from cait_viz.drawing.overlay import COLORMAPS, DEFAULT_ALPHA, DEFAULT_COLORMAPS, STYLES, Look
from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images.preprocess import View
from cait_viz.serving import state as server
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.worker import Request
from cait_viz.weights.registry import Variant
from cait_viz.weights.resolve import FILENAME, fetch

PAPER = "https://arxiv.org/abs/2103.17239"

# Sides in pixels: of the large map on the screen, of a head's map in the grid, of a sample's thumbnail.
SCREEN_SIDE = 1024
TILE_SIDE = 132
SAMPLE_SIDE = 90

# How much darker the part of the picture is drawn that the network did not see.
DIM_UNSEEN = 0.6

# After this many seconds of waiting the page says what it waits for.
PATIENCE = 0.3
# Room for what surrounds an upload in its request, in bytes.
MULTIPART_HEADERS = 2**20
WAITING = "The model is warming up or busy. The map appears here as soon as it is done."

STYLE_NAMES = {"overlay": "Overlay", "paper": "Paper", "map": "Map alone"}
VIEW_NAMES = {"crop": "Centre crop", "whole": "Whole picture"}
SCALE_NAMES = {"head": "Each map", "shared": "All heads"}
INTERPOLATION_NAMES = {"bicubic": "Bicubic", "nearest": "Patches"}
AUTOMATIC = "automatic"
MEAN = "mean"

PAGE_STYLE = """
<style>
.block-container {padding-top: 2.5rem; padding-bottom: 3rem; max-width: 76rem;}
h1 {font-size: clamp(1.8rem, 5vw, 2.6rem) !important;}
ol.predictions {list-style: none; margin: 0 !important; padding: 0 !important;}
.predictions li {margin: 0 0 .7rem 0 !important; padding: 0 !important;}
.predictions .line {display: flex; justify-content: space-between; gap: 1rem;}
.predictions .share {font-variant-numeric: tabular-nums;}
.predictions .bar {height: .35rem; border-radius: .2rem; background: currentColor; opacity: .3;}
.predictions .confident .bar {opacity: .85;}
.predictions .confident .line {font-weight: 600;}
.notice {padding: .8rem 1rem; border-radius: .5rem; border-left: .3rem solid #d9483b; overflow-wrap: anywhere;
  background: color-mix(in srgb, #d9483b 14%, transparent);}
[data-testid="stCaptionContainer"] {opacity: .8;}
/* The only code here are names that Markdown must not read; they are to look like the text around them. */
code {all: unset !important; overflow-wrap: anywhere !important;}
/* The dark theme's primary colour is light; Streamlit writes on it in white all the same. */
[data-testid="stBaseButton-primary"] {color: light-dark(#ffffff, #17131a) !important;}
</style>
"""


@dataclass(frozen=True)
class Sample:
    """A photograph of the gallery."""

    slug: str
    path: Path
    title: str
    alt: str
    credit: str


@dataclass(frozen=True)
class Subject:
    """The picture to look at: its file's bytes and name, and what stands in the address for it."""

    data: bytes
    name: str
    sha256: str
    alt: str
    sample: Sample | None


@dataclass(frozen=True)
class Shown:
    """What a session keeps of an analysis.

    Copies that fit a screen, so that a visitor holds a few megabytes; the whole one is the server's,
    whose memory for them is bounded, or is made again from the request.

    Attributes:
        key: what tells this analysis from all others.
        request: what it was made from.
        small: the analysis with a copy of the picture for the large map.
        tile: the analysis with a small copy of what the network saw.
        size: width and height of the picture itself, in pixels.
        seen: left, top, right and bottom of what the network saw of it.
    """

    key: Hashable
    request: Request
    small: Analysis
    tile: Analysis
    size: tuple[int, int]
    seen: tuple[int, int, int, int]

    def whole(self) -> Analysis:
        """The analysis itself, with the picture in its own resolution."""
        return server.analyses.ask(self.key, self.request).result()


def main() -> None:
    """Draw the page."""
    st.set_page_config(page_title="cait-viz · where a vision transformer looks", page_icon="👁", layout="wide")
    st.html(PAGE_STYLE)
    keep_uploads_off_the_disk()
    try:
        server.workers()
    except CaitVizError as error:
        st.html(notice(f"{error}."))
        return
    adopt_address()
    st.title("Where does a vision transformer look?")
    st.markdown("A CaiT names what is in a picture; its class attention shows which parts it attended to.")
    with st.sidebar:
        subject = choose_picture()
        model = choose_model()
        view = choose("Part of the picture", "view", tuple(VIEW_NAMES), VIEW_NAMES.__getitem__)
        block, head = choose_block_and_head(model)
        look = choose_look()
    write_address(subject)
    choose_sample(subject)
    if model.missing is not None:
        offer_download(model.missing)
        return
    shown = analyse(subject, model, view)
    if shown is None:
        return
    show_map(shown, model, block, head, look)
    show_heads(shown, look)
    show_downloads(shown, block, head, look)
    show_explanation(model)


def keep_uploads_off_the_disk() -> None:
    """Let the web server hold a whole upload in memory; by itself it spools all above 1 MB to a file."""
    MultiPartParser.spool_max_size = st.get_option("server.maxUploadSize") * 2**20 + MULTIPART_HEADERS


# The address bar


def adopt_address() -> None:
    """Take the view from the address, once a session, and say what of it does not exist."""
    if "model" in st.session_state:
        return
    address = st.query_params
    models = server.models()
    model = address.get("model", server.first_model())
    ignored = [] if model in models else [f"model {one_line(model, 40)}"]
    st.session_state.model = model if model in models else server.first_model()
    config = models[st.session_state.model].config
    choices: dict[str, tuple[str, ...]] = {
        "sample": tuple(samples()),
        "block": tuple(str(block) for block in range(config.ca_ffn_layers)),
        "head": (MEAN, *(str(head) for head in range(config.num_heads))),
        "style": STYLES,
        "view": tuple(VIEW_NAMES),
    }
    st.session_state.sample = next(iter(samples()))
    reset_block_and_head()
    for name, allowed in choices.items():
        value = address.get(name)
        if value in allowed:
            st.session_state[name] = int(value) if value.isdigit() else value
        elif value is not None:
            ignored.append(f"{name} {one_line(value, 40)}")
    if ignored:
        st.session_state.notice = (
            f"The address asks for {', '.join(ignored)}, which is not there (it counts from 0)."
        )


def write_address(subject: Subject) -> None:
    """Put the view into the address; of an upload nothing but how it is looked at."""
    state = st.session_state
    address = {name: str(state[name]) for name in ("model", "block", "head", "style", "view")}
    if subject.sample is not None:
        address["sample"] = subject.sample.slug
    if st.query_params.to_dict() != address:
        st.query_params.from_dict(address)


# The choices


@st.cache_resource(show_spinner=False)
def samples() -> dict[str, Sample]:
    """The gallery, by the name that stands in the address."""
    entries = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    return {
        Path(entry["file"]).stem: Sample(
            slug=Path(entry["file"]).stem,
            path=SAMPLES / entry["file"],
            title=entry["title"],
            alt=entry["alt"],
            credit=f"{entry['title']}: {entry['author']}, {entry['license']}",
        )
        for entry in entries
    }


def choose_picture() -> Subject:
    """An upload, a photograph from the camera, or a sample."""
    st.subheader("Picture")
    generation = st.session_state.setdefault("upload_generation", 0)
    given = st.file_uploader("Upload a picture", key=f"upload_{generation}")
    if st.toggle("Use the camera", key=f"camera_on_{generation}"):
        given = st.camera_input("Take a photograph", key=f"camera_{generation}") or given
    st.caption("Your picture stays in this program's memory. It is never written to disk or sent anywhere.")
    if given is not None:
        data = given.getvalue()
        return Subject(data, given.name, digest(given.file_id, data), f"Your picture {given.name}", None)
    sample = samples()[st.session_state.sample]
    data = server.sample_bytes(sample.path)
    return Subject(data, sample.path.name, digest(sample.slug, data), sample.alt, sample)


def digest(identity: str, data: bytes) -> str:
    """The picture's SHA-256, computed once for each picture of the session."""
    known = st.session_state.get("digest")
    if known is None or known[0] != identity:
        st.session_state.digest = known = (identity, hashlib.sha256(data).hexdigest())
    return str(known[1])


def choose_sample(subject: Subject) -> None:
    """The gallery: a thumbnail and a button for each sample."""
    if sentence := st.session_state.pop("notice", None):
        st.html(notice(sentence))
    with st.expander("Sample photographs", expanded=False, icon=":material/photo_library:"):
        with st.container(horizontal=True, gap="xsmall"):
            for sample in samples().values():
                with st.container(width=SAMPLE_SIDE, gap="xsmall"):
                    st.image(thumbnail(sample.path), alt=sample.alt, width=SAMPLE_SIDE)
                    chosen = subject.sample == sample
                    st.button(
                        sample.slug.capitalize(),
                        key=f"sample_{sample.slug}",
                        help=sample.title,
                        type="primary" if chosen else "secondary",
                        width="stretch",
                        on_click=take_sample,
                        args=(sample.slug,),
                    )
        st.caption(" · ".join(sample.credit for sample in samples().values()))


def take_sample(slug: str) -> None:
    """Show a sample in place of what was shown, an upload included."""
    st.session_state.sample = slug
    st.session_state.upload_generation += 1


@st.cache_resource(show_spinner=False)
def thumbnail(path: Path) -> Any:
    """A sample photograph, small and square."""
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        return ImageOps.fit(picture, (2 * SAMPLE_SIDE, 2 * SAMPLE_SIDE))


def choose_model() -> AvailableModel:
    """Any model that is offered, with its size, accuracy and whether it is on this machine."""
    st.subheader("Model")
    models = server.models()
    name = st.selectbox(
        "Model",
        tuple(models),
        key="model",
        format_func=lambda name: describe_model(models[name]),
        on_change=reset_block_and_head,
        label_visibility="collapsed",
    )
    model = models[name]
    if model.variant is None:
        where = f"your own weights ({verbatim(model.weights)})"
    else:
        where = "not on this machine yet (↓)" if model.missing else "on this machine"
    accuracy = f", {model.variant.top1:.1f} % top-1" if model.variant and model.variant.top1 else ""
    st.caption(f"{model.parameters / 1e6:.1f} M parameters{accuracy}, {where}")
    return model


def describe_model(model: AvailableModel) -> str:
    """One line of the list of models, short enough for the sidebar."""
    millions = model.parameters / 1e6
    facts = [model.name, f"{millions:.0f} M" if millions >= 1 else f"{millions:.1f} M"]
    if model.variant and model.variant.top1:
        facts.append(f"{model.variant.top1:.1f} %")
    if model.missing:
        facts.append("↓")
    return " · ".join(facts)


def about_model(model: AvailableModel) -> str:
    """How good the model is that speaks."""
    if model.variant is None:
        return f"Your own weights ({verbatim(model.weights)}), {model.accuracy}."
    if model.variant.repo_id is None:
        return f"The bundled model, trained for this program and not one of the paper's: {model.accuracy}."
    return f"One of the paper's models: {model.accuracy}."


def verbatim(name: str) -> str:
    """A name that a person gave, for Markdown: as code, of which nothing is read as Markdown."""
    quoted = name.replace("`", "'")
    return f"`{quoted}`"


def reset_block_and_head() -> None:
    """Go to the block that serves best as saliency, and to the mean of its heads."""
    st.session_state.block = server.models()[st.session_state.model].saliency_block
    st.session_state.head = MEAN


def choose(label: str, key: str, options: tuple[Any, ...], name: Callable[[Any], str]) -> Any:
    """One of a few options, all of them visible."""
    st.session_state.setdefault(key, options[0])
    return st.segmented_control(
        label, options, key=key, format_func=name, selection_mode="single", required=True
    )


def choose_block_and_head(model: AvailableModel) -> tuple[int, int | None]:
    """A class-attention block and a head of it, or the mean of its heads."""
    st.subheader("Attention")
    blocks = tuple(range(model.config.ca_ffn_layers))
    block = choose("Class-attention block", "block", blocks, lambda block: f"CA block {block + 1}")
    heads: tuple[str | int, ...] = (MEAN, *range(model.config.num_heads))
    head = st.selectbox("Head", heads, key="head", format_func=head_name)
    return block, None if isinstance(head, str) else head


def head_name(head: str | int) -> str:
    """A head as the paper counts them."""
    return "Mean of the heads" if isinstance(head, str) else f"Head {head + 1}"


def choose_look() -> Look:
    """How the maps are drawn."""
    st.subheader("Look")
    style = choose("Style", "style", STYLES, STYLE_NAMES.__getitem__)
    colormap = st.selectbox(
        "Colours",
        (AUTOMATIC, *COLORMAPS),
        key="colormap",
        format_func=lambda name: f"{DEFAULT_COLORMAPS[style]} (this style's)" if name == AUTOMATIC else name,
    )
    opacity = st.slider(
        "Opacity of the map", 0, 100, round(100 * DEFAULT_ALPHA), format="%d %%", key="opacity",
        disabled=style != "overlay",
    )  # fmt: skip
    scale = choose("Colour scale", "scale", SCALES, SCALE_NAMES.__getitem__)
    interpolation = choose("Upsampling", "interpolation", INTERPOLATIONS, INTERPOLATION_NAMES.__getitem__)
    return Look(
        style=style,
        colormap=None if colormap == AUTOMATIC else colormap,
        alpha=opacity / 100,
        interpolation=interpolation,
        scale=scale,
        dim_unseen=DIM_UNSEEN,
    )


def offer_download(variant: Variant) -> None:
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
        bar.progress(
            min(1.0, done / total) if total else 0.0,
            f"Downloading {variant.name}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB",
        )

    try:
        with server.fetching:  # who waits here finds it fetched
            fetch(variant, progress=show)
    except CaitVizError as error:
        place.html(notice(str(error)))
        st.button("Try again", key="retry_download")
        return
    st.rerun()


# The network


def analyse(subject: Subject, model: AvailableModel, view: View) -> Shown | None:
    """The picture's analysis: on the screen already, kept by the server, or asked of a worker.

    If it fails the page says why, once and without asking again, and what was shown before stays, as far
    as there is such.
    """
    key = (subject.sha256, subject.name, model.choice, view)
    shown: Shown | None = st.session_state.get("shown")
    if shown is not None and shown.key == key:
        return shown
    request = Request(subject.data, subject.name, view, model.choice)
    failed_key, error = st.session_state.get("failure", (None, None))
    if failed_key != key:
        try:
            analysis = wait_for(server.analyses.ask(key, request), subject)
        except CaitVizError as failure:
            error = failure
            st.session_state.failure = (key, error)
        else:
            st.session_state.shown = shown = screen_copy(analysis, key, request)
            return shown
    still_there = shown is not None and shown.request.model == model.choice
    st.html(notice(f"{error}. Below is still the picture before it." if still_there else f"{error}."))
    if not isinstance(error, ImageError):
        st.button("Try again", key="retry_analysis", type="primary", on_click=forget_failure)
    return shown if still_there else None


def forget_failure() -> None:
    """Let the picture be asked for again."""
    st.session_state.pop("failure", None)


def screen_copy(analysis: Analysis, key: Hashable, request: Request) -> Shown:
    """What a session keeps of an analysis, made once for each."""
    return Shown(
        key=key,
        request=request,
        small=analysis.reduced(SCREEN_SIDE),
        tile=analysis.seen().reduced(2 * TILE_SIDE),
        size=analysis.size,
        seen=analysis.box.pixels(),
    )


def wait_for(answer: Future[Analysis], subject: Subject) -> Analysis:
    """The answer; while it takes its time, the picture and what is going on."""
    if not wait([answer], timeout=PATIENCE).done:
        place = st.empty()
        with place.container(), st.spinner(WAITING):
            if subject.sample is not None:
                st.image(str(subject.sample.path), alt=subject.alt)
            pulse = st.empty()
            while not wait([answer], timeout=PATIENCE).done:
                pulse.empty()  # lets Streamlit interrupt this run when the person chooses anew
        place.empty()
    return answer.result()


def notice(sentence: str) -> str:
    """A sentence as HTML that stands out.

    Streamlit's own boxes read Markdown, and the name of a file or an address may hold any.
    """
    return f'<p class="notice" role="alert">{html.escape(sentence)}</p>'


# The results


def show_map(shown: Shown, model: AvailableModel, block: int, head: int | None, look: Look) -> None:
    """The chosen map, large, with the predictions beside it."""
    picture, words = st.columns([3, 2], gap="large")
    with picture:
        st.image(
            shown.small.overlay(block, head, **vars(look)),
            alt=f"{shown.small.title(block, head)}.",
            width="stretch",
            output_format="JPEG",
        )
        st.caption(what_is_shown(shown, block, head))
    with words:
        st.subheader(f"What {model.name if model.variant else verbatim(model.name)} says")
        st.html(prediction_list(shown.small))
        st.caption(f"In bold: every class above {percent(CONFIDENT)}. {about_model(model)}")


def what_is_shown(shown: Shown, block: int, head: int | None) -> str:
    """The sentences under the map."""
    left, top, right, bottom = shown.seen
    width, height = shown.size
    if shown.small.view == "whole":
        seen = f"The network saw the whole picture ({width} × {height} pixels), squashed to a square."
    elif (right - left, bottom - top) == (width, height):
        seen = f"The network saw all of its {width} × {height} pixels."
    else:
        seen = (
            f"The network saw {right - left} × {bottom - top} of its {width} × {height} pixels, and not what "
            "is dimmed."
        )
    which = "mean of the heads" if head is None else f"head {head + 1}"
    numbers = ", ".join(concentration(shown.small, block, head))
    return f"CA block {block + 1}, {which}: {numbers}. {seen}"


def concentration(analysis: Analysis, block: int, head: int | None) -> list[str]:
    """What stretching a map to its full range throws away, in words."""
    numbers = analysis.concentration(block, head)
    return [
        f"itself {percent(numbers.class_token)}",
        f"{numbers.patches:.0f} patches",
        f"entropy {numbers.entropy:.2f} nats",
    ]


def prediction_list(analysis: Analysis) -> str:
    """The five most probable classes and every class above the mark, as a list with bars."""
    confident = len(analysis.confident())
    rows = [
        f'<li class="{"confident" if rank < confident else ""}"><div class="line"><span>{html.escape(label)}'
        f'</span><span class="share">{percent(share)}</span></div>'
        f'<div class="bar" style="width:{100 * share:.1f}%"></div></li>'
        for rank, (label, share) in enumerate(analysis.top(max(5, confident)))
    ]
    return f'<ol class="predictions">{"".join(rows)}</ol>'


def show_heads(shown: Shown, look: Look) -> None:
    """Every head of every class-attention block, as in the paper's Figure 6; each can be chosen."""
    st.subheader("Every head")
    rows, columns = shown.tile.grid_shape
    st.markdown(
        "Under each map: the attention that the class token keeps for itself, over how many of the "
        f"{rows * columns} patches the rest spreads, and the entropy that this is computed from."
    )
    for block in range(shown.tile.blocks):
        st.markdown(f"**CA block {block + 1}**")
        with st.container(horizontal=True, gap="small"):
            for head in (None, *range(shown.tile.heads)):
                with st.container(width=TILE_SIDE, gap="xsmall"):
                    show_tile(shown.tile, block, head, look)


def show_tile(tile: Analysis, block: int, head: int | None, look: Look) -> None:
    """One small map with its numbers and the button that chooses it."""
    st.image(
        tile.overlay(block, head, **vars(look)),
        alt=tile.title(block, head),
        width=TILE_SIDE,
        output_format="JPEG",
    )
    state_head = MEAN if head is None else head
    chosen = (st.session_state.block, st.session_state.head) == (block, state_head)
    st.button(
        "Mean" if head is None else f"Head {head + 1}",
        key=f"tile_{block}_{state_head}",
        type="primary" if chosen else "secondary",
        width="stretch",
        help=f"Show CA block {block + 1}, {head_name(state_head).lower()}",
        on_click=take_head,
        args=(block, state_head),
    )
    st.caption("  \n".join(concentration(tile, block, head)))


def take_head(block: int, head: str | int) -> None:
    """Show the head whose button was pressed."""
    st.session_state.block = block
    st.session_state.head = head


def show_downloads(shown: Shown, block: int, head: int | None, look: Look) -> None:
    """Files to keep; each is made when its button is pressed, and none reruns the page."""
    st.subheader("Keep it")
    names, whole = shown.small, shown.whole
    figure_look: dict[str, Any] = {
        "colormap": look.colormap,
        "interpolation": look.interpolation,
        "scale": look.scale,
    }
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        file_format = st.selectbox("Format of the figures", FIGURE_FORMATS, format_func=str.upper, width=180)
        offers: list[tuple[str, str, str, Callable[[], bytes]]] = [
            (
                "This map (PNG)",
                f"{names.file_stem(block, head)}_{look.style}.png",
                "image/png",
                lambda: whole().png(block, head, **vars(look)),
            ),
            (
                f"Figure 6: all heads ({file_format.upper()})",
                f"{names.file_prefix}_heads.{file_format}",
                FIGURE_FORMATS_MIME[file_format],
                lambda: whole().figure("heads", file_format, **figure_look),
            ),
            (
                f"Figure 7: saliency ({file_format.upper()})",
                f"{names.file_prefix}_ca{block}_saliency.{file_format}",
                FIGURE_FORMATS_MIME[file_format],
                lambda: whole().figure("saliency", file_format, block=block, **figure_look),
            ),
            (
                "Every map (ZIP)",
                f"{names.file_prefix}_maps.zip",
                "application/zip",
                lambda: whole().archive(**vars(look)),
            ),
            (
                "The numbers (NPZ)",
                f"{names.file_prefix}.npz",
                "application/octet-stream",
                lambda: whole().npz(),
            ),
        ]
        for label, file_name, mime, make in offers:
            st.download_button(
                label, make, file_name, mime, key=f"download_{file_name}", on_click="ignore",
                icon=":material/download:",
            )  # fmt: skip
    st.caption(
        "Maps have the picture's own resolution and carry what made them in the file. "
        "File names count blocks and heads from 0, as the keys in the numbers do."
    )


FIGURE_FORMATS_MIME = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf"}


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
