"""The named tensors of a checkpoint, whatever kind of file holds them."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]

# What training programs put before the names of a network, or of its exponential moving average (EMA).
_EMA = ("ema", "ema_model", "model_ema", "state_dict_ema")
_WRAPPERS = ("module", "_orig_mod", "model", "backbone", "state_dict", *_EMA)
_PREFIX = re.compile(rf"(?:(?:{'|'.join(_WRAPPERS)})\.)*")


class Tensor(NamedTuple):
    """A tensor's shape and its type, by safetensors' name ("F32")."""

    shape: Shape
    dtype: str


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """A file of named tensors, of which only the header has been read.

    Attributes:
        path: the file.
        header: shape and type of each tensor by its name.
        read: reads the tensors of these names. It opens the file again and raises CheckpointError.
        remark: a sentence on how the file was understood, where that needs one; else empty.
    """

    path: Path
    header: Mapping[str, Tensor]
    read: Callable[[Iterable[str]], dict[str, np.ndarray]]
    remark: str = ""


def unwrap(file: TensorFile) -> TensorFile:
    """The same tensors without the prefix that all their names share, such as "module._orig_mod.".

    Of a file that holds a network and its EMA, the EMA is kept. Any other mixture of prefixes stays as it is.
    """
    groups: dict[str, dict[str, str]] = {}  # prefix -> name without it -> name in the file
    for name in file.header:
        prefix = _PREFIX.match(name)[0]  # type: ignore[index]  # it matches the empty text too
        groups.setdefault(prefix, {})[name.removeprefix(prefix)] = name
    averages = [prefix for prefix in groups if set(prefix.split(".")) & set(_EMA)]
    same_names = len({frozenset(group) for group in groups.values()}) == 1
    if len(groups) == 2 and len(averages) == 1 and same_names:
        kept, remark = averages[0], "The file holds a model and its EMA; the EMA is used."
    elif len(groups) == 1:
        (kept,), remark = groups, file.remark
    else:
        return file
    stored = groups[kept]
    return replace(
        file,
        header={name: file.header[original] for name, original in stored.items()},
        read=lambda names: {
            original.removeprefix(kept): value
            for original, value in file.read(stored[name] for name in names).items()
        },
        remark=remark,
    )
