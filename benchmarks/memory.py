"""Memory of questions about one image beside a plain forward pass.

    python benchmarks/memory.py [VARIANT]      # default cait_m48_448; random weights of its architecture

Prints the peak memory of a process for each question (VmHWM, Linux), in megabytes.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from cait_viz.model.timm_names import timm_tensors
from cait_viz.weights.registry import get_variant

QUESTIONS = {
    "forward pass": "engine.forward(image)",
    "one self-attention block": "engine.self_attention(engine.patches(image, [9])[0], 9)",
}
# The forward pass comes before every question, as in the app; the export is over then.
CHILD = """
import re, sys
from pathlib import Path
import numpy as np
import cait_viz
engine = cait_viz.load_engine(weights=sys.argv[1])
shape = engine.config.image_shape
image = np.random.default_rng(0).standard_normal((1, *shape, 3)).astype(np.float32)
engine.forward(image)
exec(sys.argv[2])
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def main() -> None:
    """Print the peak of each question."""
    config = get_variant(sys.argv[1] if len(sys.argv) > 1 else "cait_m48_448").config
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        shapes = {name: one.shape for name, one in timm_tensors(config).items()}
        save_file({name: random.normal(0, 0.02, shape).astype("f") for name, shape in shapes.items()}, path)
        environment = os.environ | {"XDG_CACHE_HOME": folder}
        plain = 0.0
        for question in ("", *QUESTIONS.values()):  # the first exports
            command = [sys.executable, "-c", CHILD, str(path), question]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
            peak = int(re.findall(r"\d+", done.stdout)[-1]) / 1000
            names = {code: name for name, code in QUESTIONS.items()}
            if question:
                plain = plain or peak
                print(f"{names[question]}: {peak:.0f} MB ({peak - plain:+.0f})", flush=True)


if __name__ == "__main__":
    main()
