"""The tensors of a PyTorch checkpoint, such as the authors' .pth files."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cait_viz._text import file_text, one_line
from cait_viz.errors import CheckpointError

_ZIP = b"PK\x03\x04"
_SAVE = "save its state_dict with safetensors.torch.save_file and give that file"


def is_pickle(path: Path) -> bool:
    """Whether a file is a PyTorch checkpoint by its first bytes: a pickle, or a ZIP archive with one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(512)
    if start[8:9] == b"{":  # a safetensors file, whose header has by chance such a length
        return False
    # Of an archive that was cut there is perhaps no more than the signature.
    named = path.suffix.lower() in (".pth", ".pt", ".bin", ".ckpt") and start.startswith(_ZIP)
    return named or re.match(rb"\x80[\x02-\x05]|PK\x03\x04.*\.pkl", start, re.DOTALL) is not None


def read(path: Path) -> dict[str, np.ndarray]:
    """The weights by their names in the file, floating-point ones as float32; no code in the file is run.

    A name begins with those of the dictionaries that it lies in, such as "model." or "ema.shadow.". What a
    training saved beside the weights of a CaiT is left out.

    Raises:
        CheckpointError: PyTorch is not installed, or the file holds no weights that can be read safely.
    """
    with path.open("rb") as file:
        cut = file.read(4) == _ZIP and not zipfile.is_zipfile(file)
    if cut:
        raise CheckpointError(
            f"{file_text(path)}: this PyTorch checkpoint is damaged or cut short; download or save it again"
        )
    try:
        import torch
    except ImportError:
        raise CheckpointError(
            f"{file_text(path)}: this is a PyTorch pickle, which can run code when it is opened; reading it "
            f"safely needs PyTorch: install it with `pip install torch`, or where it is installed {_SAVE}"
        ) from None
    try:
        # With a path, the ending would count for torch and not the content. A training saves its options.
        with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        reason = f" (it asks for {one_line(asked[1], 80)})" if asked else ""
        raise CheckpointError(
            f"{file_text(path)}: this is a PyTorch pickle, which can run code when it is opened, and without "
            f"that it cannot be read{reason}; {_SAVE}"
        ) from None
    except Exception as error:  # what torch raises for a damaged file is not documented
        reason = one_line(str(error).partition("\n")[0], 120)
        raise CheckpointError(
            f"{file_text(path)}: this PyTorch checkpoint is damaged, cut short or of an unknown kind "
            f"({reason}); download it again, or {_SAVE}"
        ) from None
    content = content if isinstance(content, dict) else {}
    groups = list(_groups(content))
    caits = [group for group in groups if any(name.endswith("cls_token") for name in group)]
    caits += _averages(content, caits)
    tensors = {name: tensor for group in caits or groups for name, tensor in group.items()}
    if not tensors:
        raise CheckpointError(f"{file_text(path)}: holds no tensors by name; {_SAVE}")
    return {
        name: np.ascontiguousarray((value.float() if value.is_floating_point() else value).detach().numpy())
        for name, value in tensors.items()
    }


def _averages(content: Mapping[Any, Any], groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """EMAs that are lists in the order of a group's tensors, as the package torch_ema saves them."""
    found = []
    for key, part in content.items():
        shadow = part.get("shadow_params") if isinstance(part, dict) else None
        for group in groups:
            if isinstance(shadow, list) and [*map(_shape, shadow)] == [*map(_shape, group.values())]:
                names = (f"{key}.ema.{name}" for name in group)
                found.append(dict(zip(names, shadow, strict=True)))
    return found


def _shape(value: Any) -> object:
    return getattr(value, "shape", None)


def _groups(content: Mapping[Any, Any], prefix: str = "") -> Iterator[dict[str, Any]]:
    """The tensors that lie in a dictionary by name, then those in each of the dictionaries within."""
    import torch

    named = {f"{prefix}{name}": value for name, value in content.items() if isinstance(name, str)}
    yield {name: value for name, value in named.items() if isinstance(value, torch.Tensor)}
    for name, value in named.items():
        if isinstance(value, dict):
            yield from _groups(value, f"{name}.")
