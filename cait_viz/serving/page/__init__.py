"""The parts of the page that are more than a widget; the only modules of the package that know Streamlit."""
