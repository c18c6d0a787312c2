"""Whether maps change when the network forgets: against networks whose weights are changed by hand."""

import numpy as np
import pytest
from app_page import markdown_of, notices, visit
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import lively_weights, timm_shapes
from safetensors.numpy import save_file

import cait_viz
from cait_viz._resources import SAMPLES
from cait_viz.attention.patch_stage import rollout
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.engine.randomized import RandomizedNetwork, randomization_steps
from cait_viz.engine.tape import ClassGradients, GradientTape
from cait_viz.errors import EngineError, SelectionError
from cait_viz.model.config import CaiTConfig
from cait_viz.results.randomization import rank_correlation

CAT = SAMPLES / "cat.jpg"


@pytest.fixture(scope="module")
def engine(tiny_weights):
    return cait_viz.load_engine(weights=tiny_weights)


@pytest.fixture(scope="module")
def found(engine):
    return cait_viz.randomize(CAT, engine, 3, block=0)


def test_each_step_goes_deeper_and_the_last_is_all():
    assert randomization_steps(CaiTConfig(sa_ffn_layers=24)) == (
        "nothing", "the classifier and the last norm", "CA block 2", "CA block 1", "the last SA block",
        "the last 12 SA blocks", "all SA blocks",
    )  # fmt: skip
    assert randomization_steps(CaiTConfig(sa_ffn_layers=1, ca_ffn_layers=1))[2:] == (
        "CA block 1", "all SA blocks"
    )  # fmt: skip


def test_the_maps_of_the_trained_network_are_those_that_the_other_functions_give(engine, found):
    trace, explanation = cait_viz.trace(CAT, engine), cait_viz.explain(CAT, engine, 3)
    expected = {
        "attention": trace.analysis.attention(0)[1:].reshape(trace.analysis.grid_shape),
        "rollout": trace.rollout(0),
        "gradient": explanation.grid("gradient", 0),
        "relevance": explanation.grid(),
    }
    for name, grid in expected.items():
        np.testing.assert_allclose(found.grids[name][0], grid, rtol=2e-3, atol=1e-6)
        assert found.correlations(name)[0] == 1


def test_what_comes_before_the_part_that_is_new_stays_as_it_was(found):
    attention, rolled = found.grids["attention"], found.grids["rollout"]
    steps = list(found.steps)
    np.testing.assert_allclose(attention[1], attention[0], atol=1e-6)  # the classifier comes later
    np.testing.assert_allclose(attention[2], attention[0], atol=1e-6)  # and so does CA block 2
    assert np.abs(attention[steps.index("CA block 1")] - attention[0]).max() > 1e-4
    np.testing.assert_allclose(rolled[2], rolled[0], atol=1e-5)
    assert np.abs(rolled[steps.index("all SA blocks")] - rolled[0]).max() > 1e-4
    assert np.abs(found.grids["gradient"][1] - found.grids["gradient"][0]).max() > 1e-6


def test_a_part_that_is_new_has_the_weights_that_a_network_starts_with(tiny_model, photo):
    network = RandomizedNetwork(tiny_model)
    trained = [weight.numpy() for weight in tiny_model.weights]
    image = cait_viz.preprocess(photo, tiny_model)
    last = len(randomization_steps(tiny_model.config)) - 1
    answers = [network.answer(image, 1, last, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(answers[0].rolled, answers[1].rolled)
    assert np.abs(answers[0].rolled - answers[2].rolled).max() > 0
    assert all(
        (weight.numpy() == before).all() for weight, before in zip(tiny_model.weights, trained, strict=True)
    )
    again = network.answer(image, 1, 0, 0)
    expected = GradientTape(tiny_model).gradients(image, 1)
    np.testing.assert_allclose(again.gradients.relevance, expected.relevance, rtol=1e-4, atol=1e-7)


def test_a_step_takes_the_self_attention_blocks_that_its_name_says(tmp_path, photo):
    config = CaiTConfig(image_size=64, projection_dim=32, sa_ffn_layers=4, num_heads=2, num_classes=10)
    save_file(lively_weights(timm_shapes(config)), tmp_path / "own.safetensors")
    model = cait_viz.load_model(weights=tmp_path / "own.safetensors")
    network, image = RandomizedNetwork(model), cait_viz.preprocess(photo, model)
    trained = [cait_viz.block_attention(photo, model, block).scores.mean(axis=0) for block in range(4)]
    new = np.full_like(trained[0], 1 / len(trained[0]))  # kernels so small that all patches are alike
    steps = randomization_steps(model.config)
    assert steps[-3:] == ("the last SA block", "the last 2 SA blocks", "all SA blocks")
    for step, kept in enumerate((4, 3, 2, 0), len(steps) - 4):
        found = network.answer(image, 1, step, 0).rolled
        distance = [np.abs(found - rollout([*trained[:n], *(4 - n) * [new]])).max() for n in range(5)]
        assert distance[kept] < 1e-3, distance
        assert sorted(distance)[1] > 3e-3


def test_the_table_names_each_step_once(found):
    lines = found.table()
    assert lines[0] == "| re-initialized | attention | rollout | gradient | relevance |"
    assert [line.split(" | ")[0] for line in lines[2:6]] == [
        "| nothing", "| the classifier and the last norm", "| and CA block 2", "| and CA block 1"
    ]  # fmt: skip
    assert lines[2].count("1.00") == 4
    assert "| −0." in "".join(lines)
    assert "-" not in "".join(lines[2:])


@pytest.mark.parametrize(("step", "seed"), [(-1, 0), (99, 0), (1, -1)])
def test_a_step_or_seed_that_there_is_not_is_refused(engine, photo, step, seed):
    with pytest.raises(SelectionError, match=r"there is no step|seed must be at least 0"):
        engine.randomized(cait_viz.preprocess(photo, engine), 3, step, seed)


def test_progress_is_told_and_what_it_raises_ends_the_test(engine):
    told = []

    def stop(done, total):
        told.append((done, total))
        if done == 1:
            raise KeyError

    with pytest.raises(KeyError):
        cait_viz.randomize(CAT, engine, progress=stop)
    assert told == [(0, 6), (1, 6)]


@given(
    arrays(np.float32, (3, 4), elements=st.integers(0, 5)),
    arrays(np.float32, (3, 4), elements=st.integers(0, 5)),
)
def test_rank_correlation_sees_only_the_order(one, other):
    from scipy.stats import spearmanr

    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert np.isnan(rank_correlation(one, other))
        return
    found = rank_correlation(one, other)
    assert found == pytest.approx(spearmanr(one, other, axis=None).statistic, abs=1e-9)
    assert rank_correlation(np.exp(one), other) == pytest.approx(found, abs=1e-9)
    assert rank_correlation(one, -other) == pytest.approx(-found, abs=1e-9)


def test_a_class_a_block_or_a_head_that_is_not_there_is_refused(engine):
    for options in ({"target": "dragon"}, {"block": 2}, {"head": 4}):
        with pytest.raises(SelectionError):
            cait_viz.randomize(CAT, engine, **options)


def test_the_command_prints_the_table(succeed, small, found):
    out = succeed("randomize", CAT, *small, "--class", 3, "--block", 0)
    assert out == "\n".join(found.table()) + "\n"


# --- the page ---------------------------------------------------------------------------------------------


def fixed(self, image, target, step, seed=0):
    """Noise of its own for each step."""
    random, config = np.random.default_rng([target, step]), self.config
    shape = config.ca_ffn_layers, config.num_heads, 1 + config.num_patches
    numbers = random.dirichlet(np.ones(shape[-1]), shape[:2]).astype(np.float32)
    rolled = random.dirichlet(np.ones(config.num_patches), config.num_patches).astype(np.float32)
    return ClassGradients(numbers, numbers - 0.1, numbers[0, 0, 1:]), rolled


@pytest.mark.usefixtures("counted")
def test_the_page_lets_it_forget_when_told_and_says_how_much_each_map_changed(monkeypatch):
    monkeypatch.setattr(OpenVINOEngine, "randomized", fixed)
    page = visit(question="why", sample="cat")
    assert "rank correlation" not in " ".join(text.value for text in page.caption)
    page.button(key="forget").click().run()
    assert not page.exception
    assert notices(page) == []
    [table] = [text for text in markdown_of(page) if text and text.startswith("| re-initialized")]
    expected = cait_viz.randomize(CAT, cait_viz.load_engine()).table()
    assert table.split("\n") == expected
    page.selectbox(key="head").set_value(1).run()
    assert page.button(key="forget")


@pytest.mark.usefixtures("counted")
def test_a_test_that_fails_is_told_in_a_sentence(monkeypatch):
    def refuse(*_):
        raise EngineError("there is no room")

    monkeypatch.setattr(OpenVINOEngine, "randomized", refuse)
    page = visit(question="why", sample="cat")
    page.button(key="forget").click().run()
    assert notices(page) == ["there is no room."]
