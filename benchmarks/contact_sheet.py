"""Draw many images with their maps on few sheets, so that a person can judge by eye where a model looks.

    python benchmarks/contact_sheet.py SOURCE… -o SHEET [--pictures N] [--model M] [--weights FILE]
    python benchmarks/contact_sheet.py --samples -o SHEET

Each SOURCE is a folder of class folders, from all of which N images are chosen evenly, or an image
file, all of which are drawn. --samples draws the photographs of assets/samples. For each image: what
the network sees of it, the mean of the heads of every class-attention block, and the first predictions,
a tick at the right one. SHEET is a .png, which holds the numbers as well, or a .jpg, a fifth as large.
Sheets are about 1600 pixels wide; of several, each gets its number: SHEET-1.png.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image
from tqdm import tqdm

from cait_viz._backend import import_tensorflow
from cait_viz._files import check_output, replacing
from cait_viz._resources import SAMPLES
from cait_viz.drawing.figures import Caption, SaliencyPanel, draw_saliency, percent
from cait_viz.drawing.overlay import STYLES, Style
from cait_viz.errors import CaitVizError, CheckpointError, ImageError
from cait_viz.images.folders import beside, class_folders, spread
from cait_viz.weights.labels import class_index, class_names

if TYPE_CHECKING:
    from cait_viz.analysis import Analysis
    from cait_viz.model.cait import CaiT

# A tile's side in inches, and how many images lie beside each other; a PNG has 200 dots an inch.
TILE, COLUMNS = 1.13, 2
# The longest side of what is drawn on a tile, in pixels: more than its dots.
TILE_PIXELS = 360
PREDICTIONS = 3
SUFFIXES = (".png", ".jpg", ".jpeg")
JPEG_QUALITY = 88


class Shot(NamedTuple):
    """An image to draw.

    Attributes:
        path: its file.
        title: what it shows, in words.
        label: the index of that class, if the model knows it.
    """

    path: Path
    title: str
    label: int | None


def chosen(sources: Sequence[Path], labels: Sequence[str], seed: int) -> list[Shot]:
    """The images of all class folders among the sources, in an order that is even from the beginning on."""
    groups, index = [], class_index(labels)
    for folder in (source for source in sources if source.is_dir()):
        for name, files in class_folders(folder).items():
            label = index.get(name)
            title = name if label is None else labels[label]
            groups.append([Shot(path, title, label) for path in files])
    return spread(groups, seed)


def samples() -> list[Shot]:
    """The photographs that come with the program."""
    listed = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    return [Shot(SAMPLES / sample["file"], sample["title"], None) for sample in listed]


def panels(shots: Iterable[Shot], model: "CaiT", style: Style) -> Iterator["tuple[SaliencyPanel, Analysis]"]:
    """Each image analyzed and drawn; a file that is no image is named and skipped."""
    from cait_viz.api import analyze

    for shot in shots:
        try:
            analysis = analyze(shot.path, model).seen().reduced(TILE_PIXELS)
        except ImageError as error:
            tqdm.write(f"{beside(shot.path)}{error}; skipped", file=sys.stderr)
            continue
        overlays = [analysis.overlay(block, style=style) for block in range(analysis.blocks)]
        lines = [(shot.title, "")]
        for number, (label, probability) in zip(analysis.ranking, analysis.top(PREDICTIONS), strict=False):
            lines.append((label, f"{percent(probability)}{'  ✓' if number == shot.label else ''}"))
        yield SaliencyPanel([Image.fromarray(analysis.image), *overlays], lines), analysis


def as_jpeg(png: bytes) -> bytes:
    """The same image as a JPEG file."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return file.getvalue()


def outputs(path: Path, count: int) -> list[Path]:
    """The files of so many sheets."""
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(1, count + 1)]


def draw(arguments: argparse.Namespace) -> None:
    """Analyze the images and write the sheets."""
    from cait_viz.weights.resolve import resolve

    for source in arguments.sources:
        if not source.exists():
            raise CaitVizError(f"{source}: there is no such file or folder; check its name")
    given = [Shot(path, path.name, None) for path in arguments.sources if not path.is_dir()]
    check_output(arguments.output, SUFFIXES, [shot.path for shot in given])
    checkpoint = resolve(arguments.model, arguments.weights)
    if checkpoint.config.pre_logits:
        raise CheckpointError(f"{checkpoint.name}: has no classifier; give weights with a head")
    labels = class_names(checkpoint.config.num_classes, arguments.labels)
    from_folders = chosen(arguments.sources, labels, arguments.seed)
    fixed = given + (samples() if arguments.samples else [])
    import_tensorflow()
    from cait_viz.api import from_checkpoint

    model = from_checkpoint(checkpoint, arguments.labels)
    total = len(fixed) + min(arguments.pictures, len(from_folders))
    finished = []
    with tqdm(total=total, desc="images", file=sys.stderr, disable=None, leave=False) as bar:
        for source, limit in ((fixed, len(fixed)), (from_folders, arguments.pictures)):
            for done in islice(panels(source, model, arguments.style), limit):
                finished.append(done)
                bar.update()
    if not finished:
        raise CaitVizError("there is no image to draw; name folders of class folders, images, or --samples")
    footer = (
        f"{checkpoint.name}, weights {checkpoint.path.name}, SHA-256 {checkpoint.sha256[:12]}…: what the "
        "network sees, and the class attention of each block, the mean of its heads, each map from its own "
        "lowest to its own highest value. Below: the name of its class, and the first "
        f"{PREDICTIONS} predictions."
    )
    headings = [
        "what it sees",
        *(f"CA block {block + 1}" for block in range(checkpoint.config.ca_ffn_layers)),
    ]
    parts = [finished[at : at + arguments.per_sheet] for at in range(0, len(finished), arguments.per_sheet)]
    for path, part in zip(outputs(arguments.output, len(parts)), parts, strict=True):
        caption = Caption(
            title=f"Where {checkpoint.name} looks in {len(part)} images",
            footer=footer,
            description=json.dumps([analysis.facts() for _, analysis in part], ensure_ascii=False),
        )
        with replacing(path) as file:
            shown = [panel for panel, _ in part]
            drawn = draw_saliency(shown, caption, "png", columns=COLUMNS, tile=TILE, headings=headings)
            file.write(drawn if path.suffix.lower() == ".png" else as_jpeg(drawn))
        print(path)


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number from `least` on."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too few; give {least} or more")
        return value

    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, metavar="SOURCE")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="SHEET")
    parser.add_argument("--samples", action="store_true", help="the photographs of assets/samples")
    parser.add_argument("--pictures", type=at_least(1), default=24, metavar="N", help="from the folders (24)")
    parser.add_argument("--per-sheet", type=at_least(1), default=12, metavar="N", help="on a sheet (12)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="decides which pictures (0)")
    parser.add_argument("--style", choices=STYLES, default="overlay", help="how the maps are drawn (overlay)")
    parser.add_argument("--model", help="a variant; by default the bundled one, or what the weights show")
    parser.add_argument(
        "--weights", type=Path, help="a safetensors file in place of the variant's own weights"
    )
    parser.add_argument("--labels", type=Path, help="a text with the name of one class a line")
    parsed = parser.parse_args(arguments)
    try:
        draw(parsed)
    except (CaitVizError, OSError) as error:
        print(f"contact_sheet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
