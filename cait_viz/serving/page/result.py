"""The analysis of the chosen image, and what a session keeps of it."""

from collections.abc import Callable, Hashable
from concurrent.futures import wait
from dataclasses import dataclass

import streamlit as st

from cait_viz import api
from cait_viz.analysis import Analysis
from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images.preprocess import View
from cait_viz.serving.engines import Found, Request
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.page.markup import notice
from cait_viz.serving.page.source import ChosenImage, Sample
from cait_viz.serving.state import server

# Sides in pixels: of the large map on the screen, of a head's map in the grid.
SCREEN_SIDE = 1024
TILE_SIDE = 160

# After this many seconds of waiting the page says what it waits for.
_PATIENCE = 0.3


@dataclass(frozen=True)
class ScreenResult:
    """What a session keeps of an analysis: copies that fit a screen, a few megabytes.

    The whole one is the server's, whose memory for them is bounded, or is made again from the request.
    """

    key: Hashable  # tells this analysis from all others
    request: Request[Analysis]
    small: Analysis  # with a copy of the image for the large map
    tile: Analysis  # with a small copy of what the network saw
    size: tuple[int, int]  # width and height of the image itself, in pixels
    seen: tuple[int, int, int, int]  # left, top, right and bottom of what the network saw of it

    def whole(self) -> Analysis:
        """The analysis itself, with the image in its own resolution."""
        return server().answers.ask(self.key, self.request).result()


def analyze(image: ChosenImage, model: AvailableModel, view: View) -> ScreenResult | None:
    """The image's analysis: the session's last one, kept by the server, or asked for now.

    If it fails the page says why, once and without asking again, and shows what it showed before, if that
    was of the same model.
    """
    state = st.session_state
    key = (image.key, image.name, model.choice, view)
    result: ScreenResult | None = state.get("result")
    if result is not None and result.key == key:
        return result
    request = Request(image.data, image.name, view, model.choice, api.analyze)
    failed_key, error = state.get("failure", (None, None))
    if failed_key != key:
        try:
            analysis = _wait_for(key, request, image.sample)
        except CaitVizError as failure:
            error = failure
            state.failure = (key, error)
        else:
            small, tile = analysis.reduced(SCREEN_SIDE), analysis.seen().reduced(2 * TILE_SIDE)
            state.result = ScreenResult(key, request, small, tile, analysis.size, analysis.box.pixels())
            return state.result
    still_there = result is not None and result.request.model == model.choice
    st.html(notice(f"{error}. Below is still the image before it." if still_there else f"{error}."))
    if not isinstance(error, ImageError):
        st.button(
            "Try again", key="retry_analysis", type="primary", on_click=state.pop, args=("failure", None)
        )
    return result if still_there else None


def ask(
    result: ScreenResult,
    question: Callable[..., Found],
    about: Hashable,
    *,
    long: bool = False,
    told: str = "",
) -> Found | None:
    """The answer to another question about the image of a result; None where it fails, and the page says why.

    Args:
        result: of the image, the view and the model that the question is about.
        question: a function of `cait_viz.api`.
        about: tells the question from all others about them.
        long: whether it takes seconds; it is then given `progress`, and may have a bar.
        told: what the page says while it is being answered.
    """
    try:
        asked = result.request
        request = Request(asked.image, asked.image_name, asked.view, asked.model, question, long)
        return _wait_for((result.key, about), request, told=told)
    except CaitVizError as error:
        st.html(notice(f"{error}."))
        return None


def _wait_for(key: Hashable, request: Request[Found], sample: Sample | None = None, told: str = "") -> Found:
    """The answer; while it takes its time, the sample and what is going on."""
    answer = server().answers.ask(key, request)
    try:
        if not wait([answer], timeout=_PATIENCE).done:
            place = st.empty()
            with place.container(key="waiting" if sample else None):
                said = st.empty()
                if sample is not None:
                    st.image(str(sample.path), alt=sample.alt)
                pulse = st.empty()
                while not answer.done():
                    stage, running = answer.stage, answer.running()
                    with said, st.spinner(told if running and told else stage):
                        while (answer.stage, answer.running()) == (stage, running) and not wait(
                            [answer], timeout=_PATIENCE
                        ).done:
                            # Either lets Streamlit interrupt this run when the person chooses anew.
                            if answer.share is None:
                                pulse.empty()
                            else:
                                pulse.progress(min(1.0, answer.share))
            place.empty()
        return answer.result()
    finally:
        server().answers.leave(answer)
