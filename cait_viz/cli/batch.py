"""`cait-viz batch`."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any

from cyclopts import Parameter
from tqdm import tqdm

from cait_viz._text import counted
from cait_viz.batch.index import Index
from cait_viz.batch.listing import STANDARD_INPUT, list_images
from cait_viz.batch.local import run_batch
from cait_viz.batch.ray import ModelSpec, run_on_ray
from cait_viz.batch.store import ROWS, check_output
from cait_viz.batch.work import BatchOptions
from cait_viz.cli.images import Drawing
from cait_viz.cli.main import complain
from cait_viz.cli.options import Block, Count, Head, ManyImagesModel, Output, report, tell
from cait_viz.drawing.overlay import Appearance
from cait_viz.errors import UsageError


def batch(
    images: Annotated[list[str], Parameter(name="IMAGE...", allow_leading_hyphen=True)],
    /,
    *,
    output: Output,
    top: Count = 5,
    maps: bool = False,
    npz: bool = False,
    sheet: bool = False,
    resume: bool = False,
    ray: str | None = None,
    ray_cores: Count | None = None,
    block: Block = None,
    head: Head = "mean",
    appearance: Drawing = Appearance(),
    model_options: ManyImagesModel = ManyImagesModel(),
) -> int:
    """Classify many images, and write what each head looked at.

    The folder gets images.parquet, one row an image: the classes and kinds, and for each head of each
    class-attention block the attention of the class token to itself, the entropy of the rest, and the center
    and the spread of its map. A file that cannot be read as an image is a row with the reason; the status is
    then 1.

    Args:
        images: images, folders, patterns such as "photos/**/*.jpg", addresses of images (https://), of images
            and folders in buckets (s3://, gs://), text files (.txt) of all these, and - for a list from the
            standard input. In a list, a folder of a bucket ends in /.
        output: the folder to write; a new or empty one.
        top: how many classes and kinds a row lists.
        maps: write an overlay of each image, of at most 1024 pixels, into the folder maps.
        npz: write the class attention of each image as a NumPy archive into the folder npz.
        sheet: write index.html, a page to look through all images and their maps.
        resume: go on with a run that was interrupted: do what is missing and no more. What could not be read
            before is tried again; rows of images that are not given this time are kept, behind the others.
        ray: look at the images on a Ray cluster, with the same output: auto for the one that this machine is
            part of, local for a new one on this machine, or HOST:PORT. All its machines see the images and
            the weights at the same paths (default: none, this machine alone looks at them).
        ray_cores: cores of a machine for each copy of the network on a Ray cluster (default: 1).
    """
    _refuse_options_among(images)
    if ray_cores is not None and ray is None:
        raise UsageError("--ray-cores is for --ray; leave it out, or name a cluster")
    model_options.check_block(block)
    check_output(output, resume=resume)
    options = BatchOptions(
        top=top,
        maps=maps,
        npz=npz,
        sheet=sheet,
        block=block,
        head=model_options.head_index(head),
        appearance=appearance,
    )
    left_out: Counter[str] = Counter()
    files = Index(list_images(images, output, lambda name: left_out.update([PurePath(name).suffix])))
    if left_out:
        endings = ", ".join(f"{count} {ending}" for ending, count in left_out.most_common())
        tell(f"left out of folders, no images by their endings: {endings}")
    engine = model_options.load_engine()
    bar = tqdm(total=len(files), leave=False, file=sys.stderr, disable=None, unit=" images", miniters=1)

    def step(count: int, before: bool) -> None:
        if before:  # no part of the images a second
            bar.n = bar.last_print_n = bar.initial = count
            bar.total = len(files)  # rows of images that are not given this time come to those that are
            bar.refresh()
        else:
            bar.update(count)

    given = len(files)
    how: dict[str, Any] = {"view": model_options.view, "resume": resume, "step": step}
    try:
        with bar:
            if ray is None:
                unread = run_batch(files, engine, output, options, **how)
            else:
                weights = model_options.weights and model_options.weights.expanduser().absolute()
                spec = ModelSpec(
                    name=model_options.model, weights=weights, image_size=model_options.image_size
                )
                how |= {"address": ray, "cores": ray_cores or 1}
                unread = run_on_ray(files, spec, engine, output, options, **how)
    except KeyboardInterrupt:
        done = f"{files.done()} of {len(files)} images"
        tell(f"stopped after {done}; run the same command with --resume to continue")
        raise
    if len(files) > given:
        tell(f"{counted(len(files) - given, 'row')} of images that are not given this time, kept as before")
    report(output / ROWS, f"{counted(len(files), 'row')}, by {engine.source.name}")
    if unread:
        complain(f"{unread} of {len(files)} images could not be read; their rows say why")
    return int(bool(unread))


def _refuse_options_among(images: Sequence[str]) -> None:
    """Refuse a mistyped option, which among the names of images is taken for one."""
    for name in images:
        if name.startswith("-") and name != STANDARD_INPUT and not os.path.lexists(name):
            raise UsageError(f"there is no option {name}, and no such file; see cait-viz batch --help")
