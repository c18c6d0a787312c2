"""What happens before the class token, against the network itself on both engines."""

from dataclasses import replace

import numpy as np
import pytest

import cait_viz
from cait_viz.attention.patch_stage import mean_distance, read_out, rollout
from cait_viz.attention.probabilities import probabilities
from cait_viz.errors import CheckpointError, SelectionError
from cait_viz.results.tracing import patch_at


@pytest.fixture(scope="module", params=["openvino", "keras"])
def engine(request, tiny_weights):
    return cait_viz.load_engine(weights=tiny_weights, engine=request.param)


@pytest.fixture(scope="module")
def trace(engine, photo):
    return cait_viz.trace(photo, engine, name="photo.png")


@pytest.fixture(scope="module")
def expected(tiny_model, photo):
    """The softmax of each block, and what the class stage makes of the patches at each depth."""
    depths = []
    tiny_model.encode(cait_viz.preprocess(photo, tiny_model), depths=depths, training=False)
    softmax = [
        np.asarray(block.attn.distribution(block.norm1(patches)))[0]
        for block, patches in zip(tiny_model.blocks, depths[:-1], strict=True)
    ]
    return softmax, [tiny_model.classify(patches) for patches in depths]


def test_a_trace_holds_what_the_network_did_at_each_depth(trace, expected, tiny_config):
    softmax, classified = expected
    grid = trace.analysis.grid_shape
    np.testing.assert_allclose(trace.attention, [block.mean(axis=0) for block in softmax], atol=1e-5)
    distances = [mean_distance(block, grid, tiny_config.patch_size) for block in softmax]
    np.testing.assert_allclose(trace.distances, distances, rtol=1e-4)
    for depth, (logits, attention) in enumerate(classified):
        said = probabilities(np.asarray(logits)[0])
        np.testing.assert_allclose(trace.lens_probabilities[depth], said, atol=1e-5)
        best = int(said.argmax())
        assert trace.lens_top(depth)[0][0] == trace.analysis.labels[best]
        assert trace.lens_of(best)[depth] == pytest.approx(said[best], abs=1e-5)
        for block, rows in enumerate(attention.values()):
            row = np.asarray(rows)[0, :, 0, 1:].reshape(-1, *grid)
            np.testing.assert_allclose(trace.lens(depth, block), row.mean(axis=0), atol=1e-5)
            np.testing.assert_allclose(trace.lens(depth, block, 3), row[3], atol=1e-5)


def test_the_last_depth_is_the_analysis(trace, engine, photo):
    alone = cait_viz.analyze(photo, engine, name="photo.png")
    np.testing.assert_allclose(trace.analysis.logits, alone.logits, atol=1e-5)
    np.testing.assert_allclose(trace.lens_probabilities[-1], alone.probabilities, atol=1e-6)
    for key, rows in alone.class_attention.items():
        np.testing.assert_allclose(trace.lens_attention[key][-1], rows, atol=1e-6)
    assert trace.analysis.facts() == alone.facts() | {
        "predictions": trace.analysis.facts()["predictions"],
        "kinds": trace.analysis.facts()["kinds"],
    }


def test_the_rollout_is_read_out_through_the_chosen_block_and_head(trace, expected):
    rolled = rollout(block.mean(axis=0) for block in expected[0])
    for block, rows in enumerate(trace.analysis.class_attention.values()):
        for head in (None, *range(len(rows))):
            row = rows.mean(axis=0) if head is None else rows[head]
            found = trace.rollout(block, head)
            np.testing.assert_allclose(found.reshape(1, -1), read_out(row[np.newaxis], rolled), atol=1e-6)
            assert found.sum() == pytest.approx(1, abs=1e-5)


def test_a_row_is_where_a_patch_looks_and_a_column_who_looks_at_it(trace, expected):
    rows, columns = trace.analysis.grid_shape
    softmax = expected[0][1].mean(axis=0)
    patch = patch_at((rows, columns), 2, 1)
    assert patch == 2 * columns + 1
    np.testing.assert_allclose(trace.looks_at(1, patch).ravel(), softmax[patch], atol=1e-5)
    np.testing.assert_allclose(trace.looked_at_by(1, patch).ravel(), softmax[:, patch], atol=1e-5)
    assert trace.looks_at(1, patch).sum() == pytest.approx(1, abs=1e-5)


def test_one_block_in_full(engine, trace, expected, tiny_model, photo):
    found = cait_viz.block_attention(photo, engine, 2)
    np.testing.assert_allclose(found.scores, expected[0][2], atol=1e-5)
    np.testing.assert_allclose(found.grid(5), trace.looks_at(2, 5), atol=1e-6)
    np.testing.assert_allclose(found.grid(5, incoming=True), trace.looked_at_by(2, 5), atol=1e-6)
    np.testing.assert_array_equal(found.grid(5, 1).ravel(), found.scores[1, 5])
    np.testing.assert_array_equal(found.grid(5, 1, incoming=True).ravel(), found.scores[1, :, 5])
    row = found.scores[1, 5].astype(np.float64)
    assert found.effective_patches(5, 1) == pytest.approx(np.exp(-(row * np.log(row)).sum()), rel=1e-4)


def test_the_scores_of_a_block_after_its_heads_are_mixed(engine, tiny_model, photo):
    found = cait_viz.block_attention(photo, engine, 2, mixed=True)
    _, mixed, _ = tiny_model(cait_viz.preprocess(photo, tiny_model))
    np.testing.assert_allclose(found.scores, mixed["sa_ffn_block_2_att"][0], atol=1e-5)
    assert found.grid(5, 1).min() < 0
    with pytest.raises(SelectionError, match="no distribution"):
        found.effective_patches(5, 1)


@pytest.mark.parametrize(
    "ask",
    [
        lambda trace: trace.looks_at(3, 0),
        lambda trace: trace.looked_at_by(0, 16),
        lambda trace: trace.lens(4),
        lambda trace: trace.lens(0, 2),
        lambda trace: trace.lens(0, 0, 4),
        lambda trace: trace.lens_top(-1),
        lambda trace: trace.lens_of(10),
        lambda trace: trace.rollout(0, 9),
        lambda trace: patch_at((4, 4), 0, 4),
        lambda trace: patch_at((4, 4), -1, 0),
    ],
)
def test_what_is_not_there_is_refused(trace, ask):
    with pytest.raises(SelectionError, match="there is no"):
        ask(trace)


def test_a_block_that_is_not_there_is_refused(engine, photo):
    with pytest.raises(SelectionError, match="no SA block 3; this model has 3"):
        cait_viz.block_attention(photo, engine, 3)


def test_a_model_without_a_classifier_is_refused(photo):
    from cait_viz.model.cait import CaiT

    model = CaiT(cait_viz.CaiTConfig(image_size=32, sa_ffn_layers=1, pre_logits=True))
    with pytest.raises(CheckpointError, match="no classifier"):
        cait_viz.trace(photo, model)


@pytest.mark.parametrize("label", [r"$\frac$ or $5", "_background_"])
def test_a_label_is_a_text_in_the_legend_whatever_it_begins_with(trace, label, monkeypatch):
    from matplotlib.legend import Legend

    legends = []
    usual = Legend.get_texts
    monkeypatch.setattr(Legend, "get_texts", lambda legend: legends.append(legend) or usual(legend))
    analysis = replace(trace.analysis, labels=(label,) * len(trace.analysis.labels))
    assert replace(trace, analysis=analysis).figure().startswith(b"\x89PNG")
    assert [text.get_text() for text in usual(legends[0])] == [label] * 5
