"""Maps measured on many images: one row an image, and a table of means; what `cait-viz trust` does."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cait_viz import questions
from cait_viz._files import atomic_write
from cait_viz._text import counted, file_text, one_line
from cait_viz.api import analyze
from cait_viz.attention.maps import Floats
from cait_viz.drawing.export import SOFTWARE
from cait_viz.engine.base import Engine
from cait_viz.errors import ImageError, OutputError
from cait_viz.images.preprocess import View
from cait_viz.images.read import load_image
from cait_viz.metrics.report import mean_and_interval, row, table_head
from cait_viz.results.comparison import MapName

_MEASURES = {
    "deletion": "deletion, lower is better",
    "insertion": "insertion, higher is better",
    "drop": "average drop, lower is better",
    "increase": "increase in confidence, higher is better",
}


def study(
    images: Sequence[Path],
    engine: Engine,
    names: Sequence[MapName],
    output: Path,
    *,
    view: View = "crop",
    seed: int = 0,
    resume: bool = False,
    step: Callable[[Path], object] = lambda path: None,
) -> tuple[list[str], int]:
    """Measure maps on images, as `cait_viz.trust` does, and write JSON Lines: what made them, then the rows.

    A row has the image's path and, by measure and map, the numbers; of an image that cannot be read, the
    error; and a remark on what an image lacks or was assumed of its pixels. A study that was interrupted and
    is resumed writes the same bytes as one that was not; until its next row is measured, the file stays as it
    was.

    Args:
        images: the files; one that is named twice is measured once.
        engine: the network.
        names: which maps: "attention", the class attention of the block that serves best as saliency (mean
            of the heads), "rollout" of it, "gradient" of the same block, and "relevance", both for the class
            that is predicted.
        output: the file to write.
        view: what the network sees.
        seed: decides the random maps, of each image by its content.
        resume: keep the rows that the file has, but try again what could not be read.
        step: gets each image's path when it is done.

    Returns:
        A table of means in Markdown, each with its bootstrap interval, and how many files could not be read.

    Raises:
        ImageError: none of the files can be read as an image.
        OutputError: the file cannot be written, or is to be resumed and is of another study.
    """
    source = engine.source
    header = {
        "software": SOFTWARE,
        "model": source.name,
        "weights_sha256": source.sha256,
        "input_size": list(engine.config.image_shape[::-1]),
        "precision": engine.precision,
        "view": view,
        "seed": seed,
        "maps": list(names),
    }
    rows = _rows_of(output, header) if resume and output.exists() else []
    wanted = set(map(str, images))
    for entry in rows:
        if "error" in entry and entry["image"] in wanted:
            del entry["error"]
            entry |= _measured(Path(entry["image"]), engine, names, view, seed)
    done = {entry["image"] for entry in rows}
    try:
        with atomic_write(output) as file:
            file.writelines(map(_line, (header, *rows)))
        with output.open("ab") as file:
            for path in dict.fromkeys(images):
                if str(path) not in done:
                    rows.append({"image": str(path)} | _measured(path, engine, names, view, seed))
                    file.write(_line(rows[-1]))
                    file.flush()
                step(path)
    except OSError as error:
        raise OutputError(f"{file_text(output)}: cannot be written ({error.strerror})") from None
    unread = sum("error" in entry for entry in rows)
    if unread == len(rows):
        raise ImageError(f"none of the files can be read as an image; {file_text(output)} says why")
    return _table(rows, seed), unread


def _rows_of(output: Path, header: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier study; the last line may be half written."""
    entries = []
    try:
        with output.open(encoding="ascii") as lines:
            for line in lines:
                entries.append(json.loads(line))
    except (OSError, ValueError):
        pass
    if not entries and not output.stat().st_size:
        return []
    if not entries or entries[0] != header:
        raise OutputError(
            f"{file_text(output)}: is of another study, with another model or other options; choose another "
            "file"
        )
    return entries[1:]


def _line(entry: Mapping[str, Any]) -> bytes:
    """An entry as a line of ASCII, whatever letters or bytes a file's name is made of."""
    return json.dumps(entry).encode("ascii") + b"\n"


def _measured(path: Path, engine: Engine, names: Sequence[MapName], view: View, seed: int) -> dict[str, Any]:
    try:
        image = load_image(path)
    except ImageError as error:
        return {"error": one_line(str(error), 300)}
    remark = {"remark": image.remark} if image.remark else {}
    analysis = analyze(image, engine, view)
    grids: dict[str, Floats] = {}
    explanation = None
    for name in names:
        if name == "attention":
            grids[name] = analysis.saliency()
        elif name == "rollout":
            grids[name] = questions.trace(image, engine, view).rollout()
        else:
            explanation = explanation or questions.explain(image, engine, None, view)
            grids[name] = explanation.grid(name)
    # The same random maps for an image wherever it lies, and whatever else is measured.
    trust = questions.trust(image, engine, grids, view, seed=[seed, int((image.file_sha256 or "0")[:8], 16)])
    return remark | {
        "deletion": {name: both.deletion.area for name, both in trust.curves.items()},
        "insertion": {name: both.insertion.area for name, both in trust.curves.items()},
        "drop": {name: left.drop for name, left in trust.confidence.items()},
        "increase": {name: float(left.increase) for name, left in trust.confidence.items()},
    }


def _table(rows: Sequence[Mapping[str, Any]], seed: int) -> list[str]:
    measured = [entry for entry in rows if "error" not in entry]
    lines = [*table_head(f"map, on {counted(len(measured), 'image')}", *_MEASURES.values())]
    for name in measured[0]["deletion"]:
        cells = []
        for measure in _MEASURES:
            values = [entry[measure][name] for entry in measured if name in entry[measure]]
            cells.append(mean_and_interval(np.array(values), seed) if values else "–")
        lines.append(row([name, *cells]))
    return lines
