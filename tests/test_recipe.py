"""Recipes and schedules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cait_viz.training.config import (
    DISTILLATION,
    FINETUNING,
    Stage,
    TrainingConfig,
    parse_stages,
    schedule,
)


@given(
    st.lists(st.tuples(st.integers(1, 999), st.floats(0.01, 50)), min_size=1, max_size=4), st.integers(1, 500)
)
def test_every_step_belongs_to_one_stage_and_every_stage_has_steps(pairs, steps_per_epoch):
    stages = [Stage(*pair) for pair in pairs]
    laid_out = schedule(stages, steps_per_epoch)
    assert laid_out.steps == laid_out.ends[-1]
    lengths = [end - begin for begin, end in zip((0, *laid_out.ends), laid_out.ends, strict=False)]
    for length, stage in zip(lengths, stages, strict=True):
        assert length >= 1
        assert length == max(1, round(stage.epochs * steps_per_epoch))
    for index, end in enumerate(laid_out.ends):
        assert laid_out.stage(end - 1) == index


def test_stages_are_read_from_sizes_and_epochs():
    assert parse_stages("112:5,224:0.5") == (Stage(112, 5), Stage(224, 0.5))


@pytest.mark.parametrize(
    "text", ["", "112", "112:", "112:x", "0:1", "112:0", "112:-1", "112:nan", "112:inf", "112:1:2"]
)
def test_text_that_is_no_list_of_stages_is_refused(text):
    with pytest.raises(ValueError, match="no list of stages"):
        parse_stages(text)


def test_a_resolution_left_open_is_the_networks_own():
    assert FINETUNING.settled(384).sizes == (384,)
    assert TrainingConfig(stages=(Stage(96, 1), Stage(None, 1))).settled(224).sizes == (96, 224)
    with pytest.raises(ValueError, match="settle it"):
        _ = DISTILLATION.sizes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stages", ()),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("warmup", 1.0),
        ("weight_decay", -1.0),
        ("clip_norm", 0.0),
        ("label_smoothing", 1.0),
        ("sd_prob", 1.0),
        ("ema", -0.1),
        ("label_weight", 1.1),
        ("feature_weight", -1.0),
        ("kept_views", -1),
        ("precision", "float16"),
        ("seed", -1),
    ],
)
def test_a_value_out_of_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        TrainingConfig(**{"stages": (Stage(64, 1),), name: value})
