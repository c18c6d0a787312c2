"""Every command but those that draw or serve, on real images."""

import json
import re
import shlex
import struct
from pathlib import Path

import numpy as np
import pytest
from folder_server import serving
from reference import timm_shapes
from safetensors.numpy import load_file, save_file

import cait_viz
from cait_viz.cli import main as cli
from cait_viz.training import Augmentation, DistillationConfig, RunOptions, Stage, TrainingConfig
from cait_viz.weights.registry import VARIANTS

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "assets" / "samples"
CAT = SAMPLES / "cat.jpg"

COMMANDS = ["models", "cache", "fetch", "predict", "attention", "render", "figure"]
COMMANDS += ["batch", "trace", "patch", "explain", "ablate", "trust", "compare", "randomize"]
COMMANDS += ["finetune", "distil", "evaluate", "export", "app"]


# --- models, help ---


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """A cache of the hub that holds the weights of one model, all zero."""
    from huggingface_hub import constants

    variant = VARIANTS["cait_xs24_384"]
    repository = tmp_path / f"models--{variant.repo_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    path = repository / "snapshots" / ("0" * 40) / "model.safetensors"
    path.parent.mkdir(parents=True)
    header, end = {}, 0
    for name, shape in timm_shapes(variant.config).items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with path.open("r+b") as file:  # without data, so that it takes no room
        file.truncate(8 + len(text) + end)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return variant.name


def test_models_lists_each_model_with_its_size_accuracy_and_whether_it_is_here(succeed, downloaded):
    out = succeed("models")
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[:1]}
    assert rows.keys() >= VARIANTS.keys()
    assert rows["cait_xxs24_224"].split() == ["cait_xxs24_224", "11.96", "M", "48", "MB", "78.4", "no"]
    assert rows["cait_m48_448"].split()[1:] == ["356.46", "M", "1426", "MB", "86.5", "no"]
    assert rows[downloaded].endswith("yes")
    assert rows["bundled"].split() == ["bundled", "*", "6.61", "M", "none", "-", "yes"]
    assert VARIANTS["bundled"].accuracy in out


def test_help_lists_every_command_and_says_from_where_blocks_and_heads_count(succeed):
    out = succeed("--help")
    assert sorted(re.findall(r"^  (\w+): ", out, re.MULTILINE)) == sorted(COMMANDS)
    for text in (out, succeed("render", "--help"), succeed("figure", "--help")):
        assert "Blocks and heads count from 0 here" in " ".join(text.split())
    assert "self-attention block, from 0" in " ".join(succeed("attention", "--help").split())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_that_begins_as_its_line_in_the_list(succeed, command):
    out = succeed(command, "--help")
    assert out.startswith(f"Usage: cait-viz {command}")
    [summary] = re.findall(rf"^  {command}: (.*(?:\n    .*)*)", succeed("--help"), re.MULTILINE)
    beginning = " ".join(summary.split()).rstrip(".")
    assert f" {beginning}" in " ".join(out.split())


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("models", "cache", "fetch")])
def test_help_shows_the_default_of_every_option(succeed, command):
    out = succeed(command, "--help")
    options = re.findall(r"^  (--[\w-]+.*(?:\n    .*)*)", out, re.MULTILINE)
    named = {"--weights", "--labels", "--validation", "--stages"}  # without one, nothing or what they replace
    assert options
    for option in options:
        text = " ".join(option.split())
        known = re.search(r"\[default: |\(default: |\[required\]", text)
        assert known or re.match(r"--[\w-]+", text)[0] in named


@pytest.mark.parametrize("command", ["finetune", "distil"])
def test_the_help_of_a_training_begins_each_option_with_a_plain_type_and_what_it_is(succeed, command):
    options = re.findall(r"^  (--.*(?:\n    .*)*)", succeed(command, "--help"), re.MULTILINE)
    assert len(options) > 20
    for option in options:
        assert re.match(r"(--?[\w-]+,? )*(([A-Z]+|FOLDER=W|SIZE:EPOCHS,…): )?(?!of )\S", option), option
        assert not re.search(r"checkpoint(?!, in place of the model's own)", " ".join(option.split())), option


def test_finetune_says_with_what_it_validates_and_nothing_of_a_teacher(succeed):
    text = " ".join(succeed("finetune", "--help").split())
    assert "(default: that of the split, or else --validation-share)" in text
    assert "(default: 0.1 where nothing else is there to validate with)" in text
    assert "teacher" not in text


def test_version_is_the_package_s(run):
    assert run("--version") == (0, f"cait-viz {cait_viz.__version__}\n", "")


def test_what_needs_no_network_starts_neither_tensorflow_nor_streamlit(run_python):
    out, err = run_python(
        "import sys\n"
        "from cait_viz.cli.main import main\n"
        "for command in ('models', '--help', '--version', 'app --help', 'distil --help', 'fetch bundled'):\n"
        "    assert main(command.split()) == 0\n"
        "heavy = {'tensorflow', 'keras', 'streamlit', 'matplotlib.pyplot', 'matplotlib.figure'}\n"
        "print(heavy & set(sys.modules))\n"
    )
    assert out.endswith("set()\n")
    assert err == ""


def test_the_list_of_commands_imports_none_of_them(run_python):
    out, _ = run_python(
        "import sys\n"
        "from cait_viz.cli.main import main\n"
        "main(['--help'])\n"
        "print({'numpy', 'PIL', 'huggingface_hub'} & set(sys.modules))\n"
    )
    assert out.endswith("set()\n")


# --- predict ---


def test_predict_shows_the_five_most_probable_classes_and_who_says_so(succeed, bundled_cat):
    first, *rows = succeed("predict", CAT).splitlines()
    assert first == f"cat.jpg, seen by bundled ({VARIANTS['bundled'].accuracy})"
    kinds, rows = rows[:3], rows[3:]
    for row, (kind, share) in zip(kinds, bundled_cat.kinds(), strict=False):
        assert row.split(maxsplit=3) == ["kind", f"{100 * share:.1f}", "%", kind]
    assert len(rows) == 5
    for rank, (row, (label, probability)) in enumerate(zip(rows, bundled_cat.predictions, strict=False), 1):
        assert row.split(maxsplit=3) == [str(rank), f"{100 * probability:.1f}", "%", label]


def test_predict_json_is_the_promised_object(succeed, bundled_cat):
    answer = json.loads(succeed("predict", CAT, "--json"))
    assert list(answer) == ["model", "image", "input_size", "predictions", "kinds"]
    best = [(given["kind"], pytest.approx(given["probability"], abs=1e-6)) for given in answer["kinds"]]
    assert best == bundled_cat.kinds()[:5]
    assert (answer["model"], answer["input_size"], answer["image"]) == ("bundled", [224, 224], str(CAT))
    assert len(answer["predictions"]) == 5
    for given, (label, probability) in zip(answer["predictions"], bundled_cat.predictions, strict=False):
        assert list(given) == ["index", "label", "probability"]
        assert bundled_cat.labels[given["index"]] == given["label"] == label
        assert given["probability"] == pytest.approx(probability, abs=1e-6)


def test_top_says_how_many_and_more_than_there_are_means_all(succeed, small):
    assert len(succeed("predict", CAT, *small, "--top", 1).splitlines()) == 1 + 1
    answer = json.loads(succeed("predict", CAT, *small, "--json", "--top", 100_000))
    assert len(answer["predictions"]) == 10
    assert sum(given["probability"] for given in answer["predictions"]) == pytest.approx(1, abs=1e-4)


def test_the_whole_view_sees_another_image_than_the_crop(succeed, small, tiny_model):
    whole = cait_viz.analyze(CAT, tiny_model, view="squash")
    answer = json.loads(succeed("predict", CAT, *small, "--json", "--view", "squash"))
    assert [given["label"] for given in answer["predictions"]] == [label for label, _ in whole.top(5)]
    crop = json.loads(succeed("predict", CAT, *small, "--json", "--view", "crop"))
    assert crop["predictions"] != answer["predictions"]


def test_weights_of_one_s_own_answer_with_their_own_labels(succeed, tiny_weights, tiny_config, tmp_path):
    labels = tmp_path / "names.txt"
    names = [f"Käse №{index}" for index in range(tiny_config.num_classes)]
    labels.write_text("\n".join(names), encoding="utf-8")
    out = succeed("predict", CAT, "--weights", tiny_weights, "--labels", labels)
    assert out.splitlines()[0] == "cat.jpg, seen by tiny.safetensors (accuracy unknown)"
    assert "Käse №" in out
    answer = json.loads(succeed("predict", CAT, "--weights", tiny_weights, "--json", "--top", 99))
    assert {given["label"] for given in answer["predictions"]} == {f"class {index}" for index in range(10)}


def test_a_model_can_be_named_beside_its_weights(succeed):
    weights = ROOT / "assets" / "bundled.safetensors"
    out = succeed("predict", CAT, "--model", "bundled", "--weights", weights)
    assert "seen by bundled.safetensors (accuracy unknown)" in out
    assert "seen by bundled (" in succeed("predict", CAT, "--weights", weights)


def test_an_image_is_opened_once_and_a_checkpoint_for_its_kind_and_its_hash_alone(run_python, tiny_weights):
    script = """
import sys
from collections import Counter
opened = Counter()
sys.addaudithook(lambda event, arguments: event == "open" and opened.update([str(arguments[0])]))
from cait_viz.cli.main import main
image, weights = sys.argv[1:]
assert main(["predict", image, "--weights", weights]) == 0
print(opened[image], opened[weights])
"""
    out, _ = run_python(script, CAT, tiny_weights)
    assert out.splitlines()[-1] == "1 2"


def test_an_image_may_be_a_web_address(run, small, small_cat):
    with serving(SAMPLES) as site:
        status, out, _ = run("predict", f"{site}/cat.jpg", *small, "--json")
        answer = json.loads(out)
        assert (status, answer["image"]) == (0, f"{site}/cat.jpg")
        assert answer["predictions"][0]["label"] == small_cat.predictions[0][0]
        status, _, err = run("predict", f"{site}/dog.jpg", *small)
    assert (status, err.count("\n")) == (1, 1)
    assert "404" in err


@pytest.mark.parametrize(
    "command",
    ["predict", "attention --npz o.npz", "render -o o.png", "figure --kind heads -o o.png"],
)
def test_what_is_missing_in_an_image_is_noted_once(run, small, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("cut.jpg").write_bytes(CAT.read_bytes()[:-200])
    status, out, err = run(*command.split(), "cut.jpg", *small)
    assert (status, err.count("\n")) == (0, 1)
    assert err.startswith("cait-viz: note: ")
    assert out


# --- attention ---


def test_attention_writes_what_the_model_gives(succeed, small, tiny_model, tmp_path):
    output = tmp_path / "cat.npz"
    out = succeed("attention", CAT, *small, "--npz", output, "--sa-block", 2, "--sa-block", 0)
    assert out.startswith(f"{output}: pixels, logits, ")
    with np.load(output) as archive:
        written = dict(archive)
    assert written.keys() == {
        "pixels",
        "logits",
        "ca_ffn_block_0_att",
        "ca_ffn_block_1_att",
        "sa_ffn_block_0_att",
        "sa_ffn_block_2_att",
    }
    assert {array.dtype for array in written.values()} == {np.dtype(np.float32)}
    pixels = cait_viz.preprocess(CAT, tiny_model)
    np.testing.assert_array_equal(written["pixels"], pixels)
    logits, sa_attention, ca_attention = tiny_model(pixels)
    np.testing.assert_allclose(written["logits"], logits, atol=1e-4)
    for key, attention in {**sa_attention, **ca_attention}.items():
        if key in written:
            np.testing.assert_allclose(written[key], attention, atol=1e-5)


def test_attention_writes_no_self_attention_unless_asked(succeed, tmp_path):
    succeed("attention", CAT, "--npz", tmp_path / "cat.npz", "--view", "squash")
    with np.load(tmp_path / "cat.npz") as archive:
        assert set(archive) == {"pixels", "logits", "ca_ffn_block_0_att", "ca_ffn_block_1_att"}
        assert archive["pixels"].shape == (1, 224, 224, 3)
        assert archive["logits"].shape == (1, 1000)


def test_damaged_weights_are_one_line_and_no_output(run, tiny_weights, tmp_path):
    tensors = load_file(tiny_weights)
    tensors["norm.weight"][0] = np.nan
    damaged, output = tmp_path / "damaged.safetensors", tmp_path / "out.png"
    save_file(tensors, damaged)
    status, out, err = run("render", CAT, "-o", output, "--weights", damaged)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("cait-viz: damaged.safetensors: holds values that are not finite in norm.weight")
    assert not output.exists()


# --- finetune, distil ---


def parsed(*arguments):
    """What the command's function would be called with."""
    words = [str(argument) for argument in arguments]
    _, bound, _ = cli.application(words[0]).parse_args(words)
    return bound.arguments


@pytest.mark.parametrize(
    ("command", "usual"),
    [
        (["finetune", "images", "-o", "out"], TrainingConfig()),
        (["distil", "images", "-o", "out", "--teacher", "t.onnx"], DistillationConfig()),
    ],
)
def test_an_option_leaves_the_others_of_a_training_at_the_command_s_own_defaults(command, usual):
    given = parsed(*command)
    assert given.get("config", usual) == usual
    changed = parsed(*command, "--batch-size", 8, "--ema", 0, "--flip", 0.1, "--resume")
    expected = {"batch_size": 8, "ema": 0.0}
    assert changed["config"] == type(usual)(**expected)
    assert changed["training"].augmentation == Augmentation(flip=0.1)
    assert changed["training"].options == RunOptions(resume=True)


def test_every_field_of_a_training_s_options_is_an_option_of_the_command_line(succeed):
    text = succeed("distil", "--help")
    fields = {*TrainingConfig.__dataclass_fields__, *Augmentation.__dataclass_fields__}
    fields |= set(RunOptions.__dataclass_fields__)
    for field in fields - {"augmentation", "command", "tell"}:
        assert re.search(rf"^  --{field.replace('_', '-')}\b", text, re.MULTILINE), field


def test_a_misspelt_field_is_an_error_in_python_too():
    for options in (TrainingConfig, DistillationConfig, Augmentation, RunOptions):
        with pytest.raises(TypeError, match="batchsize"):
            options(batchsize=8)


def test_stages_and_epochs_are_read_from_the_command_line():
    command = ["finetune", "images", "-o", "out"]
    assert parsed(*command, "--stages", "112:5,224:0.5")["stages"] == (Stage(112, 5), Stage(224, 0.5))
    assert parsed(*command, "--epochs", "0.5")["epochs"] == (Stage(None, 0.5),)


def test_the_command_on_the_bundled_model_s_card_is_one():
    card = json.loads((ROOT / "assets" / "bundled.json").read_text())
    assert parsed(*shlex.split(card["command"])[1:])["training"].options.half


def test_cache_shows_what_was_exported_and_clears_it(succeed, small, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert succeed("cache").startswith("0 of at most ")
    succeed("predict", CAT, *small)
    entry, total, converted = succeed("cache").splitlines()
    assert entry.startswith("tiny ")
    assert total.endswith(str(tmp_path / "cait-viz" / "graphs"))
    assert converted.startswith("0 of at most ")
    assert " MB removed from " in succeed("cache", "--clear")
    assert succeed("cache").startswith("0 of at most ")
