"""What is done with models: `cait-viz models`, `fetch`, `evaluate`, `trust` and `export`."""

import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from tqdm import tqdm

from cait_viz._backend import BACKENDS, import_keras, installed_backend
from cait_viz._cache import LIMIT, entries, shrink
from cait_viz._files import check_folder, check_output
from cait_viz._text import counted, file_text, one_line
from cait_viz.batch.study import study
from cait_viz.cli.main import complain
from cait_viz.cli.options import (
    METHODS,
    EvaluatedModel,
    ExportedModel,
    Index,
    ManyImagesModel,
    Methods,
    ModelOptions,
    Output,
    TeacherSize,
    report,
)
from cait_viz.engine import graphs
from cait_viz.errors import CheckpointError, ImageError, SelectionError
from cait_viz.images.folders import files_below
from cait_viz.model.export import FORMATS, WITH_TENSORFLOW, export_model, require_packages
from cait_viz.weights import conversion
from cait_viz.weights.registry import BUNDLED, VARIANTS, get_variant
from cait_viz.weights.resolve import available, resolve


def models() -> None:
    """List the models, their size and accuracy, and which are on this machine."""
    here = available()
    line = "{:<14}  {:>10}  {:>8}  {:>5}  {:>4}"
    print(line.format("name", "parameters", "download", "top-1", "here"))
    for variant in VARIANTS.values():
        name = f"{variant.name} *" if variant is BUNDLED else variant.name
        parameters = f"{variant.parameters / 1e6:.2f} M"
        download = f"{variant.download_megabytes} MB" if variant.repo_id else "none"
        top1 = f"{variant.top1:.1f}" if variant.top1 is not None else "-"
        print(line.format(name, parameters, download, top1, "yes" if variant.name in here else "no"))
    print("\ntop-1: accuracy on ImageNet-1k in percent, as timm measured it.")
    print(f"* is used unless --model names another; its accuracy: {BUNDLED.accuracy}.")


def fetch(models: Annotated[list[str], Parameter(name="MODEL...")], /) -> int:
    """Download the weights of models into the cache of the Hugging Face hub.

    Args:
        models: names that `cait-viz models` lists.
    """
    status = 0  # of the process
    for name in [get_variant(name).name for name in dict.fromkeys(models)]:
        try:
            print(f"{name}: {resolve(name).path}", flush=True)
        except CheckpointError as error:  # the others may well be there
            complain(error)
            status = 1
    return status


def cache(*, clear: bool = False) -> None:
    """Show or clear the caches of exported networks and of converted checkpoints.

    A network is exported to OpenVINO the first time that it is used, and a SavedModel or PyTorch checkpoint
    is converted the first time that it is read; both again when the weights or this program have changed.
    Those unused for longest go when their cache is full.

    Args:
        clear: remove all of them.
    """
    for folder in (graphs.folder(), conversion.folder()):
        if clear:
            print(f"{shrink(folder, limit=0) / 1e6:.0f} MB removed from {folder}")
            continue
        found = entries(folder)
        for entry in found:
            used = datetime.fromtimestamp(entry.used).isoformat(" ", "minutes")
            print(f"{one_line(entry.name):<24}  {entry.size / 1e6:>7.0f} MB  last used {used}")
        total = sum(entry.size for entry in found)
        print(f"{total / 1e6:.0f} of at most {LIMIT / 1e6:.0f} MB in {folder}")


def evaluate(
    folders: Annotated[list[Path], Parameter(name="FOLDER...")],
    /,
    *,
    teacher: Path | None = None,
    teacher_size: TeacherSize = None,
    faithfulness: Index = 0,
    seed: Index = 0,
    model_options: EvaluatedModel = ModelOptions(),
) -> None:
    """Measure a model's accuracy on folders of labeled images, and how faithful its maps are, in Markdown.

    Args:
        folders: each holds a folder of images for each class, named as it or after its WordNet id.
        teacher: an ONNX file, see `cait-viz distil`, to be measured on the same images (default: none).
        faithfulness: number of images, spread over the classes of all folders, on which deletion and
            insertion are measured as well; about 310 forward passes an image.
        seed: decides which images these are, and what is random about the measurement.
    """
    from cait_viz.batch import evaluation

    lines = evaluation.evaluate(
        folders,
        model_options.checkpoint,
        model_options.class_names,
        load=model_options.load_engine,
        teacher=teacher,
        teacher_size=teacher_size,
        faithfulness=faithfulness,
        seed=seed,
    )
    for line in lines:
        print(line, flush=True)


def trust(
    images: Annotated[list[Path], Parameter(name="IMAGE...", help="images, and folders of images.")],
    /,
    *,
    json: Path,
    method: Methods = METHODS,
    seed: Index = 0,
    resume: bool = False,
    model_options: ManyImagesModel = ManyImagesModel(),
) -> None:
    """Measure on many images what maps are worth, and print a table of means in Markdown.

    Deletion and insertion (Petsiuk et al. 2018), average drop and increase in confidence (Chattopadhyay et
    al. 2018), of the class that is predicted, beside random maps and a centered Gaussian. In brackets: the
    95 % bootstrap interval of the mean. The network sees about 40 altered copies of an image for each map,
    and 160 more for the baselines.

    Args:
        json: where to write a row for each image, as JSON Lines; .jsonl or .json.
        seed: decides the random maps.
        resume: keep the rows that the file has, and measure what is missing or could not be read; the
            table is of all rows of the file.
    """
    _ = model_options.config
    given_files = [file for path in images for file in (files_below(path) if path.is_dir() else [path])]
    files = [file for file in given_files if file.resolve() != json.resolve()]  # the output of an earlier run
    if not files:
        raise SelectionError("there are no images in what was given")
    check_output(json, [".jsonl", ".json"], model_options.inputs(*(str(file) for file in files)))
    engine = model_options.load_engine()
    bar = tqdm(files, leave=False, file=sys.stderr, disable=None, unit=" images")
    with bar:
        table, unread = study(
            files, engine, list(dict.fromkeys(method)), json,
            view=model_options.view, seed=seed, resume=resume, step=lambda _: bar.update(),
        )  # fmt: skip
    print("\n".join(table))
    if unread:
        raise ImageError(f"{counted(unread, 'file')} cannot be read as an image; {file_text(json)} says why")


def export(
    model: str | None = None,
    /,
    *,
    format: Literal["savedmodel", "keras", "onnx", "timm"],
    output: Output | None = None,
    model_options: ExportedModel = ModelOptions(),
) -> None:
    """Write a model in a format that other programs read.

    Args:
        model: as --model of the other commands (default: bundled, or the architecture that --weights show).
        format: a folder with TensorFlow's SavedModel, whose outputs have the names of the Keras tutorial's
            port; a Keras file; an ONNX file; or a safetensors file with timm's tensor names.
        output: the file or folder to write (default: the model's name, with the format's ending).
    """
    model_options = replace(model_options, model=model)
    name = model or (model_options.checkpoint.name if model_options.weights else BUNDLED.name)
    ending = FORMATS[format]
    path = output or Path(f"{name}{ending or '_savedmodel'}")
    if ending:
        check_output(path, [ending], model_options.inputs())
    else:
        check_folder(path, model_options.inputs())
    require_packages(format)
    checkpoint = model_options.checkpoint  # before the seconds that a backend takes
    import_keras("tensorflow" if format in WITH_TENSORFLOW else installed_backend((*BACKENDS, "openvino")))
    from cait_viz.engine.keras import load_network

    export_model(load_network(checkpoint, model_options.labels), path, format, model_options.inputs())
    report(path, f"{name} as {format}")
