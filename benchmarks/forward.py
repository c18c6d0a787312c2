"""Time our forward pass and timm's, in alternation.

    python benchmarks/forward.py [--timm-python PYTHON] [--rounds N] [VARIANT:BATCH …]

Prints, for each variant and batch size, the median milliseconds of both, the median ratio of neighboring
runs, and the seconds of each one's first call. Both return the logits, ours the class attention as well.
Without torch and timm only our own times are printed. Each side is a process of its own that waits for its
turn, so that the threads of one do not slow down the other.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

DEFAULT = ("bundled:1", "cait_xxs24_224:1", "cait_xxs24_224:8", "cait_s24_224:1", "cait_m36_384:1")


def prepare_ours(name: str, batch: int) -> Callable[[], object]:
    """Our compiled forward pass of the variant on random pixels."""
    import numpy as np

    from cait_viz.engine.keras import forward
    from cait_viz.model.cait import CaiT
    from cait_viz.weights.registry import get_variant

    config = get_variant(name).config
    model = CaiT(config)
    shape = (batch, config.image_size, config.image_size, 3)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return lambda: forward(model, images)


def prepare_timm(name: str, batch: int) -> Callable[[], object]:
    """Timm's eager model of the variant on random pixels."""
    import torch
    from timm import create_model

    # The bundled architecture has no name in timm: it is cait_xxs24_224 with half the blocks.
    model = create_model("cait_xxs24_224", depth=12) if name == "bundled" else create_model(name)
    model.eval()
    size = model.patch_embed.img_size[0]
    images = torch.randn(batch, 3, size, size)

    return torch.inference_mode()(lambda: model(images))


def serve(side: str, case: str) -> None:
    """Run one forward pass for each line of standard input and print its seconds."""
    name, _, batch = case.partition(":")
    run = (prepare_ours if side == "ours" else prepare_timm)(name, int(batch))
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def start(python: str, side: str, case: str) -> "subprocess.Popen[str]":
    """Start the process of one side."""
    command = [python, __file__, "--serve", side, case]
    known = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, text=True, env=known)


def seconds(process: "subprocess.Popen[str]") -> float:
    """Seconds of one forward pass, while nothing else runs."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return float(process.stdout.readline())


def compare(case: str, rounds: int, timm_python: str | None) -> str:
    """One row of the table."""
    sides = [start(sys.executable, "ours", case)]
    if timm_python is not None:
        sides.append(start(timm_python, "timm", case))
    first, *runs = [[seconds(side) for side in sides] for _ in range(1 + rounds)]
    for side in sides:
        side.kill()
    columns = [f"{1e3 * statistics.median(times):.1f} ms" for times in zip(*runs, strict=True)]
    ratio = f"{statistics.median(ours / timm for ours, timm in runs):.2f}" if timm_python else "–"
    firsts = " / ".join(f"{once:.1f} s" for once in first)
    return f"| {' | '.join([*case.split(':'), *columns, ratio, firsts])} |"


def has_timm(python: str) -> bool:
    """Whether that interpreter can import timm and torch."""
    return subprocess.run([python, "-c", "import timm, torch"], capture_output=True).returncode == 0


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", default=DEFAULT, metavar="VARIANT:BATCH")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--timm-python", default=sys.executable, help="interpreter that has torch and timm")
    parser.add_argument("--serve", choices=("ours", "timm"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, *arguments.cases)
        return
    timm_python = arguments.timm_python if has_timm(arguments.timm_python) else None
    if timm_python is None:
        print("torch and timm cannot be imported here: only our own times follow")
    print("| variant | batch | ours |" + (" timm |" if timm_python else "") + " ours / timm | first call |")
    for case in arguments.cases:
        print(compare(case, arguments.rounds, timm_python), flush=True)


if __name__ == "__main__":
    main()
