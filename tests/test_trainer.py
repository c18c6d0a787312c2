"""Training steps: the loss falls, a resumed training is the same training, resolutions follow each other."""

from dataclasses import replace

import numpy as np
import pytest
from reference import lively_weights, timm_shapes
from training_runs import eager_steps

from cait_viz.errors import TrainingError
from cait_viz.model.config import CaiTConfig
from cait_viz.model.timm_names import resample_positions, state_dict
from cait_viz.training.config import OPTIMIZERS, Augmentation, Stage, TrainingConfig
from cait_viz.training.loader import Dataset, Loader
from cait_viz.training.state import SavedState
from cait_viz.training.teacher import Teacher, TeacherCache
from cait_viz.training.trainer import Trainer

TINY = CaiTConfig(
    image_size=32,
    projection_dim=16,
    sa_ffn_layers=1,
    ca_ffn_layers=1,
    num_heads=2,
    num_classes=3,
    mlp_ratio=2,
)


# The class of each of the twelve gray images.
GRAYS = np.arange(12) // 4


def make_config(**changes):
    values = {
        "stages": (Stage(32, 4),),
        "batch_size": 6,
        "learning_rate": 0.02,
        "weight_decay": 0.0,
        "seed": 1,
    }
    return TrainingConfig(
        **values | {"augmentation": Augmentation(mixup=0.0, color_jitter=0.1), "sd_prob": 0.0} | changes
    )


@pytest.fixture(scope="module")
def make_trainer(gray_images):
    """Make a training on twelve grays whose class is how bright they are."""

    def make(config=None, teacher=None, weights=None, identity=("this one",), labels=GRAYS):
        config = config or make_config()
        dataset = Dataset(gray_images, labels, np.ones(12))
        return Trainer(TINY, weights, Loader(dataset, 3, config, teacher), config, {"test": identity})

    return make


def losses(trainer, stop=None):
    return [step["loss"] for step in trainer.run(stop)]


def same(first, second):
    return all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_loss_falls(make_trainer, optimizer):
    trainer = make_trainer(make_config(stages=(Stage(32, 40),), label_smoothing=0.0, optimizer=optimizer))
    falling = losses(trainer)
    assert len(falling) == 80
    assert trainer.step == trainer.steps
    assert falling[0] == pytest.approx(np.log(3), abs=0.1)
    assert np.mean(falling[-10:]) < 0.85 * falling[0]


def test_a_student_comes_to_give_its_teachers_outputs(make_trainer, teacher_file, gray_images, tmp_path):
    teacher = TeacherCache(Teacher(teacher_file, 32), len(gray_images), 2, tmp_path)
    trainer = make_trainer(make_config(stages=(Stage(32, 20),), kept_views=2), teacher)
    steps = list(trainer.run())
    assert set(steps[0]) == {"loss", "classes_loss", "features_loss"}
    assert np.mean([step["features_loss"] for step in steps[-5:]]) < 0.5 * steps[0]["features_loss"]
    assert np.mean([step["loss"] for step in steps[-5:]]) < steps[0]["loss"]
    assert not [name for name in trainer.tensors() if "feature" in name]


@pytest.mark.usefixtures("eagerly")
def test_muon_is_for_the_kernels_of_the_blocks_alone(make_trainer):
    adamw, muon = (make_trainer(make_config(ema=0.0, optimizer=one)) for one in OPTIMIZERS)
    losses(adamw, 1)
    losses(muon, 1)
    adamw, muon = adamw.tensors(), muon.tensors()
    other = {name for name in adamw if not np.allclose(adamw[name], muon[name], rtol=1e-3, atol=1e-5)}
    kernels = ("attn.qkv", "attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert all(name.removesuffix(".weight").endswith(kernels) for name in other)
    assert {
        "blocks.0.mlp.fc1.weight",
        "blocks_token_only.0.attn.v.weight",
    } <= other  # not all learn from grays


@pytest.mark.parametrize("ema", [0.0, 0.5])
@pytest.mark.usefixtures("eagerly")
def test_balanced_classes_owe_nothing_to_how_often_they_were_shown(make_trainer, ema):
    config = make_config(stages=(Stage(32, 2),), ema=ema, label_smoothing=0.0)
    rare = np.array([0] * 9 + [1] * 3)  # and none of the third class
    plain, half, whole = (
        make_trainer(replace(config, class_balance=share), labels=rare) for share in (0.0, 0.5, 1.0)
    )
    assert losses(plain) == losses(half) == losses(whole)  # the training itself is the same
    plain, half, whole = (trainer.tensors() for trainer in (plain, half, whole))
    shown = np.array([18, 6, 0]) + 1
    np.testing.assert_allclose(whole["head.bias"], plain["head.bias"] - np.log(shown / 27), rtol=1e-5)
    np.testing.assert_allclose(half["head.bias"], (plain["head.bias"] + whole["head.bias"]) / 2, rtol=1e-5)
    assert all(np.array_equal(whole[name], plain[name]) for name in plain if name != "head.bias")


# With Muon, which has the variables of AdamW too.
LONG = make_config(
    stages=(Stage(32, 3), Stage(64, 1)), sd_prob=0.3, ema=0.3, class_balance=1.0, optimizer="muon"
)


STOPS = {"in the first stage": 3, "in the second stage": 7}


@pytest.fixture(scope="module")
def whole_run(make_trainer, tmp_path_factory):
    """The losses, the weights and the states at `STOPS` of a training that nobody interrupts."""
    trainer, states = make_trainer(LONG), tmp_path_factory.mktemp("states")
    lost = []
    with eager_steps():
        for stop in STOPS.values():
            lost += losses(trainer, stop)
            trainer.save(states / f"{stop}.npz")
        return lost + losses(trainer), trainer.tensors(), states


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
@pytest.mark.usefixtures("eagerly")
def test_a_resumed_training_goes_on_bit_for_bit(make_trainer, whole_run, stop):
    lost, weights, states = whole_run
    resumed = make_trainer(LONG)
    resumed.restore(SavedState(states / f"{stop}.npz"))
    assert losses(resumed) == lost[stop:]
    assert same(resumed.tensors(), weights)


@pytest.mark.usefixtures("eagerly")
def test_a_resumed_student_goes_on_with_the_teachers_kept_outputs(
    make_trainer, teacher_file, gray_images, tmp_path
):
    def taught():
        teacher = TeacherCache(Teacher(teacher_file, 32), len(gray_images), 2, tmp_path / "kept")
        return make_trainer(config, teacher)

    config = make_config(stages=(Stage(32, 2),), kept_views=2)
    before = taught()
    lost = losses(before, 1)
    before.save(tmp_path / "state.npz")  # the teacher's outputs for half the images are kept
    lost += losses(before)
    after = taught()
    after.restore(SavedState(tmp_path / "state.npz"))
    assert losses(after) == lost[1:]
    assert same(after.tensors(), before.tensors())


def test_the_learning_rate_rises_and_falls_along_a_cosine(make_trainer):
    trainer = make_trainer(make_config(stages=(Stage(32, 10),), learning_rate=0.01, warmup=0.2))
    rates = [trainer.learning_rate]
    rates += [trainer.learning_rate for _ in trainer.run()]
    assert len(rates) == 21
    np.testing.assert_allclose(np.diff(rates[:5]), (0.01 - rates[0]) / 4, rtol=1e-3)
    assert rates[0] < 0.003
    assert rates[4] == max(rates) == pytest.approx(0.01)
    wanted = 1e-4 + 0.0099 * (1 + np.cos(np.pi * np.arange(17) / 16)) / 2
    np.testing.assert_allclose(rates[4:], wanted, rtol=1e-3)


def test_gradients_are_clipped(make_trainer):
    trainer = make_trainer(make_config(clip_norm=1e-12, ema=0))
    before = trainer.tensors()
    losses(trainer, 1)
    after = trainer.tensors()
    # AdamW's step does not shrink with the gradient unless that is small beside its epsilon of 1e-7.
    assert max(np.abs(after[name] - before[name]).max() for name in before) < 1e-5


def test_weights_that_are_not_finite_do_not_replace_a_good_state(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save(tmp_path / "state.npz")
    good = (tmp_path / "state.npz").read_bytes()
    trainer.model.trainable_variables[0].assign(np.full(trainer.model.trainable_variables[0].shape, np.nan))
    with pytest.raises(TrainingError, match="not finite as float32; lower the learning rate"):
        trainer.save(tmp_path / "state.npz")
    assert (tmp_path / "state.npz").read_bytes() == good


@pytest.mark.usefixtures("eagerly")
def test_all_that_is_random_follows_the_seed(make_trainer, whole_run):
    other = make_trainer(replace(LONG, seed=2))
    assert losses(other, 1)[0] != whole_run[0][0]


@pytest.mark.usefixtures("eagerly")
def test_the_next_resolution_goes_on_with_the_same_weights(make_trainer):
    weights = lively_weights(timm_shapes(TINY))
    trainer = make_trainer(
        make_config(stages=(Stage(32, 0.5), Stage(64, 1)), learning_rate=1e-12, ema=0), weights=weights
    )
    losses(trainer)
    after = trainer.tensors()
    assert trainer.architecture.image_size == 64
    np.testing.assert_allclose(
        after["pos_embed"], resample_positions(weights["pos_embed"], (4, 4)), atol=1e-6
    )
    for name, tensor in weights.items():
        if name != "pos_embed":
            np.testing.assert_allclose(after[name], tensor, atol=1e-6)


def test_positions_are_interpolated_in_place():
    row, column = np.mgrid[0:7, 0:7]
    positions = np.stack([row, column], -1).reshape(1, 49, 2).astype(np.float32)
    larger = resample_positions(positions, (14, 14)).reshape(14, 14, 2)
    # Away from the edge bicubic interpolation keeps what is linear.
    np.testing.assert_allclose(larger[4:10, 5, 0], (np.arange(4, 10) + 0.5) / 2 - 0.5, atol=1e-5)
    np.testing.assert_allclose(larger[5, 4:10, 1], (np.arange(4, 10) + 0.5) / 2 - 0.5, atol=1e-5)
    assert resample_positions(positions, (7, 7)) is positions


def test_weights_are_averaged_and_the_training_goes_on_with_its_own(make_trainer):
    trainer = make_trainer(make_config(ema=0.5))
    losses(trainer, 3)
    own = state_dict(trainer.model.cait)
    averaged = trainer.tensors()
    assert not same(own, averaged)
    assert same(state_dict(trainer.model.cait), own)
    assert same(trainer.tensors(), averaged)


def test_only_kernels_decay(make_trainer):
    decayed = (
        make_trainer(make_config(weight_decay=0.5, ema=0)),
        make_trainer(make_config(weight_decay=0.0, ema=0)),
    )
    for trainer in decayed:
        losses(trainer, 1)
    with_decay, without = (trainer.tensors() for trainer in decayed)
    shrunk = {name for name in without if not np.array_equal(with_decay[name], without[name])}
    kernels = {name for name, tensor in without.items() if tensor.ndim in (2, 4) and name.endswith("weight")}
    assert shrunk == kernels
    assert {"cls_token", "pos_embed", "blocks.0.gamma_1", "norm.weight"}.isdisjoint(shrunk)


@pytest.mark.usefixtures("eagerly")
def test_a_loss_that_is_not_finite_ends_the_training_with_a_sentence(make_trainer):
    weights = lively_weights(timm_shapes(TINY))
    weights["head.bias"] = np.full(3, np.nan, np.float32)
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        losses(make_trainer(weights=weights))


def test_another_trainings_state_is_refused(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save(tmp_path / "state.npz")
    with pytest.raises(TrainingError, match="saved with other test"):
        make_trainer(identity=("another",)).restore(SavedState(tmp_path / "state.npz"))


@pytest.mark.parametrize("content", [None, b"", b"no archive", b"PK\x03\x04broken"])
def test_a_state_that_cannot_be_read_is_refused(make_trainer, tmp_path, content):
    path = tmp_path / "state.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"state\.npz: (nothing to resume|cannot be resumed from)"):
        make_trainer().restore(SavedState(path))


def test_bfloat16_learns_too_and_keeps_float32_weights(make_trainer):
    trainer = make_trainer(make_config(stages=(Stage(32, 10),), precision="bfloat16", label_smoothing=0.0))
    falling = losses(trainer)
    assert np.mean(falling[-3:]) < falling[0]
    tensor = trainer.tensors()["blocks.0.attn.qkv.weight"]
    assert tensor.dtype == np.float32
    # Rounded to bfloat16, the lower half of each number's bits would be empty.
    assert (tensor.view(np.uint32) & 0xFFFF).any()
