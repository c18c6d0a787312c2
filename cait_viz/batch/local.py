"""Many images on this machine: what `cait-viz batch` does.

Images are decoded in threads while the network runs, a batch at a time, and drawn in others; no more than a
few batches are in memory.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cait_viz._checks import check_finite
from cait_viz._files import atomic_write
from cait_viz._text import one_line
from cait_viz.api import analysis_of, describe
from cait_viz.attention.maps import Floats
from cait_viz.batch.rows import Rows, Seen, as_text
from cait_viz.batch.sheet import SHEET, thumbnail, write_page
from cait_viz.batch.store import Store
from cait_viz.drawing.export import SOFTWARE, png_bytes, safe_name
from cait_viz.drawing.overlay import Appearance
from cait_viz.engine.base import Engine
from cait_viz.errors import ImageError
from cait_viz.images.preprocess import View, normalize, resize_and_crop, seen_box
from cait_viz.images.read import LoadedImage, load_image
from cait_viz.results.analysis import Analysis

# Images that the network is asked about at once. What it says of one does not depend on the others.
BATCH = 32
# Batches that are decoded or drawn while the network runs.
_AHEAD = 2
# The longer side of a map and of an image on the page to look through, in pixels.
MAP_SIDE, THUMBNAIL_SIDE = 1024, 240

MAPS, ARRAYS = "maps", "npz"


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """What is kept of each image.

    Attributes:
        top: how many classes and kinds a row lists.
        maps: whether to write an overlay of each image; .png.
        npz: whether to write the attention of each image; .npz.
        sheet: whether to write a page to look through all images; .html.
        block: class-attention block of the overlays, from 0; None is the one that serves best as saliency.
        head: attention head of the overlays, from 0; None is the mean of the heads.
        appearance: how the overlays are drawn.
    """

    top: int = 5
    maps: bool = False
    npz: bool = False
    sheet: bool = False
    block: int | None = None
    head: int | None = None
    appearance: Appearance = field(default_factory=Appearance)

    @property
    def draws(self) -> bool:
        """Whether anything is written but rows."""
        return self.maps or self.npz or self.sheet


@dataclass(frozen=True)
class Decoded:
    """An image that is ready for the network.

    Attributes:
        seen: what is known of it.
        pixels: (height, width, 3) float32, the network's input.
        name: what to call it.
        file_sha256: of its file.
        copy: a copy of at most `MAP_SIDE` pixels to draw on, if anything is drawn.
    """

    seen: Seen
    pixels: Floats | None = None
    name: str = ""
    file_sha256: str | None = None
    copy: Image.Image | None = None


def run_batch(
    images: Sequence[str],
    engine: Engine,
    output: Path,
    options: BatchOptions = BatchOptions(),
    *,
    view: View = "crop",
    resume: bool = False,
    step: Callable[[int, bool], object] = lambda count, before: None,
) -> int:
    """Ask a network about many images, and keep what it says.

    The folder gets `images.parquet`, one row an image in their order (see `cait_viz.batch.rows`), and
    `run.json`, what made them; on wish a map, an archive and a page. A run that was interrupted at any point
    and is resumed writes the same bytes as one that was not.

    Args:
        images: paths or web addresses, each once.
        engine: the network.
        output: the folder to write; a new or empty one, or with `resume` that of the interrupted run.
        options: what is kept.
        view: what the network sees.
        resume: do what is missing and no more.
        step: gets a number of images that are done, and whether they were done before.

    Returns:
        How many images could not be read; their rows say why.

    Raises:
        OutputError: the folder cannot be written, or is of another run.
        CheckpointError: the weights are damaged: the numbers are not finite.
    """
    rows = Rows(engine, options.top)
    store = Store(output, _made_by(engine, options, view), rows.schema, resume=resume)
    for name, wanted in ((MAPS, options.maps), (ARRAYS, options.npz), (SHEET, options.sheet)):
        if wanted:
            (output / name).mkdir(exist_ok=True)
    step(sum(as_text(image) in store for image in images), True)
    writer = _Writer(rows, engine, output, options, view)
    try:
        for made in _answers(images, store, writer):
            store.add(made)
            step(len(made), False)
    finally:
        store.flush()
    store.finish([as_text(image) for image in images])
    if options.sheet:
        write_page(output, store.rows(), lambda image: f"{file_stem(image)}.jpg", describe(engine))
    return store.errors()


def file_stem(image: str) -> str:
    """The name, without ending, of what is written of an image: its own, and digits of its path's SHA-256.

    `image` is as in its row.
    """
    stem = Path(image.replace("\\", "/").rpartition("/")[2]).stem
    digest = hashlib.sha256(image.encode()).hexdigest()
    return f"{safe_name(stem, 'image')}_{digest[:10]}"


def _made_by(engine: Engine, options: BatchOptions, view: View) -> dict[str, Any]:
    model = describe(engine)
    return {
        "software": SOFTWARE,
        "model": model.name,
        "weights": model.weights,
        "weights_sha256": model.weights_sha256,
        "input_size": list(model.input_shape[::-1]),
        "trained_size": model.trained_size,
        "precision": engine.precision,
        "view": view,
        "classes_listed": options.top,
        "maps": options.maps,
        "npz": options.npz,
        "sheet": options.sheet,
        "block": options.block,
        "head": options.head,
        **options.appearance.facts(),
    }


def _answers(images: Sequence[str], store: Store, writer: "_Writer") -> Iterator[list[dict[str, Any]]]:
    """The rows of the images that have none, a batch at a time, when all else of them is written."""
    batches = (
        [image for image in images[start : start + BATCH] if as_text(image) not in store]
        for start in range(0, len(images), BATCH)
    )
    decoding: deque[list[Future[Decoded]]] = deque()
    writing: deque[list[Future[dict[str, Any]]]] = deque()
    # Pillow decodes one image at a time: more threads would only wait.
    with ThreadPoolExecutor(2) as decoders, ThreadPoolExecutor(2) as writers:
        try:
            for batch in [*filter(None, batches), *[[]] * _AHEAD]:
                decoding.append([decoders.submit(writer.decode, image) for image in batch])
                if len(decoding) > _AHEAD:
                    decoded = [future.result() for future in decoding.popleft()]
                    answers = zip(decoded, _ask(writer.engine, decoded), strict=True)
                    writing.append([writers.submit(writer.row, one, *answer) for one, answer in answers])
                if len(writing) > _AHEAD:
                    yield [future.result() for future in writing.popleft()]
            while writing:
                yield [future.result() for future in writing.popleft()]
        finally:
            for pool in (decoders, writers):
                pool.shutdown(wait=False, cancel_futures=True)


def _ask(engine: Engine, decoded: Sequence[Decoded]) -> list[tuple[Floats, dict[str, Floats]] | tuple[()]]:
    """Logits and class attention of each image; nothing of those that could not be read."""
    inputs = [one.pixels for one in decoded if one.pixels is not None]
    if not inputs:
        return [() for _ in decoded]
    # A single image would run on another graph, whose numbers may differ in their last digits.
    logits, _, attention = engine.forward(np.stack(inputs if len(inputs) > 1 else inputs * 2))
    check_finite(engine.source.file, logits, *attention.values())
    places = iter(range(len(inputs)))
    answers: list[tuple[Floats, dict[str, Floats]] | tuple[()]] = []
    for one in decoded:
        if one.pixels is None:
            answers.append(())
        else:
            place = next(places)
            answers.append((logits[place], {key: rows[place] for key, rows in attention.items()}))
    return answers


@dataclass(frozen=True)
class _Writer:
    """Makes an image ready for the network, and writes what the options ask for of it."""

    rows: Rows
    engine: Engine
    output: Path
    options: BatchOptions
    view: View

    def decode(self, image: str) -> Decoded:
        """Read an image."""
        try:
            loaded = load_image(image)
        except ImageError as error:
            return Decoded(Seen(image, error=one_line(str(error), 300)))
        pixels = normalize(
            np.asarray(resize_and_crop(loaded.image, self.engine.config.image_size, self.view))
        )
        seen = Seen(image, loaded.image.size, loaded.remark)
        if not self.options.draws:
            return Decoded(seen, pixels, loaded.name)
        copy = loaded.image
        copy.thumbnail((MAP_SIDE, MAP_SIDE), Image.Resampling.BICUBIC)
        return Decoded(seen, pixels, loaded.name, loaded.file_sha256, copy)

    def row(self, decoded: Decoded, *answer: Any) -> dict[str, Any]:
        """The row of an image, when all else of it is written; `answer`: its logits and class attention."""
        if answer and decoded.copy is not None:
            self._draw(decoded, decoded.copy, *answer)
        return self.rows.row(decoded.seen, *answer)

    def _draw(
        self, decoded: Decoded, copy: Image.Image, logits: Floats, attention: dict[str, Floats]
    ) -> None:
        options, stem = self.options, file_stem(as_text(decoded.seen.image))
        loaded = LoadedImage(copy, decoded.name, decoded.seen.remark)
        small = analysis_of(loaded, self.engine, self.view, logits, attention)
        whole = self._whole(decoded, small)
        if options.maps:
            drawn = small.overlay(options.block, options.head, **vars(options.appearance))
            title = small.title(options.block, options.head)
            facts = {**whole.facts(), **options.appearance.facts()}
            text = {"Title": title, "Software": facts.pop("software"), **facts}
            self._keep(MAPS, f"{stem}.png", png_bytes(drawn, text))
        if options.npz:
            self._keep(ARRAYS, f"{stem}.npz", whole.npz())
        if options.sheet:
            shown = small.reduced(THUMBNAIL_SIDE)
            drawn = shown.overlay(options.block, options.head, **vars(options.appearance))
            self._keep(SHEET, f"{stem}.jpg", thumbnail(Image.fromarray(shown.image), drawn))

    def _whole(self, decoded: Decoded, small: Analysis) -> Analysis:
        """The result of the image itself, whose pixels are gone: only its numbers can be asked for."""
        assert decoded.seen.size is not None
        width, height = decoded.seen.size
        return replace(
            small,
            image=np.broadcast_to(np.uint8(0), (height, width, 3)),
            file_sha256=decoded.file_sha256,
            box=seen_box((width, height), self.engine.config.image_size, self.view),
        )

    def _keep(self, folder: str, name: str, content: bytes) -> None:
        with atomic_write(self.output / folder / name) as file:
            file.write(content)
