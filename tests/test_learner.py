"""A CaiT that learns: the loss falls, a run taken up again is the same run, resolutions follow each other."""

from dataclasses import replace

import numpy as np
import pytest
from reference import lively_weights, timm_shapes

from cait_viz.errors import TrainingError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import resample_positions, state_dict
from cait_viz.training.config import Augmentation, Stage, TrainingConfig
from cait_viz.training.loader import Batches
from cait_viz.training.teacher import Teacher, TeacherCache
from cait_viz.training.trainer import Training

TINY = CaiTConfig(
    image_size=32,
    projection_dim=16,
    sa_ffn_layers=1,
    ca_ffn_layers=1,
    num_heads=2,
    num_classes=3,
    mlp_ratio=2,
)


def recipe(**changes):
    how = {"stages": (Stage(32, 4),), "batch_size": 6, "learning_rate": 0.02, "weight_decay": 0.0, "seed": 1}
    return TrainingConfig(
        **how | {"augmentation": Augmentation(mixup=0.0, color_jitter=0.1), "sd_prob": 0.0} | changes
    )


@pytest.fixture(scope="module")
def training(coloured_pixels):
    """Make a training on twelve greys whose class is how bright they are."""

    def make(how=None, lessons=None, weights=None, identity=("this one",)):
        how = how or recipe()
        labels = np.arange(12) // 4
        batches = Batches(coloured_pixels, labels, np.arange(12), 3, how, lessons)
        return Training(TINY, weights, batches, how, {"test": list(identity)})

    return make


def losses(made, stop=None):
    return [step["loss"] for step in made.run(stop)]


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


def test_the_loss_falls(training):
    made = training(recipe(stages=(Stage(32, 40),), label_smoothing=0.0))
    fallen = losses(made)
    assert len(fallen) == 80
    assert made.done
    assert fallen[0] == pytest.approx(np.log(3), abs=0.1)
    assert np.mean(fallen[-10:]) < 0.85 * fallen[0]


def test_a_student_comes_to_say_what_its_teacher_says(training, teacher_file, coloured_pixels, tmp_path):
    lessons = TeacherCache(Teacher(teacher_file, 32), len(coloured_pixels), 2, tmp_path, {})
    made = training(recipe(stages=(Stage(32, 20),), kept_views=2), lessons)
    steps = list(made.run())
    assert set(steps[0]) == {"loss", "class_loss", "feature_loss"}
    assert np.mean([step["feature_loss"] for step in steps[-5:]]) < 0.5 * steps[0]["feature_loss"]
    assert np.mean([step["loss"] for step in steps[-5:]]) < steps[0]["loss"]
    assert not [name for name in made.tensors() if "match" in name]


LONG = recipe(stages=(Stage(32, 3), Stage(64, 1)), sd_prob=0.3, ema=0.3)


STOPS = {"in the first stage": 3, "in the second stage": 7}


@pytest.fixture(scope="module")
def whole_run(training, tmp_path_factory):
    """The losses, the weights and the states at `STOPS` of a training that nobody interrupts."""
    made, states = training(LONG), tmp_path_factory.mktemp("states")
    lost = []
    for stop in STOPS.values():
        lost += losses(made, stop)
        made.save(states / f"{stop}.npz")
    return lost + losses(made), made.tensors(), states


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_a_training_taken_up_again_goes_on_bit_for_bit(training, whole_run, stop):
    lost, weights, states = whole_run
    resumed = training(LONG)
    resumed.restore(states / f"{stop}.npz")
    assert losses(resumed) == lost[stop:]
    assert same(resumed.tensors(), weights)


def test_a_student_taken_up_again_goes_on_with_what_was_kept_of_its_teacher(
    training, teacher_file, coloured_pixels, tmp_path
):
    def taught():
        lessons = TeacherCache(Teacher(teacher_file, 32), len(coloured_pixels), 2, tmp_path / "kept", {})
        return training(how, lessons)

    how = recipe(stages=(Stage(32, 2),), kept_views=2)
    before = taught()
    lost = losses(before, 1)
    before.save(tmp_path / "state.npz")  # the teacher has spoken of half the pictures
    lost += losses(before)
    after = taught()
    after.restore(tmp_path / "state.npz")
    assert losses(after) == lost[1:]
    assert same(after.tensors(), before.tensors())


def test_the_learning_rate_rises_and_falls_along_a_cosine(training):
    made = training(recipe(stages=(Stage(32, 10),), learning_rate=0.01, warmup=0.2))
    rates = [made.learning_rate]
    rates += [made.learning_rate for _ in made.run()]
    assert len(rates) == 21
    np.testing.assert_allclose(np.diff(rates[:5]), (0.01 - rates[0]) / 4, rtol=1e-3)
    assert rates[0] < 0.003
    assert rates[4] == max(rates) == pytest.approx(0.01)
    wanted = 1e-4 + 0.0099 * (1 + np.cos(np.pi * np.arange(17) / 16)) / 2
    np.testing.assert_allclose(rates[4:], wanted, rtol=1e-3)


def test_gradients_are_clipped(training):
    made = training(recipe(clip_norm=1e-12, ema=0))
    before = made.tensors()
    losses(made, 1)
    after = made.tensors()
    # AdamW's step does not shrink with the gradient unless that is small beside its epsilon of 1e-7.
    assert max(np.abs(after[name] - before[name]).max() for name in before) < 1e-5


def test_weights_that_are_no_numbers_do_not_replace_a_good_state(training, tmp_path):
    made = training()
    made.save(tmp_path / "state.npz")
    good = (tmp_path / "state.npz").read_bytes()
    made.model.trainable_variables[0].assign(np.full(made.model.trainable_variables[0].shape, np.nan))
    with pytest.raises(TrainingError, match="no finite numbers as float32; lower the learning rate"):
        made.save(tmp_path / "state.npz")
    assert (tmp_path / "state.npz").read_bytes() == good


def test_all_that_is_random_follows_the_seed(training, whole_run):
    other = training(replace(LONG, seed=2))
    assert losses(other, 1)[0] != whole_run[0][0]


def test_the_next_resolution_goes_on_with_the_same_weights(training):
    weights = lively_weights(timm_shapes(TINY))
    made = training(
        recipe(stages=(Stage(32, 0.5), Stage(64, 1)), learning_rate=1e-12, ema=0), weights=weights
    )
    losses(made)
    after = made.tensors()
    assert made.model.config.image_size == 64
    np.testing.assert_allclose(after["pos_embed"], resample_positions(weights["pos_embed"], 4), atol=1e-6)
    for name, tensor in weights.items():
        if name != "pos_embed":
            np.testing.assert_allclose(after[name], tensor, atol=1e-6)


def test_positions_are_interpolated_in_place():
    row, column = np.mgrid[0:7, 0:7]
    positions = np.stack([row, column], -1).reshape(1, 49, 2).astype(np.float32)
    larger = resample_positions(positions, 14).reshape(14, 14, 2)
    # Away from the edge bicubic interpolation keeps what is linear.
    np.testing.assert_allclose(larger[4:10, 5, 0], (np.arange(4, 10) + 0.5) / 2 - 0.5, atol=1e-5)
    np.testing.assert_allclose(larger[5, 4:10, 1], (np.arange(4, 10) + 0.5) / 2 - 0.5, atol=1e-5)
    assert resample_positions(positions, 7) is positions


def test_weights_are_averaged_and_the_training_goes_on_with_its_own(training):
    made = training(recipe(ema=0.5))
    losses(made, 3)
    own = state_dict(made.model)
    averaged = made.tensors()
    assert not same(own, averaged)
    assert same(state_dict(made.model), own)
    assert same(made.tensors(), averaged)


def test_only_kernels_decay(training):
    decayed = training(recipe(weight_decay=0.5, ema=0)), training(recipe(weight_decay=0.0, ema=0))
    for made in decayed:
        losses(made, 1)
    with_decay, without = (made.tensors() for made in decayed)
    shrunk = {name for name in without if not np.array_equal(with_decay[name], without[name])}
    kernels = {name for name, tensor in without.items() if tensor.ndim in (2, 4) and name.endswith("weight")}
    assert shrunk == kernels
    assert {"cls_token", "pos_embed", "blocks.0.gamma_1", "norm.weight"}.isdisjoint(shrunk)


def test_a_loss_that_is_no_number_ends_the_training_with_a_sentence(training):
    weights = lively_weights(timm_shapes(TINY))
    weights["head.bias"] = np.full(3, np.nan, np.float32)
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        losses(training(weights=weights))


def test_another_trainings_state_is_refused(training, tmp_path):
    made = training()
    made.save(tmp_path / "state.npz")
    with pytest.raises(TrainingError, match="saved with other test"):
        training(identity=("another",)).restore(tmp_path / "state.npz")


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04broken"])
def test_a_state_that_cannot_be_read_is_refused(training, tmp_path, content):
    path = tmp_path / "state.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"state\.npz: (nothing to take up|cannot be taken up)"):
        training().restore(path)


def test_bfloat16_learns_too_and_keeps_float32_weights(training):
    made = training(recipe(stages=(Stage(32, 10),), precision="bfloat16", label_smoothing=0.0))
    fallen = losses(made)
    assert np.mean(fallen[-3:]) < fallen[0]
    tensor = made.tensors()["blocks.0.attn.qkv.weight"]
    assert tensor.dtype == np.float32
    # Rounded to bfloat16, the lower half of each number's bits would be empty.
    assert (tensor.view(np.uint32) & 0xFFFF).any()
