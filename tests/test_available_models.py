"""The models that the app lists: the registry's as they are, and a user's own under a name of its own."""

from pathlib import Path

import pytest

from cait_viz._resources import BUNDLED_WEIGHTS
from cait_viz.serving.engines import ModelChoice
from cait_viz.serving.models import registry_model, user_model
from cait_viz.weights import resolve as checkpoints
from cait_viz.weights.registry import BUNDLED, VARIANTS


@pytest.fixture
def make(tiny_weights, tmp_path, monkeypatch):
    """Make a user's model of the tiny weights, under that path relative to an empty folder."""
    monkeypatch.chdir(tmp_path)

    def make(path, labels=None):
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tiny_weights.read_bytes())
        return user_model(checkpoints.resolve(weights=path), labels)

    return make


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_a_model_of_the_registry_is_listed_as_it_stands_there(variant):
    model = registry_model(variant)
    for name in ("name", "config", "parameters", "saliency_block", "accuracy"):
        assert getattr(model, name) == getattr(variant, name)
    assert model.choice == ModelChoice(variant.name)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("petals.safetensors", "petals"),
        ("run 3/my petals.v2.safetensors", "my petals.v2"),
        ("petals/model.safetensors", "petals"),  # as `finetune` leaves it
        ("petals/bundled.safetensors", "petals"),
        ("petals/cait_xxs24_224.safetensors", "petals"),
        ("cait_m48_448/model.safetensors", "model (your own)"),
        ("petals/same.safetensors", "petals"),  # a word of the address of a comparison
        ("bundled/bundled.safetensors", "bundled (your own)"),
        ("new\nline \u202e/model.safetensors", "new line"),
        (f"{'long ' * 30}.safetensors", f"{('long ' * 30)[:60]}…"),
    ],
)
def test_a_persons_own_model_has_a_name_that_tells_it_from_all_others(make, path, name):
    mine = make(path)
    assert mine.name == mine.choice.display_name == name
    assert mine.name not in VARIANTS


@pytest.mark.parametrize("path", ["model.safetensors", "./model.safetensors", "../here/model.safetensors"])
def test_a_model_in_the_current_folder_is_named_after_it(make, tmp_path, monkeypatch, path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert make(path).name == "here"


def test_a_link_is_called_as_the_person_called_it(make, tmp_path):
    make("blobs/5feceb66")
    (tmp_path / "petals.safetensors").symlink_to(tmp_path / "blobs" / "5feceb66")
    assert user_model(checkpoints.resolve(weights="petals.safetensors")).name == "petals"


def test_a_persons_own_model_is_described_by_its_weights(make, tiny_config, tiny_model):
    mine = make("petals.safetensors")
    assert mine.config == tiny_config
    assert mine.parameters == tiny_model.count_params()
    assert (mine.saliency_block, mine.variant, mine.weights) == (0, None, "petals.safetensors")
    assert mine.accuracy == "whose accuracy is not known here"


def test_the_bundled_weights_keep_what_is_known_of_them_under_another_name(tmp_path):
    (tmp_path / "copy.safetensors").symlink_to(BUNDLED_WEIGHTS)
    copy = user_model(checkpoints.resolve(weights=tmp_path / "copy.safetensors"))
    assert (copy.name, copy.accuracy, copy.parameters) == ("copy", BUNDLED.accuracy, BUNDLED.parameters)
    assert copy.saliency_block == BUNDLED.saliency_block


def test_the_engine_finds_the_files_from_any_folder_and_knows_these_weights(make, tmp_path):
    (tmp_path / "names.txt").write_text("".join(f"{index}\n" for index in range(10)))
    mine = make("petals.safetensors", Path("names.txt"))
    assert mine.choice == ModelChoice(
        checkpoint=checkpoints.resolve(weights=tmp_path / "petals.safetensors"),
        labels=tmp_path / "names.txt",
        display_name="petals",
    )
