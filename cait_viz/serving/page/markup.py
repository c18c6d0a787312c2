"""The page's style sheet, and text of unknown origin made safe for HTML and Markdown."""

import html

STYLE = """
<style>
.block-container {padding-top: 2.5rem; padding-bottom: 3rem; max-width: 76rem;}
h1 {font-size: clamp(1.8rem, 5vw, 2.6rem) !important;}
ol.ranked {list-style: none; margin: 0 !important; padding: 0 !important;}
.ranked li {margin: 0 0 .7rem 0 !important; padding: 0 !important;}
.ranked .line {display: flex; justify-content: space-between; gap: 1rem;}
.ranked .share {font-variant-numeric: tabular-nums;}
.ranked .bar {height: .35rem; border-radius: .2rem; background: currentColor; opacity: .3;}
.ranked .confident .bar {opacity: .85;}
.ranked .confident .line {font-weight: 600;}
.notice {padding: .8rem 1rem; border-radius: .5rem; border-left: .3rem solid #d9483b; overflow-wrap: anywhere;
  background: color-mix(in srgb, #d9483b 14%, transparent);}
.given {font-weight: 600; overflow-wrap: anywhere;}
[data-testid="stCaptionContainer"] {opacity: .8;}
/* The only code here are names that Markdown must not read; they are to look like the text around them. */
code {all: unset !important; overflow-wrap: anywhere !important;}
/* The dark theme's primary color is light; Streamlit writes on it in white all the same. */
[data-testid="stBaseButton-primary"] {color: light-dark(#ffffff, #17131a) !important;}
</style>
"""


def notice(sentence: str) -> str:
    """A sentence as HTML that stands out.

    Streamlit's own boxes read Markdown, and the name of a file or an address may hold any.
    """
    return f'<p class="notice" role="alert">{html.escape(sentence)}</p>'


def verbatim(name: str) -> str:
    """A name of unknown origin, for Markdown: as code, in which nothing is read as Markdown."""
    quoted = name.replace("`", "'")
    return f"`{quoted}`"
