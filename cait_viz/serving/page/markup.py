"""The page's style sheet, and text of unknown origin made safe for HTML and Markdown."""

import html
from pathlib import Path

STYLE = f"<style>{Path(__file__).with_name('style.css').read_text(encoding='utf-8')}</style>"


def ratio_of(size: tuple[int, int], where: str = ":root") -> str:
    """An image's width by its height, for the style sheet; `where` selects the elements that it is for."""
    return f"<style>{where} {{--ratio: {size[0] / size[1]:.4f};}}</style>"


def notice(sentence: str) -> str:
    """A sentence as HTML that stands out.

    Streamlit's own boxes read Markdown, and the name of a file or an address may hold any.
    """
    return f'<p class="notice" role="alert">{html.escape(sentence)}</p>'


def waiting(sentence: str) -> str:
    """What is waited for as HTML, with a sign that moves; Streamlit's own comes half a second later."""
    return f'<p class="waiting" role="status">{html.escape(sentence)}</p>'


def verbatim(name: str) -> str:
    """A name of unknown origin, for Markdown: as code, in which nothing is read as Markdown."""
    quoted = name.replace("`", "'")
    return f"`{quoted}`"
