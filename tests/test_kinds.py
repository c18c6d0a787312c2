"""The table of kinds: what a person would say of each class of ImageNet-1k at a glance."""

import io
from collections import Counter

import numpy as np
import pytest
from analyses import analysis_of
from hypothesis import given
from hypothesis import strategies as st

from cait_viz._resources import ASSETS
from cait_viz.metrics.accuracy import kind_within
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


def test_a_model_of_imagenets_classes_has_kinds_whatever_made_it(bundled):
    from cait_viz.weights.labels import class_kinds

    assert class_kinds(bundled.labels) == tuple(KINDS)
    assert class_kinds(imagenet_names()[::-1]) == ()
    assert class_kinds(("tabby", "Border terrier")) == ()


@given(st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5))
def test_a_kind_has_the_probability_of_its_classes_together_and_the_best_comes_first(shares):
    of = ("fish", "fish", "cat", "cat", "big cat")
    found = analysis_of(probabilities=np.array(shares) + 1e-6, class_kinds=of).kinds()
    assert sorted(kind for kind, _ in found) == ["big cat", "cat", "fish"]
    assert [share for _, share in found] == sorted((share for _, share in found), reverse=True)
    for kind, share in found:
        together = sum(one + 1e-6 for one, name in zip(shares, of, strict=True) if name == kind)
        assert share == pytest.approx(together, abs=1e-5)


def test_without_kinds_nothing_speaks_of_them():
    plain = analysis_of()
    assert plain.kinds() == []
    assert "kinds" not in np.load(io.BytesIO(plain.npz()))
    assert plain.facts()["kinds"] == []


def test_the_files_hold_the_kinds():
    analysis = analysis_of(class_kinds=("fish", "fish", "cat", "cat", "big cat"))
    numbers = np.load(io.BytesIO(analysis.npz()))
    assert list(numbers["kinds"]) == ["cat", "fish", "big cat"]
    assert numbers["kind_probabilities"].tolist() == pytest.approx([0.75, 0.2, 0.05])
    assert analysis.facts()["kinds"][0] == {"kind": "cat", "probability": pytest.approx(0.75)}
    for figure in ("heads", "saliency"):
        drawn = analysis.figure(figure, "svg").decode()
        assert "cat 75 %" in drawn or ("kind: cat" in drawn and "75 %" in drawn)


@given(st.integers(1, 30), st.integers(0, 100))
def test_the_accuracy_of_kinds_is_the_share_of_images_whose_kind_is_ranked_high_enough(count, seed):
    generator = np.random.default_rng(seed)
    of = ("fish", "fish", "cat", "cat", "big cat", "dog")
    scores = generator.normal(size=(count, 6)).astype(np.float32)
    labels = generator.integers(0, 6, count)
    for within in (1, 3):
        right = []
        for row, label in zip(np.exp(scores), labels, strict=True):
            sums = Counter()
            for share, kind in zip(row, of, strict=True):
                sums[kind] += share
            right.append(of[label] in [kind for kind, _ in sums.most_common(within)])
        assert kind_within(of, within)(scores, labels).tolist() == right
