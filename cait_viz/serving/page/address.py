"""The address bar: a link or the Back button restores the question, sample, model and what else was chosen.

Streamlit adds a step to the browser's history whenever `st.query_params` changes, and runs the script again
with the old parameters on Back and Forward, but with the widgets as they are.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain
from math import ceil, prod
from typing import Any, get_args

import streamlit as st
from streamlit.runtime.state import SessionStateProxy

from cait_viz._text import one_line
from cait_viz.drawing.overlay import STYLES
from cait_viz.results.comparison import MapName
from cait_viz.serving.models import SAME, AvailableModel
from cait_viz.serving.page.source import own_images, samples, show_given_image, shown_given_image
from cait_viz.serving.state import server

# Takes what an address asks for by a name, if it is one of the options, of which the first is the default.
Take = Callable[[str, Sequence[Any]], None]

MEAN = "mean"
# The part of the image: its center, all of it in its own shape, or squashed to a square.
PARTS = ("crop", "fit", "squash")
# Times the resolution that a network was trained at.
DETAILS = ("1", "1.5", "2")

_NOT_THERE = "The link names what does not exist:"


# No patch is chosen; the class is the most probable one.
NONE, TOP = "none", "top"

# Keys in the session's state, which are those of the widgets: what is in the address, what is in it while a
# question is asked, and what never is.
_IN_ADDRESS = ("question", "model", "sample", "block", "head", "style", "view", "detail")
_OF_QUESTION = {
    "look": ("patch",),
    "path": ("patch", "sa_block", "sa_head", "direction", "scores", "depth"),
    "why": ("patch", "class"),
    "compare": ("map", "other", "other_model", "other_map", "other_block", "other_head", "ranges", "shown"),
}
# What is chosen in one image, by one model: for another it is the default again.
_OF_IMAGE = {"patch": NONE, "class": TOP}
# What an address does not say: the defaults of those, and an image that the person gave.
_UNSAID = set(_OF_IMAGE.items())
_NOT_IN_ADDRESS = ("colormap", "opacity", "scale", "interpolation")


def follow_address(questions: Sequence[str]) -> None:
    """Take the choices from the address, in a new session and after Back or Forward; before any widget.

    `questions` are those that the page answers, the first being the default.

    An address that differs from the last one while a widget has changed too is no step in the history:
    the person was faster than the page, and the browser sent the address from before their last choice.
    A widget has not changed that is as the page set it, or as it was when the browser sent it last: a second
    Back comes before the page's answer to the first.
    """
    state, address = st.session_state, st.query_params.to_dict()
    # The browser sends the text of an option, not the option. A model's text changes with its download (↓);
    # the value is assigned anew, which brings the browser the new text.
    if "model" in state:
        state.model = state.model
    _keep_choices(questions)
    sent = _choices()
    before = state.get("choices_sent", sent)
    state.choices_sent = sent
    if last := state.get("address_and_choices"):
        changed = [name for name, value in sent.items() if value not in (before.get(name), last[1].get(name))]
        if address == last[0] or changed:
            return
    choices, unknown = _parse(address, questions)
    state.update(choices)
    show_given_image("sample" not in address and bool(address))
    if unknown:
        state.notice = f"{_NOT_THERE} {', '.join(unknown)} (counted from 0)."
    state.pop("chosen_in", None)
    state.address_and_choices = (address, _choices())
    state.said_by_address = None if unknown else _written(choices)


def forget_choices_of_another(key: Hashable) -> None:
    """Take back what was chosen in another image, or by another model; `key` tells which this is."""
    state = st.session_state
    if state.setdefault("chosen_in", key) != key:
        state.update(_OF_IMAGE, chosen_in=key)


def chosen_patch(grid_shape: tuple[int, int]) -> int | None:
    """The patch that is chosen in a grid, row by row from the top left, or None."""
    state = st.session_state
    patch: int | str = state.patch
    if isinstance(patch, str):
        return None
    if patch >= prod(grid_shape):
        state.patch, state.notice = NONE, f"{_NOT_THERE} patch {patch} (counted from 0)."
        st.rerun()
    return patch


def choose_patch(patch: int | None) -> None:
    """Choose a patch, or with None take the choice back."""
    st.session_state.patch = NONE if patch is None else patch


def write_address(sample: str | None) -> None:
    """Put the choices into the address, unless the address that the person came with says the same.

    A person's own image, for which `sample` is None, is not in the address.
    """
    state = st.session_state
    choices = _written(state)
    if not sample:
        del choices["sample"]
    address = state.address_and_choices[0]
    # The browser may not have got the last address yet, or never, if its run was ended.
    late = st.query_params.to_dict() != address
    changed = choices != state.said_by_address
    state.said_by_address = choices
    # First, because a newer choice may end this run when the address is sent.
    state.address_and_choices = (choices if changed or late else address, _choices())
    if changed or late:
        st.query_params.from_dict(choices)


def reset_block_and_head() -> None:
    """Go to the block of the chosen model that serves best as saliency, and to the mean of its heads."""
    state = st.session_state
    state.block, state.head = server().models[state.model].saliency_block, MEAN
    if state.get("other_model") == SAME:
        reset_other_block_and_head()


def reset_other_block_and_head() -> None:
    """The same for the second map of a comparison."""
    state = st.session_state
    name = state.model if state.other_model == SAME else state.other_model
    state.other_block, state.other_head = server().models[name].saliency_block, MEAN


def comparable_models() -> dict[str, AvailableModel]:
    """The models whose weights are on this machine, by name."""
    return {name: model for name, model in server().models.items() if not server().missing(model)}


def _keep_choices(questions: Sequence[str]) -> None:
    """Keep what was chosen for one question, which Streamlit forgets while another is asked.

    What was never chosen, and what another model does not have, is the default.
    """
    state = st.session_state
    for name in chain(_NOT_IN_ADDRESS, *_OF_QUESTION.values()):
        if name in state:
            state[name] = state[name]
    if asked := _OF_QUESTION.get(state.get("question", "")):
        chosen = {name: str(state[name]) for name in ("question", "model", *asked) if name in state}
        choices, _ = _parse(chosen, questions)
        state.update({name: choices[name] for name in asked})


def _in_address() -> tuple[str, ...]:
    return (*_IN_ADDRESS, *_OF_QUESTION.get(st.session_state.get("question", ""), ()))


def _written(values: Mapping[str, Any] | SessionStateProxy) -> dict[str, str]:
    """What of these values an address holds."""
    unsaid = _UNSAID | {("other", key) for key in own_images()}
    said = [name for name in _in_address() if (name, values[name]) not in unsaid]
    return {name: str(values[name]) for name in said}


def _choices() -> dict[str, Any]:
    """All that a person has chosen, the image that they gave too."""
    given = shown_given_image()
    names = (*_in_address(), *_NOT_IN_ADDRESS)
    return {"": given and given.key} | {name: st.session_state.get(name) for name in names}


def _parse(address: Mapping[str, str], questions: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The choices that an address asks for, and what of them does not exist and is the default instead."""
    choices: dict[str, Any] = {}
    unknown = []

    def take(name: str, options: Sequence[Any]) -> None:
        known = {str(option): option for option in options}
        text = address.get(name, str(options[0]))
        if text not in known:
            unknown.append(f"{name} {one_line(text, 40)}")
        choices[name] = known.get(text, options[0])

    take("question", questions)
    models = server().models
    take("model", (server().first_model, *models))
    model = models[choices["model"]]
    sample = st.session_state.get("sample")  # stays where the address is of an image that the person gave
    take("sample", [sample, *samples()] if sample and address else list(samples()))
    take("block", (model.saliency_block, *range(model.config.ca_ffn_layers)))
    take("head", (MEAN, *range(model.config.num_heads)))
    take("style", STYLES)
    take("view", PARTS)
    take("detail", DETAILS)
    if choices["question"] == "compare":
        _take_comparison(choices, take)
        return choices, unknown
    # An input of another shape has about as many patches as a square one.
    patches = ceil(1.4 * prod(model.config.grid_shape) * float(choices["detail"]) ** 2)
    take("patch", (NONE, *range(patches)))
    if choices["question"] == "path":
        _take_path(choices, take)
    if choices["question"] == "why":
        take("class", (TOP, *range(model.config.num_classes)))
    return choices, unknown


def _take_path(choices: dict[str, Any], take: Take) -> None:
    """What an address asks for of the self-attention blocks."""
    config = server().models[choices["model"]].config
    take("sa_block", (config.sa_ffn_layers - 1, *range(config.sa_ffn_layers)))
    take("sa_head", (MEAN, *range(config.num_heads)))
    take("direction", ("out", "in"))
    take("scores", ("softmax", "mixed"))
    take("depth", (config.sa_ffn_layers, *range(config.sa_ffn_layers)))


def _take_comparison(choices: dict[str, Any], take: Take) -> None:
    """What an address asks for of the second map."""
    first, *others = get_args(MapName)
    take("map", (first, *others))
    take("other_map", (*others, first))
    own = list(own_images())
    kept = [image for image in own if image == st.session_state.get("other")]
    take("other", (*kept, SAME, *samples(), *own))
    models = comparable_models()
    take("other_model", (SAME, *models))
    other = (
        server().models[choices["model"]]
        if choices["other_model"] == SAME
        else models[choices["other_model"]]
    )
    take("other_block", (other.saliency_block, *range(other.config.ca_ffn_layers)))
    take("other_head", (MEAN, *range(other.config.num_heads)))
    take("ranges", ("own", "shared"))
    take("shown", ("beside", "line"))
