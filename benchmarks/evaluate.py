"""Measure how often a model names the picture: top-1, top-5, and top-1 among the folder's own classes.

    python benchmarks/evaluate.py FOLDER… [--model M] [--weights FILE]

Each FOLDER holds one folder of pictures a class, named after its WordNet id ("n02123045"), as
ImageNet's validation set, Imagenette and Imagewoof are. The model's classes are ImageNet-1k's.
For a published model its published top-1 is printed beside.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cait_viz.errors import CaitVizError
from cait_viz.preprocessing import prepare
from cait_viz.quiet import import_tensorflow
from cait_viz.resources import ASSETS

# Enough to keep two cores busy; the last batch is filled up, so that one shape is compiled.
BATCH = 8


def class_indices() -> dict[str, int]:
    """Index of each WordNet id in ImageNet-1k's usual order."""
    identities = (ASSETS / "imagenet_synsets.txt").read_text(encoding="ascii").split()
    return {identity: index for index, identity in enumerate(identities)}


def pictures(folder: Path) -> list[tuple[Path, int]]:
    """Every file of the class folders, with the index of its class."""
    known = class_indices()
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    unknown = [entry.name for entry in classes if entry.name not in known]
    if unknown or not classes:
        raise CaitVizError(
            f"{folder}: not a folder of WordNet ids ({', '.join(unknown[:3]) or 'it is empty'})"
        )
    return [(path, known[entry.name]) for entry in classes for path in sorted(entry.iterdir())]


def logits(files: list[tuple[Path, int]], model_name: str | None, weights: Path | None) -> np.ndarray:
    """(pictures, classes) float32."""
    from cait_viz.inference import forward
    from cait_viz.pipeline import load_model

    model = load_model(model_name, weights=weights)

    def rows() -> Iterator[np.ndarray]:
        for start in range(0, len(files), BATCH):
            chunk = files[start : start + BATCH]
            images = np.concatenate([prepare(path, model.config.image_size) for path, _ in chunk])
            filled = np.resize(images, (BATCH, *images.shape[1:]))
            yield forward(model, filled)[0][: len(chunk)]
            print(f"\r{start + len(chunk)} of {len(files)}", end="", file=sys.stderr)
        print("\r", end="", file=sys.stderr)

    return np.concatenate(list(rows()))


def evaluate(folder: Path, model_name: str | None, weights: Path | None) -> str:
    """One row of the table."""
    files = pictures(folder)
    truth = np.array([index for _, index in files])
    scores = logits(files, model_name, weights)
    ranking = np.argsort(-scores, axis=1)
    own = np.unique(truth)
    among_own = own[scores[:, own].argmax(axis=1)]
    shares = (ranking[:, 0] == truth, (ranking[:, :5] == truth[:, None]).any(axis=1), among_own == truth)
    columns = " | ".join(f"{100 * share.mean():.1f} %" for share in shares)
    return f"| {folder} | {len(files)} | {columns} |"


def main() -> int:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--model")
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    import_tensorflow()
    try:
        from cait_viz.checkpoints import resolve

        checkpoint = resolve(arguments.model, arguments.weights)
        print(f"{checkpoint.name}, weights {checkpoint.path.name}, SHA-256 {checkpoint.sha256}")
        if checkpoint.as_published and checkpoint.variant and checkpoint.variant.top1:
            print(f"published top-1 on ImageNet's validation set: {checkpoint.variant.top1:.1f} %")
        print("| folder | pictures | top-1 | top-5 | top-1 among its own classes |")
        for folder in arguments.folders:
            print(evaluate(folder, arguments.model, arguments.weights), flush=True)
    except (CaitVizError, OSError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
