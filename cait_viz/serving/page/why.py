"""The question *Why this class, and can I trust it?*: what speaks for a class; what maps are worth."""

from collections.abc import Hashable, Mapping
from functools import partial
from typing import Any

import altair as alt
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from cait_viz import questions
from cait_viz.drawing.figures import percent
from cait_viz.drawing.overlay import Appearance
from cait_viz.images.preprocess import View
from cait_viz.images.read import LoadedImage
from cait_viz.metrics.faithfulness import CENTER, RANDOM, Curve
from cait_viz.results.ablation import Ablation, signed
from cait_viz.results.explanation import Explanation, Method
from cait_viz.results.trustworthiness import RANDOM_MAPS, Progress, Trust
from cait_viz.serving.models import AvailableModel
from cait_viz.serving.page.address import TOP
from cait_viz.serving.page.components.choice import Option, choose_option
from cait_viz.serving.page.files import choose_format, download_button
from cait_viz.serving.page.look import NARROWEST_TILE, show_answer
from cait_viz.serving.page.markup import verbatim
from cait_viz.serving.page.options import head_name
from cait_viz.serving.page.path import LINE, PLOT, STRIP_SIDE
from cait_viz.serving.page.result import TILE_SIDE, ScreenResult, ask

METHODS: dict[Method, str] = {"relevance": "Relevance, all blocks", "gradient": "Gradient × attention"}

PAPERS = {
    "relevance": "https://arxiv.org/abs/2103.15679",
    "deletion": "https://arxiv.org/abs/1806.07421",
    "confidence": "https://arxiv.org/abs/1710.11063",
    "ablation": "https://arxiv.org/abs/1905.10650",
    "randomization": "https://arxiv.org/abs/1810.03292",
}


def show_why(
    result: ScreenResult, model: AvailableModel, block: int, head: int | None, appearance: Appearance
) -> None:
    """What each head does for a class, and what the maps are worth."""
    ablation = ask(result, questions.ablate, "ablation")
    if ablation is None:
        return
    show_answer(result, model, block, head, appearance)
    target = choose_class(result)
    show_ablation(result, model, ablation, target, appearance)
    explanation = show_explanation(result, target, block, appearance)
    show_trust(result, block, head, target, explanation)
    show_forgetting(result, block, head, target, appearance)


def choose_class(result: ScreenResult) -> int:
    """The index of a class: of the image's, the most probable unless another is chosen."""
    state, analysis = st.session_state, result.small
    first, *others = (int(index) for index in analysis.ranking)
    if state["class"] == first:
        state["class"] = TOP

    def describe(choice: int | str) -> str:
        index = first if choice == TOP else int(choice)
        return f"{analysis.labels[index]} ({percent(float(analysis.probabilities[index]))})"

    options: list[int | str] = [TOP, *others]
    st.header("Who speaks for this class?", anchor=False)
    chosen: int | str = st.selectbox(
        "Class",
        options,
        key="class",
        format_func=describe,
        help="Type to find any class by its name.",
        width=420,
    )
    return first if isinstance(chosen, str) else chosen


def show_ablation(
    result: ScreenResult, model: AvailableModel, ablation: Ablation, target: int, appearance: Appearance
) -> None:
    """What the class loses without each head."""
    changes = ablation.changes(target)
    label = verbatim(result.small.labels[target])
    st.markdown(
        f"Each head was silenced in turn. Under its map: by how much the logit of {label} changes without "
        "it. A minus means that the head spoke *for* the class, a plus *against* it.",
        help="Heads may stand in for each other: a small change does not say that a head did nothing. "
        f"[Michel et al. 2019]({PAPERS['ablation']}).",
    )
    state, tile = st.session_state, result.tile

    def option(block: int, head: int) -> Option:
        name = f"Head {head + 1}"
        change = signed(changes[block, head])
        drawn = tile.overlay(block, head, **vars(appearance))
        return Option(
            f"{block}_{head}",
            drawn,
            tile.title(block, head),
            f"{name}, CA block {block + 1}, {change}",
            name,
            change,
        )

    def choose(value: str) -> None:
        block, head = map(int, value.split("_"))
        if state.model == model.name:  # which may have changed with the same click's run
            state.update(block=block, head=head)

    groups = {
        f"CA block {block + 1}": [option(block, head) for head in range(tile.heads)]
        for block in range(tile.blocks)
    }
    chosen = f"{state.block}_{state.head}"
    choose_option("Block and head", groups, chosen, "silenced", choose, TILE_SIDE, NARROWEST_TILE)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        kind = choose_format("Format of the figure")
        download_button(
            f"These numbers as a figure ({kind.upper()})",
            f"{result.small.file_prefix}_ablation.{kind}",
            lambda: ablation.figure(
                target,
                kind,
                colormap=appearance.colormap,
                interpolation=appearance.interpolation,
                scale=appearance.scale,
            ),
        )


def show_explanation(
    result: ScreenResult, target: int, block: int, appearance: Appearance
) -> Explanation | None:
    """Which patches speak for the class, once it is asked for; None before."""
    st.header("Which patches speak for it?", anchor=False)
    remark = "By TensorFlow, which takes some seconds to start."
    if not st.toggle("Compute gradients", key="gradients", help=remark):
        return None

    explanation = ask_explanation(result, target)
    if explanation is None:
        return None
    with st.container(horizontal=True):
        show_explaining_map(result, explanation, "relevance", None, appearance)
        show_explaining_map(result, explanation, "gradient", block, appearance)
    st.caption(
        "What speaks against the class is left out. Relevance goes through all blocks of both stages; "
        f"gradient times attention is of CA block {block + 1} alone "
        f"([Chefer et al. 2021]({PAPERS['relevance']})). Each map has its own color range."
    )
    return explanation


def ask_explanation(result: ScreenResult, target: int) -> Explanation | None:
    """What speaks for a class; None where it fails, and the page says why."""

    def explain(image: LoadedImage, engine: Any, *, view: View, progress: Progress) -> Explanation:
        return questions.explain(image, engine, target, view)

    status = "Computing the gradients. The first time, TensorFlow is started, which takes some seconds."
    return ask(result, explain, ("explanation", target), long=True, status=status)


def show_explaining_map(
    result: ScreenResult, explanation: Explanation, method: Method, block: int | None, appearance: Appearance
) -> None:
    """A map of one method, and the button that keeps it."""
    whole, grid, title = result.whole, explanation.grid(method, block), explanation.title(method, block)
    facts = explanation.facts(method, block)
    drawn = result.small.draw(grid, **vars(appearance))
    with st.container(width=460):
        st.image(drawn, caption=METHODS[method], output_format="JPEG", alt=f"{title}.")
        download_button(
            "This map (PNG)",
            f"{result.small.file_prefix}_{method}_{explanation.target}.png",
            lambda: whole().map_png(grid, title, facts, **vars(appearance)),
        )


def show_trust(
    result: ScreenResult, block: int, head: int | None, target: int, explanation: Explanation | None
) -> None:
    """What the maps are worth for a class, once it is asked for."""
    st.header("Can the map be trusted?", anchor=False)
    st.markdown(
        "Remove first what the map ranks highest: if the map is faithful, the probability of the class drops "
        "early. Insert it first: the probability rises early. A map that does no better than chance, or than "
        "the middle of the image, says nothing of this network."
    )
    asked = (result.key, block, head, target, explanation is not None)
    place = on_demand("trust_of", asked, "Test this map", key="test_map", type="primary")
    if place is None:
        return
    trace = ask(result, questions.trace, "trace")
    if trace is None:
        place.empty()
        return
    this = f"This map ({head_name(head).lower()}, CA block {block + 1})"
    grids = {this: result.small.grid(block, head), "Its rollout": trace.rollout(block, head)}
    if explanation is not None:
        grids |= {
            f"Relevance for {explanation.label}": explanation.grid(),
            f"Gradient for {explanation.label} (CA block {block + 1})": explanation.grid("gradient", block),
        }
    measure, about = partial(questions.trust, grids=grids, target=target), ("trust", *asked[1:])
    trust = ask(
        result, measure, about, long=True, status="Altering the image, and asking the network each time."
    )
    place.empty()
    if trust is not None:
        show_curves(trust)
        show_scores(trust, result.small.labels[target])


def on_demand(name: str, asked: Hashable, label: str, *, key: str, **button: Any) -> DeltaGenerator | None:
    """The place of a button that cancels what was asked for; before it is, a button that asks, and None.

    `name` is the key in the session's state under which stands what was asked.
    """
    state, place = st.session_state, st.empty()
    if state.get(name) != asked:
        place.button(label, key=key, on_click=state.update, args=({name: asked},), **button)
        return None
    place.button("Cancel", key=f"cancel_{key}", on_click=state.pop, args=(name,))
    return place


def show_curves(trust: Trust) -> None:
    """The curves of deletion and insertion beside each other."""
    with st.container(horizontal=True, gap="large"):
        for which, title, remark in (
            ("deletion", "Deletion", "Drops early if the map is faithful"),
            ("insertion", "Insertion", "Rises early if the map is faithful"),
        ):
            with st.container(width=480):
                st.markdown(f"**{title}.** {remark}.")
                st.altair_chart(chart({name: getattr(both, which) for name, both in trust.curves.items()}))


def chart(curves: Mapping[str, Curve]) -> alt.Chart:
    """The probability of the class against the share of the pixels that is replaced."""
    points = [
        {"share": float(share), "probability": float(probability), "map": name}
        for name, curve in curves.items()
        for share, probability in zip(curve.fractions, curve.probabilities, strict=True)
    ]
    x = alt.X("share:Q", title="Share of the pixels", axis=alt.Axis(format=".0%"))
    y = alt.Y("probability:Q", title="Probability", axis=alt.Axis(format=".0%"))
    legend = alt.Legend(orient="bottom", columns=1, labelLimit=400)
    color = alt.Color("map:N", title=None, sort=list(curves), legend=legend)
    baseline = alt.StrokeDash("map:N", sort=list(curves), legend=None).scale(
        domain=list(curves), range=[[4, 4] if name in (CENTER, RANDOM) else [1, 0] for name in curves]
    )
    return (
        alt.Chart(alt.Data(values=points))
        .mark_line()
        .encode(x, y, color, baseline)
        .properties(height=PLOT + LINE * len(curves))
    )


def show_scores(trust: Trust, label: str) -> None:
    """The areas under the curves and the confidence, with how to read them."""
    rows = []
    for name, both in trust.curves.items():
        left = trust.confidence.get(name)
        drop = "–" if left is None else "rises" if left.increase else f"−{percent(left.drop)}"
        cell = verbatim(name).replace("|", "/")
        rows.append(f"| {cell} | {both.deletion.area:.3f} | {both.insertion.area:.3f} | {drop} |")
    st.markdown(
        "| Map | Deletion ↓ | Insertion ↑ | Confidence on what it shows |\n|---|---|---|---|\n"
        + "\n".join(rows)
    )
    st.caption(
        "Deletion and insertion: the area under the curve, the lower or the higher the better "
        f"([Petsiuk et al. 2018]({PAPERS['deletion']})). Confidence: by how much of itself the probability "
        "changes when the image is multiplied by the map "
        f"([Chattopadhyay et al. 2018]({PAPERS['confidence']})). The random map is the mean of "
        f"{RANDOM_MAPS}. All are of {verbatim(label)}."
    )


def show_forgetting(
    result: ScreenResult, block: int, head: int | None, target: int, appearance: Appearance
) -> None:
    """Whether the maps change when the network forgets, once it is asked for."""
    st.header("Would it change if the network forgot?", anchor=False)
    st.markdown(
        "Re-initialize the network part by part, from the last layer backwards, and draw the map each time. "
        "A map that stays the same does not depend on what that part had learned: it explains nothing of it.",
        help=f"[Adebayo et al. 2018]({PAPERS['randomization']}), section 3.",
    )
    asked = (result.key, block, head, target)
    remark = "By TensorFlow, which takes some seconds to start."
    place = on_demand("forgetting_of", asked, "Re-initialize it part by part", key="forget", help=remark)
    if place is None:
        return
    question = partial(questions.randomize, target=target, block=block, head=head)
    about = ("forgetting", block, head, target)
    status = "Re-initializing part of the network, step by step."
    found = ask(result, question, about, long=True, status=status)
    place.empty()
    if found is None:
        return
    with st.container(horizontal=True, gap="small"):
        for step, name in enumerate(found.steps):
            drawn = result.tile.draw(found.grids["attention"][step], **vars(appearance))
            said = "As it was trained" if step == 0 else name if step == 1 else f"and {name}"
            st.image(
                drawn, caption=said, width=STRIP_SIDE, output_format="JPEG", alt=f"This map, anew: {name}."
            )
    st.markdown("\n".join(found.table()))
    st.caption(
        "Above: the attention, each map in its own color range. The numbers are Spearman's rank correlation "
        "of a map with that of the trained network: 1 where both rank the patches alike, about 0 where they "
        "have nothing to do with each other. The maps of a class are of "
        f"{verbatim(found.analysis.labels[target])}."
    )
