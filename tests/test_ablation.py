"""Silenced heads: the network with the rows of `proj` that read a head's output set to zero."""

from dataclasses import replace

import numpy as np
import pytest
from reference import lively_weights, timm_shapes
from safetensors.numpy import save_file

import cait_viz
from cait_viz.errors import SelectionError
from cait_viz.results.ablation import signed


@pytest.fixture(scope="module", params=["openvino", "keras"])
def ablation(request, tiny_weights, photo):
    return cait_viz.ablate(photo, cait_viz.load_engine(weights=tiny_weights, engine=request.param))


@pytest.mark.parametrize(
    ("change", "said"), [(0.254, "+0.25"), (-1.3, "−1.30"), (0.0, "0.00"), (-0.004, "0.00"), (0.004, "0.00")]
)
def test_a_change_has_a_sign_unless_it_is_nothing(change, said):
    assert signed(change) == said


@pytest.mark.parametrize(("block", "head"), [(0, 0), (0, 3), (1, 2)])
def test_a_silenced_head_is_one_whose_output_is_not_read(ablation, tiny_config, photo, tmp_path, block, head):
    tensors = lively_weights(timm_shapes(tiny_config))
    width = tiny_config.projection_dim // tiny_config.num_heads
    name = f"blocks_token_only.{block}.attn.proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][:, head * width : (head + 1) * width] = 0
    save_file(tensors, tmp_path / "silenced.safetensors")
    without = cait_viz.load_model(weights=tmp_path / "silenced.safetensors")
    expected = cait_viz.analyze(photo, without).logits
    np.testing.assert_allclose(ablation.logits[block, head], expected, atol=1e-5)
    for target in range(tiny_config.num_classes):
        change = expected[target] - ablation.analysis.logits[target]
        assert ablation.changes(target)[block, head] == pytest.approx(change, abs=1e-5)


def test_the_whole_is_the_analysis(ablation, tiny_model, photo):
    np.testing.assert_allclose(
        ablation.analysis.logits, cait_viz.analyze(photo, tiny_model).logits, atol=1e-5
    )
    first = int(ablation.analysis.ranking[0])
    np.testing.assert_array_equal(ablation.changes(), ablation.changes(first))


def test_a_network_that_asks_no_class_token_loses_nothing(photo):
    from cait_viz.model.cait import CaiT

    config = cait_viz.CaiTConfig(image_size=32, sa_ffn_layers=1, num_classes=3, global_pool="avg")
    np.testing.assert_allclose(cait_viz.ablate(photo, CaiT(config)).changes(1), 0, atol=1e-6)


def test_the_figure_carries_the_changes_and_the_class(ablation):
    drawn = ablation.figure(4, "svg").decode()
    assert drawn.startswith("<?xml")
    assert ablation.figure(4, "svg").decode() == drawn
    assert ablation.figure(5, "svg").decode() != drawn


@pytest.mark.parametrize("target", [10, -1, 0.5])
def test_a_class_that_is_not_there_is_refused(ablation, target):
    with pytest.raises(SelectionError, match="no class"):
        ablation.changes(target)


def test_a_very_long_label_leaves_a_figure(ablation):
    analysis = replace(ablation.analysis, labels=("long name " * 5000,) * len(ablation.analysis.labels))
    assert len(replace(ablation, analysis=analysis).figure(format="svg")) < 2 * len(
        ablation.figure(format="svg")
    )
