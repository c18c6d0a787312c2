"""Time our forward pass by each engine, and timm's, in alternation.

    python benchmarks/forward.py [--timm-python PYTHON] [--rounds N] [--sides NAME,…] [VARIANT:BATCH …]

Prints, for each variant and batch size, the median milliseconds of each side and the median ratio to timm's
eager pass of the same round. All return the logits, ours the class attention as well. Without torch and timm
only our own times are printed. Each side is a process of its own that waits for its turn, so that the
threads of one do not slow down the other.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

DEFAULT = (
    "bundled:1", "bundled:8", "cait_xxs24_224:1", "cait_xxs24_224:8", "cait_s24_224:1", "cait_m36_384:1",
)  # fmt: skip


def load_ours(name: str, **options: Any) -> Any:
    """Our engine of the variant; with random weights, but for the bundled."""
    import numpy as np
    from safetensors.numpy import save_file

    from cait_viz._backend import import_keras
    from cait_viz.api import load_engine
    from cait_viz.model.timm_names import timm_tensors
    from cait_viz.weights.registry import get_variant

    variant = get_variant(name)
    random = np.random.default_rng(0)
    if options["engine"] == "keras":
        import_keras("tensorflow")
    with tempfile.TemporaryDirectory() as folder:
        path = None
        if variant.repo_id is not None:
            path = Path(folder) / f"{name}.safetensors"
            tensors = timm_tensors(variant.config).items()
            save_file({key: random.normal(0, 0.02, one.shape).astype("f") for key, one in tensors}, path)
        os.environ["XDG_CACHE_HOME"] = folder
        engine = load_engine(weights=path, **options)
        # Each graph is compiled while its file is there.
        for batch in (1, 2):
            engine.forward(np.zeros((batch, *variant.config.image_shape, 3), "f"))
    return engine


def prepare_ours(name: str, batch: int, **options: Any) -> Callable[[], object]:
    """Our forward pass of the variant, on random pixels."""
    import numpy as np

    engine = load_ours(name, **options)
    shape = (batch, *engine.config.image_shape, 3)
    images = np.random.default_rng(0).standard_normal(shape).astype("f")
    engine.forward(images)
    return lambda: engine.forward(images)


def prepare_timm(
    name: str, batch: int, *, compiled: bool = False, half: bool = False
) -> Callable[[], object]:
    """Timm's model of the variant on random pixels."""
    import torch
    from timm import create_model

    # The bundled architecture has no name in timm: it is cait_xxs24_224 with half the blocks.
    model = create_model("cait_xxs24_224", depth=12) if name == "bundled" else create_model(name)
    model.eval()
    size = model.patch_embed.img_size[0]
    images = torch.randn(batch, 3, size, size)
    network = torch.compile(model) if compiled else model

    def run() -> object:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            return network(images)

    run()
    return run


REFERENCE = "timm"
SIDES: dict[str, Callable[[str, int], Callable[[], object]]] = {
    "openvino": partial(prepare_ours, engine="openvino"),
    "openvino-bfloat16": partial(prepare_ours, engine="openvino", precision="bfloat16"),
    "keras": partial(prepare_ours, engine="keras"),
    REFERENCE: prepare_timm,
    "timm-compiled": partial(prepare_timm, compiled=True),
    "timm-bfloat16": partial(prepare_timm, half=True),
}


def serve(side: str, case: str) -> None:
    """Make ready, and then run one forward pass for each line of standard input and print its seconds."""
    name, _, batch = case.partition(":")
    run = SIDES[side](name, int(batch))
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


def start(python: str, script: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start the process of one side."""
    command = [python, script, "--serve", *arguments]
    known = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, text=True, env=known)


def measured(process: "subprocess.Popen[str]") -> list[float]:
    """What a process prints of one run, while nothing else runs."""
    assert process.stdin is not None
    assert process.stdout is not None
    print(file=process.stdin, flush=True)
    return [float(number) for number in process.stdout.readline().split()]


def compare(case: str, rounds: int, pythons: dict[str, str]) -> list[str]:
    """The rows of one variant and batch size."""
    sides = {side: start(python, __file__, side, case) for side, python in pythons.items()}
    runs = [{side: measured(process)[0] for side, process in sides.items()} for _ in range(1 + rounds)][1:]
    for process in sides.values():
        process.kill()
    rows = []
    for side in sides:
        ratio = "–"
        if REFERENCE in sides:
            ratio = f"{statistics.median(run[side] / run[REFERENCE] for run in runs):.2f}"
        rows.append(
            [*case.split(":"), side, f"{1e3 * statistics.median(run[side] for run in runs):.1f} ms", ratio]
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def has_timm(python: str) -> bool:
    """Whether that interpreter can import timm and torch."""
    return subprocess.run([python, "-c", "import timm, torch"], capture_output=True).returncode == 0


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", default=DEFAULT, metavar="VARIANT:BATCH")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sides", default=",".join(SIDES), help=f"of {', '.join(SIDES)} (default: all)")
    parser.add_argument("--timm-python", default=sys.executable, help="interpreter that has torch and timm")
    parser.add_argument("--serve", choices=tuple(SIDES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, *arguments.cases)
        return
    pythons = {
        side: arguments.timm_python if side.startswith(REFERENCE) else sys.executable
        for side in arguments.sides.split(",")
    }
    if not has_timm(arguments.timm_python):
        print("torch and timm cannot be imported here: only our own times follow")
        pythons = {side: python for side, python in pythons.items() if not side.startswith(REFERENCE)}
    print(f"| variant | batch | side | median | / {REFERENCE} |\n|---|---|---|---|---|")
    for case in arguments.cases:
        print(*compare(case, arguments.rounds, pythons), sep="\n", flush=True)


if __name__ == "__main__":
    main()
