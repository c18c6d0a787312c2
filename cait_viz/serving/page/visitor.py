"""Who looks at the page."""

from uuid import uuid4

import streamlit as st

from cait_viz.serving.limits import Allowance
from cait_viz.serving.state import Server, server


def visitor() -> str:
    """Tells this session from all others."""
    name: str = st.session_state.setdefault("visitor", uuid4().hex)
    return name


def allowance() -> Allowance:
    """How many images this session may still give."""
    kept: Allowance = st.session_state.setdefault("allowance", Allowance(server().images_per_minute))
    return kept


@st.cache_resource(scope="session", show_spinner=False, on_release=lambda counted: counted.count_session(-1))
def count_visitor() -> Server:
    """Count this session until it ends."""
    server().count_session(1)
    return server()
