"""Pieces of the sentences that errors are made of."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

# A longer list of tensors is written by ranges of blocks; one of more than `_LISTED` entries is cut.
_LISTED_ONE_BY_ONE = 8
_LISTED = 60

# Join the letters of Persian and Indic words and the parts of an emoji, and do nothing else.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """A text on one line, with spaces for control characters and halves of surrogate pairs."""
    return "".join(char if char.isprintable() or char in _JOINERS else " " for char in text)


def one_line(text: str, limit: int = 160) -> str:
    """A text of unknown origin as part of a sentence: one line, no control characters, not too long."""
    text = " ".join(printable(text).split())
    return text if len(text) <= limit else f"{text[:limit]}…"


def listed(names: Iterable[str] | Mapping[str, str]) -> str:
    """Names, with what is to be said of each, for a sentence; many of them by ranges of blocks."""
    remarks = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, "")
    if len(remarks) > _LISTED_ONE_BY_ONE:
        remarks = _by_ranges(remarks)
    entries = [f"{one_line(name, 80)} {remark}".rstrip() for name, remark in remarks.items()]
    more = len(entries) - _LISTED
    return ", ".join(entries[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _by_ranges(remarks: Mapping[str, str]) -> dict[str, str]:
    """Join the tensors that differ in nothing but the number of their block: "blocks.0-23.norm1.weight"."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for name, remark in remarks.items():
        match = re.match(r"(.*?\.)(\d{1,9})(\..*)", name, re.ASCII | re.DOTALL)
        head, number, tail = match.groups() if match else (name, "-1", "")
        groups.setdefault((head, tail, remark), []).append(int(number))
    return {
        f"{head}{_ranges(numbers)}{tail}" if tail else head: remark
        for (head, tail, remark), numbers in groups.items()
    }


def _ranges(numbers: Iterable[int]) -> str:
    """[0, 1, 2, 5] as "0-2,5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ",".join("-".join(map(str, run)) for run in runs)


def number_text(number: float, pattern: str) -> str:
    """A number with the sign for minus in place of a hyphen: "−0.70". `pattern` is as in an f-string."""
    return f"{number:{pattern}}".replace("-", "−")


def counted(number: int, one: str, several: str = "") -> str:
    """A number with the word that follows it: "1 image", "2 images"; `several` where an "s" does not do."""
    return f"{number} {one if number == 1 else several or f'{one}s'}"


def told_apart(names: Iterable[str]) -> list[str]:
    """The names, of which each that came before gets its number: "cat", "cat (2)"."""
    met: Counter[str] = Counter()
    apart = []
    for name in names:
        met[name] += 1
        apart.append(f"{name} ({met[name]})" if met[name] > 1 else name)
    return apart


def path_text(path: Path) -> str:
    """A path as part of a sentence."""
    return one_line(str(path), 200)


def file_text(path: Path) -> str:
    """A file's name as part of a sentence."""
    return one_line(path.name or str(path), 100)
