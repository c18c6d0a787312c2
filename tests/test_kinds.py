"""The table of kinds: what a person would say of each class of ImageNet-1k at a glance."""

from collections import Counter

import pytest

from cait_viz._resources import ASSETS
from cait_viz.weights.labels import imagenet_names

KINDS = (ASSETS / "imagenet_kinds.txt").read_text(encoding="ascii").splitlines()


def test_every_class_has_one_kind_and_no_kind_but_dog_and_bird_is_large():
    assert len(KINDS) == len(imagenet_names()) == 1000
    counts = Counter(KINDS)
    assert 75 <= len(counts) <= 95
    assert counts["dog"] == 118
    assert counts["bird"] == 59
    assert counts["other"] <= 30
    assert max(count for kind, count in counts.items() if kind not in ("dog", "bird")) <= 60


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tabby", "cat"),
        ("Border terrier", "dog"),
        ("coffee mug", "cup, glass or drink"),
        ("minibus", "bus or tram"),
        ("zebra", "horse or zebra"),
        ("church", "church or temple"),
        ("daisy", "flower or other plant"),
    ],
)
def test_a_class_is_of_the_kind_that_a_person_would_name(name, kind):
    index = next(index for index, label in enumerate(imagenet_names()) if label.split(",")[0] == name)
    assert KINDS[index] == kind
