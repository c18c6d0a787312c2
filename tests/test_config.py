"""The options of a training, and the steps of its stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cait_viz.training.config import (
    DISTILLATION,
    FINETUNING,
    Stage,
    TrainingConfig,
    parse_stages,
    stage_ends,
)


@given(
    st.lists(st.tuples(st.integers(1, 999), st.floats(0.01, 50)), min_size=1, max_size=4), st.integers(1, 500)
)
def test_every_stage_has_its_epochs_and_at_least_one_step(pairs, steps_per_epoch):
    stages = [Stage(*pair) for pair in pairs]
    ends = stage_ends(stages, steps_per_epoch)
    for begin, end, stage in zip((0, *ends), ends, stages, strict=False):
        assert end - begin == max(1, round(stage.epochs * steps_per_epoch))


def test_stages_are_read_from_sizes_and_epochs():
    assert parse_stages("112:5,224:0.5") == (Stage(112, 5), Stage(224, 0.5))


@pytest.mark.parametrize(
    "text", ["", "112", "112:", "112:x", "0:1", "112:0", "112:-1", "112:nan", "112:inf", "112:1:2"]
)
def test_text_that_is_no_list_of_stages_is_refused(text):
    with pytest.raises(ValueError, match="no list of stages"):
        parse_stages(text)


def test_a_resolution_left_open_is_the_networks_own():
    assert FINETUNING.resolved(384).sizes == (384,)
    assert TrainingConfig(stages=(Stage(96, 1), Stage(None, 1))).resolved(224).sizes == (96, 224)
    with pytest.raises(ValueError, match="choose it"):
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
        ("class_balance", 1.1),
        ("label_weight", 1.1),
        ("feature_weight", -1.0),
        ("kept_views", -1),
        ("seed", -1),
        ("seed", 1.5),
        ("batch_size", 2.5),
        ("batch_size", "4"),
        ("kept_views", True),
        ("learning_rate", "1e-3"),
        ("stages", "112:5"),
        ("stages", (32,)),
        ("augmentation", None),
    ],
)
def test_a_value_out_of_its_range_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        TrainingConfig(**{"stages": (Stage(64, 1),), name: value})


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [("precision", "float16", "float32, bfloat16"), ("optimizer", "sgd", "adamw, muon")],
)
def test_a_choice_that_there_is_not_is_named_with_those_there_are(name, value, known):
    with pytest.raises(ValueError, match=f"there is no {name} '{value}'; choose one of {known}"):
        TrainingConfig(**{name: value})
