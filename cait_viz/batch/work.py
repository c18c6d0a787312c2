"""What is done with each image of a batch, on this machine or on another: read, asked about, drawn.

Images are decoded in threads while the network runs, a batch at a time, and drawn in others; no more than a
few batches are in memory.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cait_viz._checks import check_finite
from cait_viz._text import one_line
from cait_viz.api import analysis_of
from cait_viz.attention.maps import Floats
from cait_viz.batch import buckets
from cait_viz.batch.rows import Rows, Seen, as_text
from cait_viz.batch.sheet import SHEET, thumbnail
from cait_viz.drawing.export import png_bytes, safe_name
from cait_viz.drawing.overlay import Appearance
from cait_viz.engine.base import Engine
from cait_viz.errors import ImageError
from cait_viz.images.preprocess import View, normalize, resize_and_crop, seen_box
from cait_viz.images.read import LoadedImage, load_image
from cait_viz.images.web import is_web_address
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
    def folders(self) -> list[str]:
        """What is written beside the rows, in folders of these names."""
        wanted = {MAPS: self.maps, ARRAYS: self.npz, SHEET: self.sheet}
        return [name for name, asked in wanted.items() if asked]


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


# A row, and what is to be written beside it: each file's path within the output, and its bytes.
Made = tuple[dict[str, Any], dict[str, bytes]]


def file_stem(image: str) -> str:
    """The name, without ending, of what is written of an image: its own, and digits of its path's SHA-256.

    `image` is as in its row.
    """
    stem = Path(image.replace("\\", "/").rpartition("/")[2]).stem
    digest = hashlib.sha256(image.encode()).hexdigest()
    return f"{safe_name(stem, 'image')}_{digest[:10]}"


class Worker:
    """Makes rows of images, and what the options ask for beside them.

    Args:
        engine: the network.
        options: what is kept.
        view: what the network sees.
        folder: where paths begin that are not absolute.

    Attributes:
        rows: makes the rows, and knows their schema.
    """

    def __init__(
        self, engine: Engine, options: BatchOptions = BatchOptions(), view: View = "crop", folder: str = ""
    ) -> None:
        self.rows = Rows(engine, options.top)
        self._engine, self._options, self._view, self._folder = engine, options, view, folder

    def answers(
        self, images: Iterable[str], then: Callable[[Made], dict[str, Any]]
    ) -> Iterator[list[dict[str, Any]]]:
        """What `then` makes, in a thread, of each image's row and files; a batch at a time, in their order.

        Raises:
            CheckpointError: the weights are damaged: the numbers are not finite.
        """
        images = iter(images)
        batches = iter(lambda: list(islice(images, BATCH)), [])
        decoding: deque[list[Future[Decoded]]] = deque()
        writing: deque[list[Future[dict[str, Any]]]] = deque()
        # Pillow decodes one image at a time: more threads would only wait.
        with ThreadPoolExecutor(2) as decoders, ThreadPoolExecutor(2) as writers:
            try:
                for batch in chain(batches, repeat([], _AHEAD)):
                    decoding.append([decoders.submit(self._decode, image) for image in batch])
                    if len(decoding) > _AHEAD:
                        decoded = [future.result() for future in decoding.popleft()]
                        answers = zip(decoded, _ask(self._engine, decoded), strict=True)
                        writing.append(
                            [writers.submit(self._made, then, one, *answer) for one, answer in answers]
                        )
                    if len(writing) > _AHEAD:
                        yield [future.result() for future in writing.popleft()]
                while writing:
                    yield [future.result() for future in writing.popleft()]
            finally:
                for pool in (decoders, writers):
                    pool.shutdown(wait=False, cancel_futures=True)

    def _decode(self, image: str) -> Decoded:
        try:
            loaded = self._read(image)
        except ImageError as error:
            return Decoded(Seen(image, error=one_line(str(error), 300)))
        pixels = normalize(
            np.asarray(resize_and_crop(loaded.image, self._engine.config.image_size, self._view))
        )
        seen = Seen(image, loaded.image.size, loaded.remark)
        if not self._options.folders:
            return Decoded(seen, pixels, loaded.name)
        copy = loaded.image
        copy.thumbnail((MAP_SIDE, MAP_SIDE), Image.Resampling.BICUBIC)
        return Decoded(seen, pixels, loaded.name, loaded.file_sha256, copy)

    def _read(self, image: str) -> LoadedImage:
        if buckets.in_bucket(image):
            return load_image(buckets.read_bytes(image), image.rpartition("/")[2])
        return load_image(image if is_web_address(image) else os.path.join(self._folder, image))  # noqa: PTH118

    def _made(self, then: Callable[[Made], dict[str, Any]], decoded: Decoded, *answer: Any) -> dict[str, Any]:
        """`answer`: the image's logits and class attention."""
        files = {}
        if answer and decoded.copy is not None:
            files = dict(self._drawn(decoded, decoded.copy, *answer))
        return then((self.rows.row(decoded.seen, *answer), files))

    def _drawn(
        self, decoded: Decoded, copy: Image.Image, logits: Floats, attention: dict[str, Floats]
    ) -> Iterator[tuple[str, bytes]]:
        options, stem = self._options, file_stem(as_text(decoded.seen.image))
        loaded = LoadedImage(copy, decoded.name, decoded.seen.remark)
        small = analysis_of(loaded, self._engine, self._view, logits, attention)
        whole = self._whole(decoded, small)
        if options.maps:
            drawn = small.overlay(options.block, options.head, **vars(options.appearance))
            title = small.title(options.block, options.head)
            facts = {
                **whole.facts(),
                **small.map_facts(options.block, options.head),
                **options.appearance.facts(),
            }
            text = {"Title": title, "Software": facts.pop("software"), **facts}
            yield f"{MAPS}/{stem}.png", png_bytes(drawn, text)
        if options.npz:
            yield f"{ARRAYS}/{stem}.npz", whole.npz()
        if options.sheet:
            reduced = small.reduced(THUMBNAIL_SIDE)
            drawn = reduced.overlay(options.block, options.head, **vars(options.appearance))
            yield f"{SHEET}/{stem}.jpg", thumbnail(Image.fromarray(reduced.image), drawn)

    def _whole(self, decoded: Decoded, small: Analysis) -> Analysis:
        """The result of the image itself, whose pixels are gone: only its numbers can be asked for."""
        assert decoded.seen.size is not None
        width, height = decoded.seen.size
        return replace(
            small,
            image=np.broadcast_to(np.uint8(0), (height, width, 3)),
            file_sha256=decoded.file_sha256,
            box=seen_box((width, height), self._engine.config.image_size, self._view),
        )


def _ask(engine: Engine, decoded: Sequence[Decoded]) -> list[tuple[Floats, dict[str, Floats]] | tuple[()]]:
    """Logits and class attention of each image; nothing of those that could not be read."""
    inputs = [one.pixels for one in decoded if one.pixels is not None]
    if not inputs:
        return [() for _ in decoded]
    # In OpenVINO a single image runs on another graph; elsewhere the numbers' last digits depend on how many
    # images are asked about at once.
    least = 2 if engine.name == "openvino" else BATCH
    asked = inputs + inputs[-1:] * (least - len(inputs))
    logits, _, attention = engine.forward(np.stack(asked))
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
