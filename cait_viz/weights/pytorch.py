"""The tensors of a PyTorch checkpoint, such as the authors' .pth files."""

import argparse
from pathlib import Path

import numpy as np

from cait_viz._text import file_text, one_line
from cait_viz.errors import CheckpointError

# Where training programs keep the weights in what they save, and their exponential moving average.
_STATES = ("model", "state_dict", "model_ema", "state_dict_ema")
_SAVE = "save its state_dict with safetensors.torch.save_file and give that file"


def is_pickle(path: Path) -> bool:
    """Whether a file is a PyTorch checkpoint by its ending and its first bytes."""
    if path.suffix.lower() not in (".pth", ".pt") or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(4)
    return start == b"PK\x03\x04" or start[:1] == b"\x80"


def read(path: Path) -> dict[str, np.ndarray]:
    """The weights by their names in the file, floating-point ones as float32; no code in the file is run.

    What a training saved beside them is left out. The names begin with that of their dictionary, "model." or
    "model_ema.", where there is one.

    Raises:
        CheckpointError: PyTorch is not installed, or the file holds no weights that can be read safely.
    """
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{file_text(path)}: this is a PyTorch pickle, which can run code when it is opened; reading it "
            f"safely needs PyTorch: install it with `pip install torch`, or where it is installed {_SAVE}"
        ) from None
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the options of a training
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises for a damaged or a refused file is not documented
        reason = one_line(str(error).partition("\n")[0], 120)
        raise CheckpointError(
            f"{file_text(path)}: this is a PyTorch pickle, which can run code when it is opened, and without "
            f"that it cannot be read ({reason}); {_SAVE}"
        ) from None
    content = content if isinstance(content, dict) else {}
    states = {key: content[key] for key in _STATES if isinstance(content.get(key), dict)}
    if states:
        content = {f"{key}.{name}": value for key, state in states.items() for name, value in state.items()}
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise CheckpointError(f"{file_text(path)}: holds no tensors by name; {_SAVE}")
    return {
        name: np.ascontiguousarray((value.float() if value.is_floating_point() else value).detach().numpy())
        for name, value in tensors.items()
    }
