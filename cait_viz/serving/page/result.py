"""The analysis of the chosen image, and what a session keeps of it."""

from collections.abc import Callable, Hashable
from concurrent.futures import wait
from dataclasses import dataclass, replace

import streamlit as st

from cait_viz import api
from cait_viz._sizes import ImageSize
from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images.preprocess import View, fitted_size
from cait_viz.results.analysis import Analysis
from cait_viz.serving.answers import Found
from cait_viz.serving.engines import Request
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.page.address import DETAILS
from cait_viz.serving.page.markup import notice, waiting
from cait_viz.serving.page.source import ChosenImage, Sample
from cait_viz.serving.page.visitor import visitor
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

    key: Hashable  # tells what was chosen from all other choices
    answer: Hashable  # tells the answer to the request from all others
    image: ChosenImage
    view: str  # the part of the image that was chosen, and the resolution
    detail: str
    request: Request[Analysis]
    small: Analysis  # with a copy of the image for the large map
    tile: Analysis  # with a small copy of what the network saw
    size: tuple[int, int]  # width and height of the image itself, in pixels
    seen: tuple[int, int, int, int]  # left, top, right and bottom of what the network saw of it
    trained: Analysis | None  # what the network says at the size that it was trained for, if this is another

    def whole(self) -> Analysis:
        """The analysis itself, with the image in its own resolution."""
        answers, request = server().answers, self.request
        answer = answers.ask(self.answer, request)
        try:
            return answer.result()
        finally:
            answers.leave(answer, request.session)


def analyze(image: ChosenImage, model: AvailableModel, view: str, detail: str) -> ScreenResult | None:
    """The image's analysis: the session's last one, kept by the server, or asked for now.

    If it fails the page says why, once and without asking again, and shows what it showed before, if that
    was of the same model.
    """
    state = st.session_state
    key = (image.key, image.name, model.choice, view, detail)
    result: ScreenResult | None = state.get("result")
    if result is not None and result.key == key:
        return result
    failed_key, error = state.get("failure", (None, None))
    if failed_key != key:
        try:
            state.result = _analyze(key, image, model, view, detail)
        except CaitVizError as failure:
            error = failure
            state.failure = (key, error)
        else:
            return state.result
    still_there = result is not None and replace(result.request.model, image_size=None) == model.choice
    before = "what was asked before" if result and result.image == image else "the image before it"
    st.html(notice(f"{error}. Below is still {before}." if still_there else f"{error}."))
    if not isinstance(error, ImageError):
        st.button(
            "Try again", key="retry_analysis", type="primary", on_click=state.pop, args=("failure", None)
        )
    return result if still_there else None


def _analyze(
    key: Hashable, image: ChosenImage, model: AvailableModel, view: str, detail: str
) -> ScreenResult:
    """The analysis of an image; at another size than the trained one, that one's comes first."""

    def answer(view: View, size: ImageSize | None) -> tuple[Hashable, Request[Analysis], Analysis]:
        choice = replace(model.choice, image_size=size)
        request = Request(image.data, image.name, view, choice, api.analyze, session=visitor())
        key = (image.key, image.name, choice, view)
        return key, request, _wait_for(key, request, image.sample)

    trained = None
    found = answer("squash" if view == "squash" else "crop", None)
    if view == "fit" or detail != DETAILS[0]:
        *_, trained = found
        patch = trained.model.patch_size
        side = round(float(detail) * trained.model.trained_size / patch) * patch
        size = fitted_size(trained.size, side, patch) if view == "fit" else side
        own = size == trained.model.trained_size
        found = answer("crop" if view == "crop" else "squash", None if own else size)
        trained = None if own else trained
    answer_key, request, analysis = found
    return ScreenResult(
        key=key,
        answer=answer_key,
        image=image,
        view=view,
        detail=detail,
        request=request,
        small=analysis.reduced(SCREEN_SIDE),
        tile=analysis.seen().reduced(2 * TILE_SIDE),
        size=analysis.size,
        seen=analysis.box.pixels(),
        trained=trained and trained.reduced(TILE_SIDE),
    )


def answer_beside(result: ScreenResult, image: ChosenImage, model: AvailableModel) -> ScreenResult:
    """The analysis of an image beside another, with the same part of the image and resolution.

    Raises:
        CaitVizError: it fails.
    """
    state = st.session_state
    key = (image.key, image.name, model.choice, result.view, result.detail)
    kept: ScreenResult | None = state.get("other_result")
    if kept is None or kept.key != key:
        kept = state.other_result = _analyze(key, image, model, result.view, result.detail)
    return kept


def ask(
    result: ScreenResult,
    question: Callable[..., Found],
    about: Hashable,
    *,
    long: bool = False,
    status: str = "",
) -> Found | None:
    """The answer to another question about the image of a result; None where it fails, and the page says why.

    Args:
        result: the result for the image, the view and the model that the question is about.
        question: a function of `cait_viz.questions`.
        about: tells the question from all others about them.
        long: whether it takes seconds; it is then given `progress`, and may have a bar.
        status: what the page says while it is being answered.
    """
    try:
        asked = result.request
        request = Request(asked.image, asked.image_name, asked.view, asked.model, question, long, visitor())
        return _wait_for((result.key, about), request, status=status)
    except CaitVizError as error:
        st.html(notice(f"{error}."))
        return None


def _wait_for(
    key: Hashable, request: Request[Found], sample: Sample | None = None, status: str = ""
) -> Found:
    """The answer; while it takes its time, the sample and what is going on."""
    with server().turns.away():
        return _wait(key, request, sample, status)


def _wait(key: Hashable, request: Request[Found], sample: Sample | None, status: str) -> Found:
    answer = server().answers.ask(key, request)
    try:
        if not wait([answer], timeout=_PATIENCE).done:
            place = st.empty()
            # Of its own, because a run may wait several times.
            with place.container(key=f"waiting_{abs(hash(key))}" if sample else None):
                said = st.empty()
                if sample is not None:
                    st.image(str(sample.path), alt=sample.alt)
                bar = st.empty()
                while True:
                    # Either lets Streamlit interrupt this run when the person chooses anew.
                    said.html(waiting(status if answer.running() and status else answer.stage))
                    if answer.share is not None:
                        bar.progress(min(1.0, answer.share))
                    if wait([answer], timeout=_PATIENCE).done:
                        break
            place.empty()
        return answer.result()
    finally:
        server().answers.leave(answer, request.session)
