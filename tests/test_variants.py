"""The options of an architecture, and the registry of named models."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cait_viz.errors import CaitVizError, UnknownModelError
from cait_viz.model.config import CaiTConfig
from cait_viz.weights.registry import BUNDLED, VARIANTS, get_variant

COUNTS = (
    "image_size",
    "patch_size",
    "projection_dim",
    "sa_ffn_layers",
    "ca_ffn_layers",
    "num_heads",
    "num_classes",
)
POSITIVES = ("mlp_ratio", "layer_norm_eps")
RATES = ("dropout_rate", "sd_prob")
NOT_NUMBERS = (None, True, "4", [4], float("nan"), float("inf"), -float("inf"))

# name: SA blocks, dim, heads, LayerScale, parameters in millions, top-1 (timm's results-imagenet.csv).
PUBLISHED = {
    "cait_xxs24_224": (24, 192, 4, 1e-5, 11.96, 78.4),
    "cait_xxs24_384": (24, 192, 4, 1e-5, 12.03, 81.0),
    "cait_xxs36_224": (36, 192, 4, 1e-5, 17.30, 79.8),
    "cait_xxs36_384": (36, 192, 4, 1e-5, 17.37, 82.2),
    "cait_xs24_384": (24, 288, 6, 1e-5, 26.67, 84.1),
    "cait_s24_224": (24, 384, 8, 1e-5, 46.92, 83.5),
    "cait_s24_384": (24, 384, 8, 1e-5, 47.06, 85.0),
    "cait_s36_384": (36, 384, 8, 1e-6, 68.37, 85.5),
    "cait_m36_384": (36, 768, 16, 1e-6, 271.22, 86.1),
    "cait_m48_448": (48, 768, 16, 1e-6, 356.46, 86.5),
}


def refusal(**options):
    with pytest.raises(ValueError, match="must be") as caught:
        CaiTConfig(**options)
    return str(caught.value)


def test_the_registry_holds_the_ten_published_models_and_the_bundled_one():
    assert set(VARIANTS) == {*PUBLISHED, "bundled"}
    assert all(variant.name == name for name, variant in VARIANTS.items())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_what_the_paper_and_timm_say(name):
    variant, config = VARIANTS[name], VARIANTS[name].config
    depth, dim, heads, init_values, millions, top1 = PUBLISHED[name]
    assert config == CaiTConfig(
        image_size=int(name[-3:]),
        patch_size=16,
        projection_dim=dim,
        sa_ffn_layers=depth,
        ca_ffn_layers=2,
        num_heads=heads,
        mlp_ratio=4,
        layer_norm_eps=1e-6,
        init_values=init_values,
        num_classes=1000,
    )
    assert round(variant.parameters / 1e6, 2) == millions
    assert variant.top1 == top1
    assert str(top1) in variant.accuracy
    assert variant.repo_id == f"timm/{name}.fb_dist_in1k"
    assert variant.saliency_block == 0


def test_the_bundled_model_opens_on_its_second_class_attention_block_and_claims_no_imagenet_accuracy():
    assert BUNDLED.config == CaiTConfig(image_size=224, projection_dim=192, sa_ffn_layers=12, num_heads=4)
    assert (BUNDLED.saliency_block, BUNDLED.top1, BUNDLED.repo_id) == (1, None, None)


def test_an_unknown_model_is_refused_with_the_names_that_are_known():
    with pytest.raises(UnknownModelError) as caught:
        get_variant("cait_xl")
    assert isinstance(caught.value, CaitVizError)
    assert all(name in str(caught.value) for name in ("'cait_xl'", *VARIANTS))


def test_the_options_are_those_of_the_tutorial_in_its_order():
    assert list(CaiTConfig().to_dict()) == [
        "image_size",
        "patch_size",
        "projection_dim",
        "sa_ffn_layers",
        "ca_ffn_layers",
        "num_heads",
        "mlp_ratio",
        "layer_norm_eps",
        "init_values",
        "dropout_rate",
        "sd_prob",
        "global_pool",
        "pre_logits",
        "num_classes",
    ]
    assert CaiTConfig(**CaiTConfig().to_dict()) == CaiTConfig()
    assert CaiTConfig() == VARIANTS["cait_xxs24_224"].config


def test_options_cannot_be_changed_or_given_by_position():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CaiTConfig().num_heads = 8
    with pytest.raises(TypeError):
        CaiTConfig(224)


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1, 2.0, *NOT_NUMBERS])
def test_a_count_that_is_no_whole_number_of_at_least_one_is_refused_by_name_and_value(name, value):
    message = refusal(**{name: value})
    assert message.startswith(f"{name} ")
    assert repr(value) in message


@pytest.mark.parametrize("name", POSITIVES)
@pytest.mark.parametrize("value", [0, -1e-6, pytest.param(10**400, id="googols"), *NOT_NUMBERS])
def test_a_size_that_is_no_positive_number_is_refused_by_name_and_value(name, value):
    message = refusal(**{name: value})
    assert message.startswith(f"{name} ")
    assert repr(value) in message


@pytest.mark.parametrize("value", [-1e-6, *(value for value in NOT_NUMBERS if value is not None)])
def test_an_initial_value_of_layer_scale_is_a_number_zero_or_none(value):
    message = refusal(init_values=value)
    assert message.startswith("init_values ")
    assert repr(value) in message
    assert (CaiTConfig(init_values=None).init_values, CaiTConfig(init_values=0).init_values) == (None, 0)


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", [1, 1.0, -0.1, 2, *NOT_NUMBERS])
def test_a_rate_outside_zero_to_one_is_refused_by_name_and_value(name, value):
    message = refusal(**{name: value})
    assert message.startswith(f"{name} ")
    assert repr(value) in message


@pytest.mark.parametrize("value", ["max", "", None, True, ["token"], "TOKEN"])
def test_an_unknown_pooling_is_refused_with_those_that_are_known(value):
    message = refusal(global_pool=value)
    assert all(part in message for part in ("global_pool", repr(value), "'token'", "'avg'"))


@pytest.mark.parametrize("value", [0, 1, None, "yes"])
def test_pre_logits_is_true_or_false_and_nothing_that_resembles_them(value):
    message = refusal(pre_logits=value)
    assert "pre_logits" in message
    assert repr(value) in message


def test_a_picture_that_patches_do_not_fill_is_refused():
    message = refusal(image_size=225)
    assert all(part in message for part in ("image_size", "225", "patch_size", "16"))


def test_a_width_that_heads_do_not_share_is_refused():
    message = refusal(num_heads=5)
    assert all(part in message for part in ("projection_dim", "192", "num_heads", "5"))


@pytest.mark.parametrize("value", [1 / 3 * 0.01, 4.0001, 0.001, 1e308, pytest.param(10**308, id="googol")])
def test_a_ratio_that_makes_no_whole_hidden_width_is_refused(value):
    message = refusal(mlp_ratio=value, projection_dim=200)
    assert message.startswith("mlp_ratio ")
    assert repr(value) in message


@settings(max_examples=200)
@given(hidden=st.integers(1, 5000), dim=st.integers(1, 1000))
def test_every_hidden_width_has_its_ratio(hidden, dim):
    config = CaiTConfig(projection_dim=dim, num_heads=1, mlp_ratio=hidden / dim)
    assert config.mlp_dim == hidden


@settings(max_examples=200)
@given(
    patch=st.integers(1, 64),
    grid=st.integers(1, 64),
    heads=st.integers(1, 32),
    head_dim=st.integers(1, 64),
    counts=st.tuples(*[st.integers(1, 100)] * 3),
    rates=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    sizes=st.tuples(*[st.floats(0, exclude_min=True, allow_infinity=False)] * 2),
    pool=st.sampled_from(("token", "avg")),
    pre_logits=st.booleans(),
)
def test_every_sound_combination_is_accepted_and_comes_back_from_its_dict(
    patch, grid, heads, head_dim, counts, rates, sizes, pool, pre_logits
):
    config = CaiTConfig(
        image_size=patch * grid,
        patch_size=patch,
        projection_dim=heads * head_dim,
        num_heads=heads,
        sa_ffn_layers=counts[0],
        ca_ffn_layers=counts[1],
        num_classes=counts[2],
        dropout_rate=rates[0],
        sd_prob=rates[1],
        layer_norm_eps=sizes[0],
        init_values=sizes[1],
        global_pool=pool,
        pre_logits=pre_logits,
    )
    assert CaiTConfig(**config.to_dict()) == config
    assert (config.grid_shape, config.num_patches) == ((grid, grid), grid * grid)


@settings(max_examples=300)
@given(
    name=st.sampled_from((*COUNTS, *POSITIVES, "init_values", *RATES, "global_pool", "pre_logits")),
    value=st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.integers())
    ),
)
def test_any_value_at_all_is_accepted_or_refused_in_words(name, value):
    sentence = None
    try:
        config = CaiTConfig(**{name: value})
    except ValueError as error:
        sentence = str(error)
    if sentence is None:
        found = getattr(config, name)
        assert value in (found, list(found) if isinstance(found, tuple) else [found, found])
    else:
        assert " must be " in sentence
        assert any(repr(part) in sentence for part in (value, 192, 224))


def test_numpy_numbers_are_not_taken_for_pythons():
    # They would not survive the JSON of a saved model.
    assert "num_heads" in refusal(num_heads=np.int64(4))
