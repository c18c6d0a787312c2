"""Time `cait-viz batch` beside the bare forward pass, and beside a plain loop with timm, in alternation.

    python benchmarks/batch.py [--timm-python PYTHON] [--rounds N] [--images N] [VARIANT …]

Prints, for each variant, the median images a second of each side, the median ratio of the rows alone to it in
the same round, and the largest memory of its process. The images are JPEG files of 500 × 375 pixels, parts of
the samples. timm's loop reads them by a DataLoader with one worker, eight at a time, and keeps the class
attention of both class-attention blocks by hooks. Each side is a process of its own that waits for its turn.
"""

import argparse
import itertools
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from forward import has_timm, load_ours, measured, prepare_ours, start
from PIL import Image, ImageOps

DEFAULT = ("bundled", "cait_xxs24_224", "cait_s24_224")
SIZE = (500, 375)
BATCH, TIMM_BATCH = 32, 8


def make_images(folder: Path, count: int) -> None:
    """Many different JPEG files."""
    files = sorted((Path(__file__).parents[1] / "assets" / "samples").glob("*.jpg"))
    samples = itertools.cycle([ImageOps.fit(Image.open(file), (700, 525)) for file in files])
    for number, sample in zip(range(count), samples, strict=False):
        left, top = number * 7 % 200, number * 13 % 150
        part = sample.crop((left, top, left + SIZE[0], top + SIZE[1]))
        part.save(folder / f"{number:06}.jpg", quality=90)


def prepare_forward(name: str, folder: Path) -> Callable[[], object]:
    """The bare forward pass of as many images, in batches of the same size."""
    run = prepare_ours(name, BATCH, engine="openvino")
    return lambda: [run() for _ in range(len(list(folder.iterdir())) // BATCH)]


def prepare_batch(name: str, folder: Path, *, draws: bool = False) -> Callable[[], object]:
    """`cait-viz batch`, without the start of its process."""
    from cait_viz.batch.listing import list_images
    from cait_viz.batch.local import run_batch
    from cait_viz.batch.work import BatchOptions

    engine = load_ours(name, engine="openvino")
    options = BatchOptions(maps=draws, npz=draws, sheet=draws)

    def run() -> object:
        with tempfile.TemporaryDirectory() as out:
            return run_batch(list_images([str(folder)], Path(out)), engine, Path(out) / "out", options)

    return run


def prepare_timm(name: str, folder: Path) -> Callable[[], object]:
    """The loop that a person would write."""
    import numpy as np
    import torch
    from timm import create_model

    model = create_model("cait_xxs24_224", depth=12) if name == "bundled" else create_model(name)
    model.eval()
    kept: list[Any] = []
    for block in model.blocks_token_only:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, __, attention: kept.append(attention.numpy()))
    side = model.patch_embed.img_size[0]
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    class Images(torch.utils.data.Dataset):
        files = sorted(folder.iterdir())

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, index: int) -> Any:
            image = Image.open(self.files[index]).convert("RGB")
            image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(image)).float() / 255
            return ((pixels - mean) / deviation).permute(2, 0, 1)

    loader = torch.utils.data.DataLoader(Images(), TIMM_BATCH, num_workers=1)

    def run() -> object:
        kept.clear()
        with torch.inference_mode():
            return [model(images).softmax(-1).topk(5) for images in loader]

    return run


SIDES: dict[str, Callable[[str, Path], Callable[[], object]]] = {
    "rows": prepare_batch,
    "rows, maps, arrays and page": partial(prepare_batch, draws=True),
    "bare forward pass": prepare_forward,
    "timm": prepare_timm,
}


def serve(side: str, name: str, folder: Path) -> None:
    """Make ready, and then run once for each line of standard input; print the seconds and the megabytes."""
    run = SIDES[side](name, folder)
    for _ in sys.stdin:
        begun = time.perf_counter()
        run()
        taken = time.perf_counter() - begun
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"{taken} {used}", flush=True)


def compare(name: str, folder: Path, count: int, rounds: int, pythons: dict[str, str]) -> list[str]:
    """The rows of one variant."""
    sides = {side: start(python, __file__, side, name, str(folder)) for side, python in pythons.items()}
    runs = [{side: measured(process) for side, process in sides.items()} for _ in range(1 + rounds)][1:]
    for process in sides.values():
        process.kill()
    rows = []
    for side in sides:
        rate = statistics.median(count / run[side][0] for run in runs)
        ratio = statistics.median(run[side][0] / run["rows"][0] for run in runs)
        memory = max(run[side][1] for run in runs)
        rows.append(f"| {name} | {side} | {rate:.1f} | {ratio:.2f} | {memory:.0f} MB |")
    return rows


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("variants", nargs="*", default=DEFAULT, metavar="VARIANT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=256, help=f"a multiple of {BATCH} (default: 256)")
    parser.add_argument("--timm-python", default=sys.executable, help="interpreter that has torch and timm")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        side, name, folder = arguments.serve
        serve(side, name, Path(folder))
        return
    pythons = {side: arguments.timm_python if side == "timm" else sys.executable for side in SIDES}
    if not has_timm(arguments.timm_python):
        print("torch and timm cannot be imported here: only our own times follow")
        del pythons["timm"]
    print("| variant | side | images a second | rows / it | memory |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), arguments.images)
        for name in arguments.variants:
            rows = compare(name, Path(folder), arguments.images, arguments.rounds, pythons)
            print(*rows, sep="\n", flush=True)


if __name__ == "__main__":
    main()
