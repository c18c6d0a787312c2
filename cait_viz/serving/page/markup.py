"""The page's style sheet, and text of unknown origin made safe for HTML and Markdown."""

import html

# --tall is the height that an image may have: what --above, all that stands over and under it, leaves of the
# window; in a low window, so much that the image fits when the page is scrolled.
STYLE = """
<style>
:root {--above: 20rem; --ratio: 1;}
body {--tall: max(100svh - var(--above), min(100svh - 6rem, 20rem));}
.block-container {padding: 1.5rem 2rem 3rem; max-width: 110rem;}
body:has(.st-key-question) {--above: 23.5rem;}
@media (max-width: 40rem) {:root {--above: 19rem;} body:has(.st-key-question) {--above: 27.5rem;}
  .block-container {padding: 1.5rem 1rem 3rem;}}
/* The button that opens the sidebar stands above the title. */
body:has([data-testid="stSidebar"][data-collapsed="true"]) .block-container {padding-top: 3.75rem;}
@media (min-width: 40rem) {body:has([data-testid="stSidebar"][data-collapsed="true"]) {--above: 22.5rem;}
  body:has(.st-key-question):has([data-testid="stSidebar"][data-collapsed="true"]) {--above: 26rem;}}
[data-testid="stSidebarContent"] {padding: 0 .5rem 0 1rem;}
h1 {font-size: clamp(1.15rem, 3vw, 1.9rem) !important; padding: 0 0 .3rem !important;}
h2 {font-size: 1.35rem !important; padding: .5rem 0 .25rem !important;}
[data-testid="stSidebar"] h2 {font-size: 1.1rem !important; padding: 0 0 .25rem !important;}
.st-key-strip {border: 1px dashed color-mix(in srgb, currentColor 30%, transparent); border-radius: .6rem;
  padding: .4rem .6rem; gap: .5rem clamp(.5rem, 1.2vw, 1rem); position: relative;}
.st-key-strip_drop {position: absolute; width: 1px;}
.st-key-strip > :has(.st-key-samples) {flex: 0 1 32rem; min-width: 0;}
.st-key-strip[data-dropping] {outline: 3px solid var(--st-primary-color, #a02c5d);}
.st-key-strip [data-testid="stFileUploaderDropzone"] {flex-direction: row; align-items: center; gap: .6rem;
  padding: 0; min-height: 0; background: none; border: none;}
.st-key-strip [data-testid="stFileUploaderDropzoneInstructions"] {display: none;}
.st-key-strip > :has([data-testid="stTextInput"]) {flex: 1 1 7rem; width: auto; min-width: 0;
  max-width: 20rem;}
.st-key-origin > :has([data-testid="stCaptionContainer"]) {flex: 1 1 15rem; max-width: max-content;}
/* Under the pointer Streamlit darkens the text of such a button, on dark as on light. */
.st-key-origin button {color: inherit !important;}
.st-key-answer {flex-wrap: wrap; gap: 1rem 2.5rem;}
.st-key-waiting img {width: auto !important; max-width: 100%; max-height: var(--tall);}
/* The predictions stand beside the pictures where these leave room, else below. */
.st-key-answer > :has(> .st-key-pictures) {flex: 0 1 min(100%, calc(2 * var(--tall) * var(--ratio) + 1rem));
  width: auto; min-width: 0;}
.st-key-answer > :has(> .st-key-says) {flex: 1 1 17rem; width: auto; min-width: 0;}
.lists {display: flex; flex-wrap: wrap; gap: 1rem 2.5rem;}
.lists section {flex: 1 1 16rem;}
.lists h3 {margin: 0 !important; padding: 0 0 .5rem !important; font-size: .875rem !important;
  font-weight: 400 !important; opacity: .8;}
ol.ranked {list-style: none; margin: 0 !important; padding: 0 !important;}
.ranked li {margin: 0 0 .6rem 0 !important; padding: 0 !important;}
.ranked .line {display: flex; justify-content: space-between; gap: 1rem;}
.ranked .share {font-variant-numeric: tabular-nums; white-space: nowrap;}
.ranked .bar {height: .35rem; border-radius: .2rem; background: currentColor; opacity: .3;}
.ranked .confident .bar {opacity: .85;}
.ranked .confident .line {font-weight: 600;}
.notice {padding: .8rem 1rem; border-radius: .5rem; border-left: .3rem solid #d9483b; overflow-wrap: anywhere;
  background: color-mix(in srgb, #d9483b 14%, transparent);}
[data-testid="stCaptionContainer"] {opacity: .8;}
/* The only code here are names that Markdown must not read; they are to look like the text around them. */
code {all: unset !important; overflow-wrap: anywhere !important;}
/* The dark theme's primary color is light; Streamlit writes on it in white all the same. */
[data-testid="stBaseButton-primary"] {color: light-dark(#ffffff, #17131a) !important;}
</style>
"""


def ratio_of(size: tuple[int, int]) -> str:
    """An image's width by its height, for the style sheet."""
    return f"<style>:root {{--ratio: {size[0] / size[1]:.4f};}}</style>"


def notice(sentence: str) -> str:
    """A sentence as HTML that stands out.

    Streamlit's own boxes read Markdown, and the name of a file or an address may hold any.
    """
    return f'<p class="notice" role="alert">{html.escape(sentence)}</p>'


def verbatim(name: str) -> str:
    """A name of unknown origin, for Markdown: as code, in which nothing is read as Markdown."""
    quoted = name.replace("`", "'")
    return f"`{quoted}`"
