"""What the model says is in the image."""

import html
from collections.abc import Iterable
from itertools import repeat

import streamlit as st

from cait_viz.drawing.figures import percent
from cait_viz.results.analysis import CONFIDENT
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.page.markup import verbatim
from cait_viz.serving.page.result import ScreenResult
from cait_viz.weights.registry import BUNDLED


def show_predictions(result: ScreenResult, model: AvailableModel) -> None:
    """The classes, and of ImageNet's the kinds, with how good the model is."""
    analysis, trained = result.small, result.trained
    st.header(f"What {model.name if model.variant else verbatim(model.name)} says", anchor=False)
    kinds = analysis.kinds()
    best = analysis.top(max(5, len(analysis.confident())))
    # By their places: two classes may have one name.
    before = trained.probabilities[analysis.ranking] if trained else None
    lists = ranked_list(best, "predictions", "Classes", before)
    if kinds and model.variant is BUNDLED:  # it is better at kinds than at classes
        shares = dict(trained.kinds()) if trained else {}
        of_kinds = [shares[kind] for kind, _ in kinds[:3]] if trained else None
        lists = ranked_list(kinds[:3], "kinds", "Kinds of things", of_kinds) + lists
    st.html(f'<div class="lists">{lists}</div>')
    if trained is not None:
        [(label, share)] = trained.top(1)
        of_center = " of the center" if result.view == "fit" else ""
        st.caption(
            f"**Not as it was trained.** The network saw {analysis.model.input_size} pixels and was trained "
            f"at {trained.model.input_size}. In parentheses: what it says there{of_center}, where the most "
            f"probable class is {verbatim(label)}, {percent(share)}."
        )
    kind = "" if model.variant is BUNDLED or not kinds else f"Kind: {kinds[0][0]}, {percent(kinds[0][1])}. "
    st.caption(
        f"{kind}{about_model(model)}",
        help=f"In bold: what is above {percent(CONFIDENT)}. A kind adds up the probabilities of its classes."
        if kinds
        else f"In bold: what is above {percent(CONFIDENT)}.",
    )


def ranked_list(
    shares: list[tuple[str, float]], name: str, heading: str, trained: Iterable[float] | None = None
) -> str:
    """Names with their probabilities and bars under a heading, those above the mark in bold.

    `trained` are their probabilities, in the same order and perhaps more, at the size that the network was
    trained for; they are shown in parentheses.
    """
    before = repeat("") if trained is None else (f" ({percent(share)})" for share in trained)
    rows = [
        f'<li class="{"confident" if share > CONFIDENT else ""}"><div class="line"><span>{html.escape(label)}'
        f'</span><span class="share">{percent(share)}{at_size}</span></div>'
        f'<div class="bar" style="width:{100 * share:.1f}%"></div></li>'
        for (label, share), at_size in zip(shares, before, strict=False)
    ]
    return f'<section><h3>{heading}</h3><ol class="ranked {name}">{"".join(rows)}</ol></section>'


def about_model(model: AvailableModel) -> str:
    """How good the model is that made the predictions."""
    if model.variant is None:
        return f"Your own weights ({verbatim(model.weights)}), {model.accuracy}."
    if model.variant.repo_id is None:
        return f"The bundled model, trained for this program and not one of the paper's: {model.accuracy}."
    return f"One of the paper's models: {model.accuracy}."
