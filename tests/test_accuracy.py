"""Accuracy is what it says, and the sentences of a report say what the numbers mean."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cait_viz.metrics.accuracy import accuracy, top, top1_among, usual_measures
from cait_viz.metrics.faithfulness import CENTER, RANDOM
from cait_viz.metrics.report import published_remark, verdict


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 100))
def test_accuracy_is_the_share_of_images_whose_class_is_ranked_high_enough(count, classes, seed):
    generator = np.random.default_rng(seed)
    # Few different scores, so that there are ties: of these the lower index is ranked higher.
    scores = generator.integers(0, 4, (count, classes)).astype(np.float32)
    labels = generator.integers(0, max(classes, 2), count)
    own = {*labels.tolist()}
    batches = []

    def classify(images):
        batches.append(len(images))
        return scores[images[:, 0, 0, 0]]

    examples = [(np.full((2, 2, 3), number), label) for number, label in enumerate(labels)]
    measured = accuracy(classify, examples, {"1": top(1), "3": top(3), "own": top1_among(own)}, batch=7)
    if classes == 1:
        scores = np.concatenate([scores, np.zeros_like(scores)], axis=1)
    ranked = [sorted(range(scores.shape[1]), key=lambda kind: (-row[kind], kind)) for row in scores]
    expected = {
        "1": np.mean([label in order[:1] for label, order in zip(labels, ranked, strict=True)]),
        "3": np.mean([label in order[:3] for label, order in zip(labels, ranked, strict=True)]),
        "own": np.mean(
            [
                label == next(kind for kind in order if kind in own)
                for label, order in zip(labels, ranked, strict=True)
            ]
        ),
    }
    assert measured.images == count
    assert measured.shares == pytest.approx(expected)
    assert set(batches) == {7}


@pytest.mark.parametrize(("classes", "names"), [(1, ["top1"]), (5, ["top1"]), (6, ["top1", "top5"])])
def test_the_first_five_count_only_among_more_than_five_classes(classes, names):
    assert list(usual_measures(classes)) == names


def made_up(block, random, center):
    """Areas of eight images that differ little from (deletion, insertion) of each map."""
    wobble = np.linspace(-0.01, 0.01, 8)[:, None]
    return {
        "CA block 1": np.array(block) + wobble,
        CENTER: np.array(center) - wobble,
        RANDOM: np.tile(random, (8, 1)).astype(float),
    }


def test_a_block_beats_the_references_when_all_intervals_lie_on_the_right_side():
    areas = made_up(block=(0.1, 0.5), random=(0.2, 0.4), center=(0.2, 0.4))
    assert "beats both the random map and the centered Gaussian" in verdict(areas, "CA block 1", seed=0)


@pytest.mark.parametrize("center", [(0.2, 0.5), (0.2, 0.6)])
def test_a_block_does_not_beat_what_scores_as_well_or_better(center):
    areas = made_up(block=(0.1, 0.5), random=(0.2, 0.4), center=center)
    sentence = verdict(areas, "CA block 1", seed=0)
    assert "does not beat the centered Gaussian on insertion:" in sentence


def test_on_all_of_imagenets_classes_the_published_top1_stands_beside_the_measured():
    sentence = published_remark("cait_xxs24_224", 78.4, Path("val"), 78.13, classes=1000)
    assert sentence == "val: top-1 78.1 %, published 78.4 %, a difference of −0.3 points."


def test_on_fewer_classes_the_published_top1_is_said_to_be_for_all():
    sentence = published_remark("cait_xxs24_224", 78.4, Path("val"), 90.0, classes=10)
    assert "78.4 %, is for all of ImageNet's validation set; val holds 10 of its 1000 classes" in sentence
