"""Time the steps of a training on this machine: images per second by backend, precision and resolution.

    python benchmarks/training.py [--backends torch tensorflow] [--sizes 112 160 224]

The bundled architecture with a teacher's features to predict, batches of 128 random images; rendering views
and the teacher are not timed. Each cell is measured in a process of its own; "memory kept" is what
`cait_viz._backend.keep_freed_memory` does.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product

BATCH, CHANNELS, GRID = 128, 352, 7
WARM_UP, TIMED = 2, 4


def measure(backend: str, precision: str, size: int, memory_kept: bool) -> float:
    """Images per second."""
    from cait_viz._backend import import_keras, keep_freed_memory

    import_keras(backend)
    if memory_kept:
        keep_freed_memory()
    import keras
    import numpy as np

    from cait_viz.model.cait import CaiT
    from cait_viz.training.trainer import TrainingModel
    from cait_viz.weights.registry import BUNDLED

    config = replace(BUNDLED.config, image_size=size)
    policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    model = TrainingModel(CaiT(config, dtype=policy), CHANNELS)
    model.compile_losses(keras.optimizers.AdamW(1e-3, global_clipnorm=1.0, use_ema=True), feature_weight=0.5)
    generator = np.random.default_rng(0)
    images = generator.standard_normal((BATCH, size, size, 3)).astype(np.float32)
    targets = {
        "classes": np.full((BATCH, config.num_classes), 1 / config.num_classes, np.float32),
        "features": generator.standard_normal((BATCH, GRID, GRID, CHANNELS)).astype(np.float32),
    }
    for step in range(WARM_UP + TIMED):
        if step == WARM_UP:
            begun = time.perf_counter()
        model.train_on_batch(images, targets)
    return TIMED * BATCH / (time.perf_counter() - begun)


def main() -> None:
    """Print a table; with --one, the number of one of its cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backends", nargs="+", default=["torch", "tensorflow"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[112, 160, 224])
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        backend, precision, size, kept = arguments.one
        print(measure(backend, precision, int(size), kept == "yes"))
        return
    print(
        "| backend | precision | memory kept | " + " | ".join(f"{size} px" for size in arguments.sizes) + " |"
    )
    print("|---" * (3 + len(arguments.sizes)) + "|")
    for backend, precision, kept in product(arguments.backends, ("float32", "bfloat16"), ("no", "yes")):
        cells = []
        for size in arguments.sizes:
            command = [sys.executable, __file__, "--one", backend, precision, str(size), kept]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            cells.append(f"{float(done.stdout):.0f}/s")
        print(f"| {backend} | {precision} | {kept} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
