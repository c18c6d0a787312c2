"""Draw many images with their maps on few sheets, so that a person can judge by eye where a model looks.

python benchmarks/contact_sheet.py SOURCE… -o SHEET [--images N] [--model M] [--weights FILE]
python benchmarks/contact_sheet.py --samples -o SHEET
"""

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import App, CycloptsError, Parameter
from PIL import Image
from tqdm import tqdm

from cait_viz._files import atomic_write, check_output
from cait_viz._resources import SAMPLES
from cait_viz.cli.options import Count, EvaluatedModel, Index, ModelOptions, Output
from cait_viz.drawing.figures import Caption, SaliencyPanel, draw_saliency, percent
from cait_viz.drawing.overlay import Style
from cait_viz.engine.base import Engine
from cait_viz.errors import CaitVizError, ImageError
from cait_viz.images.folders import class_folders, folder_prefix, spread
from cait_viz.weights.labels import class_index

if TYPE_CHECKING:
    from cait_viz.results.analysis import Analysis

TILE, COLUMNS = 1.13, 2  # a tile's side in inches, at 200 dots an inch; images beside each other
TILE_PIXELS = 360  # the longest side of what is drawn on a tile: more than its dots
PREDICTIONS = 3
JPEG_QUALITY = 88


class Shot(NamedTuple):
    """An image file, what it shows in words, and the index of that class if the model knows it."""

    path: Path
    title: str
    label: int | None = None


def from_classes(folders: Iterable[Path], labels: Sequence[str], seed: int) -> list[Shot]:
    """The images of all class folders in the folders, in an order that is even from the beginning on."""
    groups, index = [], class_index(labels)
    for folder in folders:
        for name, files in class_folders(folder).items():
            label = index.get(name)
            title = name if label is None else labels[label]
            groups.append([Shot(path, title, label) for path in files])
    return spread(groups, seed)


def panels(shots: Iterable[Shot], model: Engine, style: Style) -> Iterator["tuple[SaliencyPanel, Analysis]"]:
    """Each image analyzed and drawn; a file that is no image is named and skipped."""
    from cait_viz.api import analyze

    for shot in shots:
        try:
            analysis = analyze(shot.path, model).seen().reduced(TILE_PIXELS)
        except ImageError as error:
            tqdm.write(f"{folder_prefix(shot.path)}{error}; skipped", file=sys.stderr)
            continue
        overlays = [analysis.overlay(block, style=style) for block in range(analysis.blocks)]
        lines = [(shot.title, "")]
        for number, (label, probability) in zip(analysis.ranking, analysis.top(PREDICTIONS), strict=False):
            lines.append((label, f"{percent(probability)}{'  ✓' if number == shot.label else ''}"))
        yield SaliencyPanel([Image.fromarray(analysis.image), *overlays], lines), analysis


def draw(
    sources: Annotated[tuple[Path, ...], Parameter(name="SOURCE", show_default=False)] = (),
    /,
    *,
    output: Output,
    samples: bool = False,
    images: Count = 24,
    per_sheet: Count = 12,
    seed: Index = 0,
    style: Style = "overlay",
    model_options: EvaluatedModel = ModelOptions(),
) -> None:
    """Draw what a model looks at in many images on few sheets.

    For each image: what the network sees of it, the mean of the heads of every class-attention block, and the
    first predictions, a tick at the right one.

    Args:
        sources: folders of class folders, and image files, all of which are drawn.
        output: the sheet, about 1600 pixels wide: a .png, which holds the numbers as well, or a .jpg, a fifth
            as large. Of several sheets, each gets its number: SHEET-1.png.
        samples: draw the photographs of assets/samples.
        images: how many images are drawn from the folders, spread evenly over the classes.
        per_sheet: images on a sheet.
        seed: decides which images.
        style: how the maps are drawn.
    """
    for source in sources:
        if not source.exists():
            raise CaitVizError(f"{source}: there is no such file or folder; check its name")
    fixed = [Shot(path, path.name) for path in sources if not path.is_dir()]
    check_output(output, (".png", ".jpg", ".jpeg"), [shot.path for shot in fixed])
    if samples:
        listed = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
        fixed += [Shot(SAMPLES / sample["file"], sample["title"]) for sample in listed]
    labels = model_options.class_names
    from_folders = from_classes(filter(Path.is_dir, sources), labels, seed)
    _, model = model_options.load()
    total = len(fixed) + min(images, len(from_folders))
    drawn = chain(panels(fixed, model, style), islice(panels(from_folders, model, style), images))
    finished = list(tqdm(drawn, "images", total, file=sys.stderr, disable=None, leave=False))
    if not finished:
        raise CaitVizError("there is no image to draw; name folders of class folders, images, or --samples")
    checkpoint = model_options.checkpoint
    footer = (
        f"{checkpoint.name}, weights {checkpoint.origin.name}, SHA-256 {checkpoint.sha256[:12]}…: what the "
        "network sees, and the class attention of each block, the mean of its heads, each map from its own "
        "lowest to its own highest value. Below: the name of its class, and the first "
        f"{PREDICTIONS} predictions."
    )
    headings = [
        "what it sees",
        *(f"CA block {block + 1}" for block in range(model_options.config.ca_ffn_layers)),
    ]
    starts = range(0, len(finished), per_sheet)
    for number, start in enumerate(starts, start=1):
        shown, analyses = zip(*finished[start : start + per_sheet], strict=True)
        caption = Caption(
            title=f"Where {checkpoint.name} looks in {len(shown)} images",
            footer=footer,
            description=json.dumps([analysis.facts() for analysis in analyses], ensure_ascii=False),
        )
        sheet = draw_saliency(shown, caption, "png", columns=COLUMNS, tile=TILE, headings=headings)
        path = output if len(starts) == 1 else output.with_stem(f"{output.stem}-{number}")
        with atomic_write(path) as file:
            if path.suffix.lower() == ".png":
                file.write(sheet)
            else:
                rgb = Image.open(io.BytesIO(sheet)).convert("RGB")
                rgb.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
        print(path)


def main(words: Sequence[str] | None = None) -> int:
    """Read the arguments and draw; an error is one line on standard error."""
    app = App(
        default_command=draw,
        help_format="plaintext",
        version_flags=(),
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
    )
    try:
        app(words)
    except (CaitVizError, CycloptsError, OSError) as error:
        print(f"contact_sheet: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
