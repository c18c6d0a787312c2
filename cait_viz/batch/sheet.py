"""One HTML page to look through many images: each beside its map, with what the network says."""

import html
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cait_viz._files import atomic_write
from cait_viz.drawing.figures import percent
from cait_viz.results.analysis import ModelInfo

PAGE, SHEET = "index.html", "sheet"

_QUALITY = 85
# Images are loaded as they come into view; what is typed above hides those that do not have it.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{color-scheme: light dark; font: 15px/1.4 system-ui, sans-serif;}}
body {{margin: 1.5rem;}}
h1 {{font-size: 1.4rem; margin: 0 0 .75rem;}}
input {{font: inherit; padding: .3rem .5rem; width: min(20rem, 90vw);}}
main {{display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1.25rem;
  margin-top: 1.25rem;}}
figure {{margin: 0;}}
img {{width: 100%; height: auto; background: #8884;}}
figcaption {{overflow-wrap: anywhere;}}
small {{color: light-dark(#555, #aaa);}}
</style></head><body>
<h1>{title}</h1>
<label>Show what has <input type="search" id="wanted" placeholder="a class, a kind, a name"></label>
<main>
"""
_TAIL = """</main>
<script>
const wanted = document.getElementById("wanted"), figures = [...document.querySelectorAll("figure")];
wanted.oninput = () => {
  const text = wanted.value.toLowerCase();
  for (const figure of figures) figure.hidden = !figure.textContent.toLowerCase().includes(text);
};
</script>
</body></html>
"""


def thumbnail(image: Image.Image, drawn: Image.Image) -> bytes:
    """An image and its map beside each other, as a JPEG file."""
    both = Image.new("RGB", (2 * image.width, image.height))
    both.paste(image, (0, 0))
    both.paste(drawn, (image.width, 0))
    file = io.BytesIO()
    both.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def write_page(
    folder: Path, rows: Iterable[Mapping[str, Any]], thumbnail_of: Callable[[str], str], model: ModelInfo
) -> None:
    """Write the page of a folder, over the thumbnails in it.

    Args:
        folder: holds the thumbnails in a folder of their own.
        rows: what is said of each image, see `cait_viz.batch.rows`.
        thumbnail_of: the file's name by the image's.
        model: the network that said it.
    """
    title = html.escape(f"What {model.name} says, at {model.input_size} pixels")
    with atomic_write(folder / PAGE) as file:
        file.write(_HEAD.format(title=title).encode())
        for row in rows:
            file.write(_figure(row, thumbnail_of(row["image"])).encode())
        file.write(_TAIL.encode())


def _figure(row: Mapping[str, Any], name: str) -> str:
    image = html.escape(row["image"])
    if row["error"] is not None:
        said, picture = [f"<b>{html.escape(row['error'])}</b>"], ""
    else:
        said = [f"<b>{html.escape(row['labels'][0])}</b> {_share(row['probabilities'])}"]
        picture = f'<img loading="lazy" alt="" src="{SHEET}/{html.escape(name)}">'
    if row["kinds"]:
        said.append(f"{html.escape(row['kinds'][0])} {_share(row['kind_probabilities'])}")
    return (
        f"<figure>{picture}<figcaption>{' · '.join(said)}<br><small>{image}</small></figcaption></figure>\n"
    )


def _share(shares: Sequence[float]) -> str:
    """The first of some probabilities, on one line."""
    return percent(shares[0]).replace(" ", "\u00a0")
