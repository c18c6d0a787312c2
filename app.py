"""The web app's page, in the order in which it is seen.

Run it with `make app`, `cait-viz app` or `streamlit run app.py`: Streamlit finds the `st.App` at the end,
which runs this file for every visitor. The network runs in threads of its own (cait_viz.serving.engines);
everything that is drawn comes from an `Analysis`.
"""

import streamlit as st

from cait_viz.errors import CaitVizError
from cait_viz.serving.page.address import follow_address, forget_choices_of_another, write_address
from cait_viz.serving.page.compare import show_compare
from cait_viz.serving.page.look import show_look
from cait_viz.serving.page.markup import STYLE, notice
from cait_viz.serving.page.options import (
    VIEW_LABELS,
    choose,
    choose_appearance,
    choose_block_and_head,
    choose_detail,
    choose_model,
)
from cait_viz.serving.page.path import show_path
from cait_viz.serving.page.result import analyze
from cait_viz.serving.page.source import choose_image, keep_uploads_off_the_disk
from cait_viz.serving.page.visitor import count_visitor
from cait_viz.serving.page.why import show_why
from cait_viz.serving.routes import routes
from cait_viz.serving.state import server
from cait_viz.weights.registry import Variant
from cait_viz.weights.resolve import FILENAME

# In pixels.
SIDEBAR_WIDTH = 288

# What the page answers, by its name in the address: the question, and what draws the answer.
QUESTIONS = {
    "look": ("Where did it look?", show_look),
    "path": ("How did it get there?", show_path),
    "why": ("Why this class, and can I trust it?", show_why),
    "compare": ("Side by side", show_compare),
}


def main() -> None:
    """Draw the page."""
    st.set_page_config(
        page_title="cait-viz · where a vision transformer looks",
        page_icon="👁",
        layout="wide",
        initial_sidebar_state=SIDEBAR_WIDTH,
    )
    st.html(STYLE)
    keep_uploads_off_the_disk()
    try:
        server()
    except CaitVizError as error:
        st.html(notice(f"{error}."))
        return
    count_visitor()
    follow_address(tuple(QUESTIONS))
    st.title("Where does a vision transformer look?", anchor=False)
    choose_question()
    image = choose_image()
    with st.sidebar:
        model = choose_model()
        view, detail = choose("Part of the image", "view", VIEW_LABELS), choose_detail(model)
        block, head = choose_block_and_head(model)
        appearance = choose_appearance(compares_heads=st.session_state.question in ("look", "why"))
    forget_choices_of_another((image.key, model.choice, view, detail))
    write_address(image.sample.slug if image.sample else None)
    if missing := server().missing(model):
        show_download_of(missing)
    elif result := analyze(image, model, view, detail):
        _, show_answer = QUESTIONS[st.session_state.question]
        with server().turns.turn():
            show_answer(result, model, block, head, appearance)


def choose_question() -> None:
    """What the page is to answer."""
    st.segmented_control(
        "Question",
        tuple(QUESTIONS),
        key="question",
        format_func=lambda name: QUESTIONS[name][0],
        required=True,
        label_visibility="collapsed",
    )


def show_download_of(variant: Variant) -> None:
    """Say that the weights are not here, and fetch them if the person wants."""
    if variant.repo_id is None:
        st.html(notice(f"The weights of {variant.name} are missing; install the program again."))
        return
    if server().read_only:
        st.html(notice(f"{variant.name} is not on this server; choose another model."))
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


if __name__ == "__main__":
    main()
else:
    application = st.App(__file__, routes=routes(st.get_option("server.baseUrlPath") or ""))
