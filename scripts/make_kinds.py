"""Make assets/imagenet_kinds.txt: for each class of ImageNet-1k, in plain words, the kind of thing it is.

    apt install wordnet-base
    python scripts/make_kinds.py [/usr/share/wordnet/data.noun]

WordNet 3.0 knows for every noun what it is a kind of (its hypernyms), and ImageNet's ids are WordNet's
offsets. kinds.txt lists the kinds that a person would name at a glance, each with the nouns it begins at. A
class belongs to the kind of its nearest noun among its hypernyms, itself included; of several at the same
distance the kind that stands first there decides. What belongs to none is "other".
"""

import sys
from collections import Counter
from pathlib import Path

ASSETS = Path(__file__).parent.parent / "assets"
WORDNET = Path("/usr/share/wordnet/data.noun")
OTHER = "other"

# The nouns that each kind begins at.
KINDS = dict(line.split(": ") for line in Path(__file__).with_name("kinds.txt").read_text().splitlines())


def read_hypernyms(path: Path) -> dict[str, list[str]]:
    """The hypernyms of every noun, by WordNet id ("n02084071"); the format is described in wndb(5WN)."""
    hypernyms = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the license
            continue
        fields = line.partition("|")[0].split()
        first_pointer = 5 + 2 * int(fields[3], 16)
        pointers = [fields[start : start + 3] for start in range(first_pointer, len(fields) - 3, 4)]
        hypernyms[f"n{fields[0]}"] = [
            f"n{offset}" for symbol, offset, part in pointers if symbol in ("@", "@i") and part == "n"
        ]
    return hypernyms


def kind_of(synset: str, hypernyms: dict[str, list[str]]) -> str:
    """The kind of the nearest noun that a kind begins at."""
    starts = {noun: kind for kind, nouns in KINDS.items() for noun in nouns.split()}
    level = [synset]
    while level:
        reached = {starts[noun] for noun in level if noun in starts}
        if reached:
            return next(kind for kind in KINDS if kind in reached)
        level = [above for noun in level for above in hypernyms[noun]]
    return OTHER


def main() -> None:
    """Write the table and print how many classes each kind has."""
    hypernyms = read_hypernyms(Path(sys.argv[1]) if len(sys.argv) > 1 else WORDNET)
    unknown = [noun for nouns in KINDS.values() for noun in nouns.split() if noun not in hypernyms]
    if unknown:
        sys.exit(f"WordNet does not hold {', '.join(unknown)}")
    synsets = (ASSETS / "imagenet_synsets.txt").read_text(encoding="ascii").split()
    kinds = [kind_of(synset, hypernyms) for synset in synsets]
    (ASSETS / "imagenet_kinds.txt").write_text("".join(f"{kind}\n" for kind in kinds), encoding="ascii")
    counts = Counter(kinds)
    for kind in (*KINDS, OTHER):
        print(f"{counts[kind]:4}  {kind}")


if __name__ == "__main__":
    main()
