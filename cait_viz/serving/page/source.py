"""The image to look at: an upload, a photograph from the camera, a web address or a sample."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import streamlit as st
from PIL import Image, ImageOps
from starlette.formparsers import MultiPartParser
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.scriptrunner import get_script_run_ctx

from cait_viz._resources import SAMPLES
from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images.read import load_thumbnail
from cait_viz.images.web import address_name, fetch
from cait_viz.serving.page.components.assets import data_address
from cait_viz.serving.page.components.choice import Option, choose_option
from cait_viz.serving.page.components.drop import accept_drops
from cait_viz.serving.page.markup import notice
from cait_viz.serving.page.visitor import allowance

# Side of a sample's thumbnail in pixels.
_THUMBNAIL_SIDE = 56
# Its side on a phone, in pixels.
_NARROWEST = 30
# Widths in pixels.
_UPLOADER_WIDTH = 110
_CAMERA_WIDTH = 400
# The container of all that an image is chosen with.
_STRIP = "strip"
# Of the images that a person gave, the last are kept: so many, and files of so many bytes together.
MOST_IMAGES = 24
MOST_BYTES = 32 * 2**20
# Of the caption of a thumbnail, in characters.
_LONGEST_CAPTION = 8
# Stands for an image that cannot be read.
_UNREADABLE = Image.new("RGB", (1, 1), "#8c8489")
# Room for what surrounds an upload in its request, in bytes.
_MULTIPART_HEADERS = 2**20


@dataclass(frozen=True)
class Sample:
    """A photograph of the gallery; `slug` names it in the address."""

    slug: str
    path: Path
    title: str
    alt: str
    credit: str

    @cached_property
    def chosen(self) -> "ChosenImage":
        """The photograph as the image to look at."""
        return ChosenImage(self.slug, self.path.read_bytes(), self.path.name, self)


@dataclass(frozen=True)
class ChosenImage:
    """The image to look at: its file's bytes and name."""

    key: str  # tells it from all others; the same for the same file of the same name, whoever gives it
    data: bytes
    name: str
    sample: Sample | None = None  # that it is, if it is one

    @cached_property
    def thumbnail(self) -> str:
        """The address that holds the image, small and square; a gray one where it cannot be read."""
        side = 2 * _THUMBNAIL_SIDE
        try:
            image = load_thumbnail(self.data, self.name, side)
        except ImageError:
            image = _UNREADABLE
        return data_address(ImageOps.fit(image, (side, side)))


def keep_uploads_off_the_disk() -> None:
    """Let the web server hold a whole upload in memory; by itself it spools all above 1 MB to a file."""
    MultiPartParser.spool_max_size = st.get_option("server.maxUploadSize") * 2**20 + _MULTIPART_HEADERS


@st.cache_resource(show_spinner=False)
def samples() -> dict[str, Sample]:
    """The gallery, by slug."""
    entries = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    gallery = {}
    for entry in entries:
        path, title = SAMPLES / entry["file"], entry["title"]
        credit = f"{title}: {entry['author']}, {entry['license']}"
        gallery[path.stem] = Sample(path.stem, path, title, entry["alt"], credit)
    return gallery


def choose_image() -> ChosenImage:
    """The strip: the samples, and a person's own image by upload, camera or web address.

    Gives the image that was given last, by whichever of the widgets; a sample where none was.
    """
    state = st.session_state
    with st.container(key=_STRIP, horizontal=True, vertical_alignment="center", gap="small"):
        thumbnails = st.container()
        # A new uploader for each upload: one that holds an image gives it up before it takes the next, and
        # the page would show a sample in between.
        key = f"upload_{state.setdefault('uploads', 0)}"
        st.file_uploader(
            "Upload images", key=key, on_change=_take_uploads, args=(key,), accept_multiple_files=True,
            label_visibility="collapsed", width=_UPLOADER_WIDTH,
        )  # fmt: skip
        number = state.setdefault("given_number", 0)
        url = _ask_address(f"web_{number}")
        camera_on = st.toggle("Camera", key=f"camera_on_{number}", width="content")
        accept_drops(_STRIP)
        own = st.container(key="own_images") if own_images() else None
    if camera_on:
        key = f"camera_{number}"
        st.camera_input(
            "Take a photograph", key=key, on_change=_take_photograph, args=(key,), width=_CAMERA_WIDTH
        )
    _fetch(url)
    if sentence := state.pop("notice", None):
        st.html(notice(sentence))
    given = shown_given_image()
    with thumbnails:
        _choose_sample(None if given else state.sample)
    if own is not None:
        with own:
            _choose_own(given)
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="origin"):
        if given is not None:
            st.button("Remove your image", key="remove", type="tertiary", on_click=_remove_given_image)
        st.caption(
            f"Drop or paste your own (up to {st.get_option('server.maxUploadSize')} MB): it stays in this "
            "program's memory, never written to disk or sent anywhere.",
            help="An image at a web address, https or http, is fetched by this program, not your browser. "
            f"Of your own images the last {MOST_IMAGES} are kept, of {MOST_BYTES // 2**20} MB together.",
            width="content",
        )
        with st.popover("Credits", type="tertiary"):
            st.caption("  \n".join(sample.credit for sample in samples().values()))
    if given is not None:
        return given
    return samples()[state.sample].chosen


def shown_given_image() -> ChosenImage | None:
    """The image that the person gave, unless a sample is shown in its place."""
    state = st.session_state
    given: ChosenImage | None = state.get("given") if state.get("shows_given") else None
    return given


def show_given_image(shows: bool) -> None:
    """Show the image that the person gave last, or a sample in its place."""
    state = st.session_state
    state.shows_given = shows
    if not shows:
        # A widget under a new key is a new one, and empty.
        state.given_number = state.get("given_number", 0) + 1


def own_images() -> Mapping[str, ChosenImage]:
    """The images that the person gave and that are kept, by key, the last one at the end."""
    kept: dict[str, ChosenImage] = st.session_state.setdefault("given_images", {})
    return kept


def _give(files: Iterable[tuple[str, bytes]], *, counted: bool = False) -> None:
    """Take images of the person's, by name, look at the last one, and say which are not taken or kept.

    Those that are `counted` have been taken from what is allowed a minute.
    """
    state, allowed = st.session_state, allowance()
    taken: list[ChosenImage] = []
    refused: list[str] = []
    for name, data in files:
        if counted or allowed.take():
            key = hashlib.sha256(name.encode(errors="replace") + b"\0" + data).hexdigest()
            taken.append(ChosenImage(key, data, name))
        else:
            refused.append(name)
    if "web_answer" in state:  # what failed before is of no interest now
        state.web_answer = (state.web_answer[0], None)
    own = state.given_images = _last([*own_images().values(), *taken])
    if taken:
        state.update(given=taken[-1], shows_given=True)
    sentences = []
    if lost := [image.name for image in taken if image.key not in own]:
        limit = f"the last {MOST_IMAGES} images are kept, of {MOST_BYTES // 2**20} MB together"
        sentences.append(f"{_some(lost)}: not kept; {limit}.")
    if refused:
        sentences.append(f"{_some(refused)}: {allowed.refusal}.")
    if sentences:
        state.notice = " ".join(sentences)


def _last(images: Sequence[ChosenImage]) -> dict[str, ChosenImage]:
    """The last images for which there is room, by key; one that was given twice where it was given last."""
    images = list({image.key: image for image in reversed(images)}.values())[::-1]
    sizes = accumulate(len(image.data) for image in reversed(images))
    count = min(MOST_IMAGES, max(1, sum(size <= MOST_BYTES for size in sizes)))
    return {image.key: image for image in images[-count:]}


def _some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _remove_given_image() -> None:
    state = st.session_state
    state.given_images = {key: image for key, image in own_images().items() if key != state.given.key}
    state.given = None
    show_given_image(False)


def _take_uploads(key: str) -> None:
    """Look at the files in the uploader of that key."""
    files = st.session_state[key]
    _give((file.name, file.getvalue()) for file in files)
    st.session_state.uploads += 1
    # Streamlit would keep every upload until the page is closed, and knows no other way to give it up.
    context = get_script_run_ctx()
    if context is not None and isinstance(context.uploaded_file_mgr, MemoryUploadedFileManager):
        for file in files:
            context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)


def _take_photograph(key: str) -> None:
    """Look at the photograph in the camera of that key; without one the image stays."""
    if file := st.session_state[key]:
        _give([(file.name, file.getvalue())])


def _ask_address(key: str) -> str:
    """A field for the web address of an image."""
    return st.text_input(
        "Web address of an image",
        key=key,
        placeholder="Web address",
        label_visibility="collapsed",
    ).strip()


def _fetch(url: str) -> None:
    """Take the image at a web address, once; after a failure the one before it stays."""
    state = st.session_state
    asked, error = state.get("web_answer", ("", None))
    if asked != url:
        error = None
        if url:
            try:
                if not allowance().take():  # before it is fetched: a failure costs this program as much
                    raise ImageError(f"{address_name(url)}: {allowance().refusal}")
                with st.spinner("Fetching the image"):
                    data = fetch(url, allow_private=False)
                _give([(address_name(url), data)], counted=True)
            except CaitVizError as failure:
                error = str(failure)
        state.web_answer = (url, error)
    if error:
        st.html(notice(f"{error}."))
        st.button("Try again", key="retry_web", on_click=lambda: state.pop("web_answer"))


def _choose_sample(slug: str | None) -> None:
    """A thumbnail for each sample, the one of that slug being chosen."""
    options = [
        Option(sample.slug, sample.chosen.thumbnail, sample.alt, sample.title, help=sample.title)
        for sample in samples().values()
    ]
    choose_option(
        "Sample photograph", {"": options}, slug, "samples", _take_sample, _THUMBNAIL_SIDE, _NARROWEST
    )


def _take_sample(slug: str) -> None:
    st.session_state.sample = slug
    show_given_image(False)


def _choose_own(given: ChosenImage | None) -> None:
    """A thumbnail for each image that the person gave."""
    options = [
        Option(
            image.key, image.thumbnail, f"Your image {number}", image.name, _end(image.name), help=image.name
        )
        for number, image in enumerate(own_images().values(), 1)
    ]
    chosen = None if given is None else given.key
    choose_option("Your image", {"": options}, chosen, "own", _take_own, _THUMBNAIL_SIDE, None)


def _end(name: str) -> str:
    """As much of a file's name as has room under its thumbnail: cameras tell images apart at its end."""
    stem = Path(name).stem
    return stem if len(stem) <= _LONGEST_CAPTION else f"…{stem[1 - _LONGEST_CAPTION :]}"


def _take_own(key: str) -> None:
    if image := own_images().get(key):
        st.session_state.given = image
        show_given_image(True)
