"""Every refusal of every command: its status, one line on standard error, and nothing written.

None of them starts TensorFlow.
"""

import re
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from cait_viz.cli import main as cli

ROOT = Path(__file__).parent.parent
CAT = str(ROOT / "assets" / "samples" / "cat.jpg")

FAILED, WRONG_USAGE = 1, 2

# Each command that runs a network, complete but for the image.
NETWORK_COMMANDS = {
    "predict": ["predict"],
    "attention": ["attention", "--npz", "out.npz"],
    "render": ["render", "-o", "out.png"],
    "figure": ["figure", "-o", "out.svg", "--kind", "heads"],
}


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    """A command that starts TensorFlow ends with another error than the one expected."""
    monkeypatch.setitem(sys.modules, "tensorflow", None)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, empty but for what a test puts there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refusal(capsys, folder):
    """Run a command that is refused and give the sentence."""

    def refusal(status, *arguments):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert cli.main([str(argument) for argument in arguments]) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("cait-viz: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        return err.removeprefix("cait-viz: ").removesuffix("\n")

    return refusal


# --- usage ------------------------------------------------------------------------------------------


RENDER = [*NETWORK_COMMANDS["render"], CAT]
SALIENCY = ["figure", CAT, "-o", "out.pdf", "--kind", "saliency"]
ATTENTION = [*NETWORK_COMMANDS["attention"], CAT]
FINETUNE = ["finetune", "images", "-o", "out"]
DISTIL = ["distil", "images", "-o", "out", "--teacher", "t.onnx"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND is missing; see cait-viz --help"),
        (["predicate"], 'Unknown command "predicate". Did you mean "predict"?'),
        (["--nonsense"], "--nonsense"),
        (["models", "more"], "unexpected argument more"),
        (["fetch"], "MODEL... is missing; see cait-viz fetch --help"),
        (["predict"], "IMAGE is missing; see cait-viz predict --help"),
        (["predict", CAT, CAT], f"unexpected argument {CAT}; see cait-viz predict --help"),
        (["predict", CAT, "--top", "1.9"], "--top: 1.9 is not a whole number"),
        (["render", CAT, "-o", "out.png", "--head", "1.5"], "--head: 1.5 is not a whole number"),
        (
            ["attention", CAT, "--npz", "out.npz", "--sa-block", "0.6"],
            "--sa-block: 0.6 is not a whole number",
        ),
        ([*FINETUNE, "--seed", "1.5"], "--seed: 1.5 is not a whole number"),
        (["predict", CAT, "--nonsense"], "Unknown option: --nonsense"),
        (["predict", CAT, "--js"], "Unknown option: --js"),
        (["predict", CAT, "--no-json"], "Unknown option: --no-json"),
        (["predict", CAT, "--top", "0"], 'Invalid value "0" for --top. Must be >= 1; see cait-viz predict'),
        (["predict", CAT, "--top", "-3"], 'Invalid value "-3" for --top'),
        (["predict", CAT, "--top", "many"], "--top: many is not a whole number; see cait-viz predict"),
        (["predict", CAT, "--view", "round"], '"round" for --view. Choose from: "crop", "squash", "fit"'),
        (["attention", CAT], "--npz is missing"),
        ([*ATTENTION, "--sa-block", "first"], "--sa-block: first is not a whole number"),
        (["attention", CAT, "--npz", "out.txt"], "out.txt: the output's format follows from its ending; use"),
        (["render", CAT], "--output is missing"),
        (["render", CAT, "-o", "out.jpg"], "use .png"),
        (["render", CAT, "-o", "out"], "use .png"),
        ([*RENDER, "--head", "all"], "--head: all is not a whole number or mean; see cait-viz render"),
        ([*RENDER, "--block", "last"], "--block: last is not a whole number"),
        ([*RENDER, "--alpha", "1.5"], "alpha must be from 0 to 1, not 1.5"),
        ([*RENDER, "--alpha", "nan"], "alpha must be from 0 to 1"),
        ([*RENDER, "--alpha", "half"], 'unable to convert "half" into float'),
        ([*RENDER, "--style", "jet"], "jet"),
        ([*RENDER, "--colormap", "jet"], "jet"),
        ([*RENDER, "--interpolation", "cubic"], "cubic"),
        ([*RENDER, "--scale", "global"], "global"),
        ([*RENDER, "--dim-unseen", "0.5"], "Unknown option: --dim-unseen"),
        (["figure", "-o", "out.png", "--kind", "heads"], "IMAGE... is missing"),
        (["figure", CAT, "--kind", "heads"], "--output is missing"),
        (["figure", CAT, "-o", "out.png"], "--kind is missing"),
        (["figure", CAT, "-o", "out.png", "--kind", "tails"], 'Invalid value "tails" for --kind'),
        (["figure", CAT, "-o", "out.gif", "--kind", "heads"], "use .png, .svg, .pdf"),
        ([*NETWORK_COMMANDS["figure"], CAT, "--block", "0"], "--block is for --kind saliency"),
        ([*SALIENCY, "--alpha", "0.5"], "Unknown option: --alpha"),
        (["app", "--port", "0"], 'Invalid value "0" for --port'),
        (["app", "--port", "65536"], 'Invalid value "65536" for --port'),
        (["app", "--bogus"], "--bogus"),
        (["app", "cases"], "unexpected argument cases; see cait-viz app --help"),
        (["app", "cases", "--", "--server.headless=true"], "unexpected argument cases"),
        (["app", "--labels", "names.txt"], "--labels is for --weights"),
        (["app", "--model", "bundled"], "--model"),
        (["export"], "--format is missing"),
        (["export", "--format", "h5"], 'Invalid value "h5" for --format'),
        (["export", "--format", "onnx", "-o", "out.keras"], "use .onnx"),
        (["evaluate"], "FOLDER... is missing"),
        (["finetune"], "FOLDER is missing"),
        (["finetune", "images"], "--output is missing"),
        ([*FINETUNE, "--batchsize", "8"], "Unknown option: --batchsize. Did you mean --batch-size?"),
        (
            [*FINETUNE, "--batch-size", "0"],
            "batch_size must be at least 1, not 0; see cait-viz finetune",
        ),
        ([*FINETUNE, "--mixup", "-1"], "mixup must be at least 0, not -1.0"),
        ([*FINETUNE, "--kept-views", "1"], "Unknown option: --kept-views"),
        ([*FINETUNE, "--color-jitter", "1"], "color_jitter must be at least 0 and below 1, not 1.0"),
        ([*FINETUNE, "--state-minutes", "-1"], "state_minutes must be at least 0"),
        ([*FINETUNE, "--threads", "0"], "threads must be at least 1, not 0"),
        ([*FINETUNE, "--precision", "float16"], '"float16" for --precision'),
        ([*FINETUNE, "--epochs", "0"], "epochs must be above 0"),
        ([*FINETUNE, "--epochs", "many"], "'many'"),
        ([*FINETUNE, "--stages", "112"], "'112' is no list of stages; write SIZE:EPOCHS"),
        ([*FINETUNE, "--epochs", "1", "--stages", "112:1"], "--epochs, --stages"),
        ([*FINETUNE, "--validation", "v", "--validation-share", "0.2"], "--validation, --validation-share"),
        ([*FINETUNE, "--label-weight", "0.5"], "Unknown option: --label-weight"),
        ([*FINETUNE, "--augmentation", "none"], "Unknown option: --augmentation"),
        ([*FINETUNE, "--command", "none"], "Unknown option: --command"),
        (
            [*FINETUNE, "--backend", "theano"],
            "there is no backend 'theano'; choose one of tensorflow",
        ),
        ([*FINETUNE, "--backend", "tensorflow"], "the backend tensorflow is not installed"),
        (DISTIL[:4], "--teacher is missing"),
        ([*DISTIL, "--folder-weight", "dogs"], "'dogs' is no folder with a weight; write FOLDER=W"),
        ([*DISTIL, "--folder-weight", "dogs=many"], "'dogs=many' is no folder with a weight"),
        ([*DISTIL, "--label-weight", "1.5"], "label_weight must be from 0 to 1, not 1.5"),
    ],
)
def test_wrong_usage_is_refused(refusal, arguments, words):
    assert words in refusal(WRONG_USAGE, *arguments)


def test_line_breaks_and_escapes_in_an_argument_stay_out_of_the_terminal(refusal):
    for arguments in (["a\x1b[31m\nb"], ["predict", CAT, "--x=\x1b[31m\nb"], ["predict", "--top=\r\nx", CAT]):
        assert refusal(WRONG_USAGE, *arguments).isprintable()
    assert refusal(FAILED, "predict", "no\nsuch\x1b[31m.jpg").isprintable()
    assert refusal(FAILED, "render", CAT, "-o", "no\nsuch\x1b[31m/out.png").isprintable()


# --- models, blocks and heads that are not there ----------------------------------------------------


@pytest.mark.parametrize("command", NETWORK_COMMANDS)
def test_an_unknown_model_is_refused_with_the_known_ones(refusal, command):
    text = refusal(WRONG_USAGE, *NETWORK_COMMANDS[command], CAT, "--model", "vit_b16")
    assert "no model named 'vit_b16'" in text
    assert "bundled, cait_xxs24_224" in text


def test_fetch_refuses_an_unknown_model_before_it_fetches_any(refusal):
    assert "no model named 'cait'" in refusal(WRONG_USAGE, "fetch", "bundled", "cait")  # prints no path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*RENDER, "--block", "2"], "there is no CA block 2; this model has 2, numbered from 0 to 1"),
        ([*RENDER, "--block", "-1"], "there is no CA block -1"),
        ([*RENDER, "--head", "4"], "there is no head 4; this model has 4, numbered from 0 to 3"),
        ([*RENDER, "--head", "-1"], "there is no head -1"),
        ([*RENDER, "--model", "cait_m48_448", "--head", "16"], "this model has 16"),
        ([*SALIENCY, "--block", "2"], "there is no CA block 2"),
        ([*ATTENTION, "--sa-block", "12"], "there is no SA block 12; this model has 12"),
        ([*ATTENTION, "--sa-block", "0", "--sa-block", "-1"], "there is no SA block -1"),
        ([*ATTENTION, "--model", "cait_s36_384", "--sa-block", "36"], "this model has 36"),
    ],
)
def test_a_block_or_head_that_is_not_there_is_refused(refusal, arguments, words):
    assert words in refusal(WRONG_USAGE, *arguments)


def test_blocks_and_heads_are_counted_in_the_weights_given(refusal, tiny_weights):
    weights = ["--weights", tiny_weights]
    assert "has 3, numbered" in refusal(WRONG_USAGE, *ATTENTION, *weights, "--sa-block", 3)
    assert "has 4, numbered" in refusal(WRONG_USAGE, *RENDER, *weights, "--head", 4)


# --- images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", NETWORK_COMMANDS)
def test_an_image_that_cannot_be_read_is_refused(refusal, folder, command):
    given = NETWORK_COMMANDS[command]
    (folder / "text.jpg").write_text("no image")
    (folder / "empty.png").touch()
    (folder / "truncated.jpg").write_bytes(Path(CAT).read_bytes()[:5000])
    assert "no such file" in refusal(FAILED, *given, "missing.jpg")
    assert "this is a folder" in refusal(FAILED, *given, folder)
    assert "empty" in refusal(FAILED, *given, "empty.png")
    assert refusal(FAILED, *given, "text.jpg").startswith("text.jpg: ")
    assert refusal(FAILED, *given, "truncated.jpg").startswith("truncated.jpg: ")


def test_one_bad_image_of_several_is_told(refusal, folder):
    (folder / "text.jpg").write_text("no image")
    assert "text.jpg" in refusal(FAILED, *NETWORK_COMMANDS["figure"], CAT, "text.jpg")


# --- weights and labels -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", NETWORK_COMMANDS)
def test_weights_that_cannot_be_used_are_refused(refusal, folder, command):
    given = [*NETWORK_COMMANDS[command], CAT, "--weights"]
    (folder / "model.pth").write_bytes(b"PK\3\4")
    (folder / "model.keras").write_bytes(b"PK\3\4")
    assert "missing.safetensors" in refusal(FAILED, *given, "missing.safetensors")
    assert "model.pth" in refusal(FAILED, *given, "model.pth")
    assert "model.keras" in refusal(FAILED, *given, "model.keras")
    assert "cat.jpg" in refusal(FAILED, *given, CAT)


def test_weights_that_do_not_fit_the_model_are_refused_with_every_tensor(refusal, tiny_weights):
    text = refusal(FAILED, "predict", CAT, "--model", "cait_xxs24_224", "--weights", tiny_weights)
    assert "does not fit cait_xxs24_224" in text
    assert "pos_embed" in text


def test_weights_without_a_classifier_are_refused(refusal, folder, tiny_weights):
    tensors = load_file(tiny_weights)
    headless = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    save_file(headless, folder / "headless.safetensors")
    text = refusal(FAILED, "predict", CAT, "--weights", "headless.safetensors")
    assert text.startswith("headless.safetensors: has no classifier")


@pytest.mark.parametrize("command", NETWORK_COMMANDS)
def test_labels_that_cannot_be_used_are_refused(refusal, folder, command):
    given = [*NETWORK_COMMANDS[command], CAT, "--labels"]
    (folder / "two.txt").write_text("cat\ndog\n")
    (folder / "image.txt").write_bytes(Path(CAT).read_bytes())
    assert "two.txt: names 2 classes and the model has 1000" in refusal(FAILED, *given, "two.txt")
    assert "missing.txt" in refusal(FAILED, *given, "missing.txt")
    assert "image.txt: is not UTF-8" in refusal(FAILED, *given, "image.txt")


@pytest.fixture
def no_server(monkeypatch):
    monkeypatch.setattr("runpy.run_module", lambda *_, **__: pytest.fail("the app was started"))


def test_the_app_refuses_weights_and_labels_that_cannot_be_used_before_it_starts(
    refusal, folder, tiny_weights, no_server
):
    (folder / "model.pth").write_bytes(b"PK\3\4")
    (folder / "two.txt").write_text("cat\ndog\n")
    tensors = load_file(tiny_weights)
    save_file({name: tensors[name] for name in tensors if "head" not in name}, "headless.safetensors")
    save_file({name: tensors[name] for name in tensors if "norm1" not in name}, "torn.safetensors")
    app = ["app", "--weights"]
    assert "missing.safetensors: there is no such" in refusal(FAILED, *app, "missing.safetensors")
    assert refusal(FAILED, *app, "model.pth").startswith("model.pth: this PyTorch checkpoint is damaged")
    assert refusal(FAILED, *app, "headless.safetensors").startswith("headless.safetensors: has no classifier")
    assert refusal(FAILED, *app, "torn.safetensors").startswith("torn.safetensors: ")
    assert "two.txt: names 2 classes" in refusal(FAILED, *app, tiny_weights, "--labels", "two.txt")
    assert "none.txt: the labels cannot" in refusal(FAILED, *app, tiny_weights, "--labels", "none.txt")


# --- outputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "ending"),
    [
        (["attention", CAT, "--npz"], ".npz"),
        (["render", CAT, "-o"], ".png"),
        (["figure", CAT, "--kind", "heads", "-o"], ".svg"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(refusal, folder, arguments, ending):
    (folder / f"folder{ending}").mkdir()
    (folder / "file").touch()
    (folder / f"circle{ending}").symlink_to(folder / f"circle{ending}")
    assert "there is no folder" in refusal(FAILED, *arguments, f"missing/out{ending}")
    assert "there is no folder" in refusal(FAILED, *arguments, f"file/out{ending}")
    assert "is a folder or a device" in refusal(FAILED, *arguments, f"folder{ending}")
    assert "cannot be written" in refusal(FAILED, *arguments, f"{'long' * 70}{ending}")
    assert f"circle{ending}: cannot be written" in refusal(FAILED, *arguments, f"circle{ending}")


def test_what_is_read_is_not_replaced(refusal, folder):
    (folder / "cat.png").write_bytes(Path(CAT).read_bytes())
    (folder / "link.png").symlink_to("cat.png")
    (folder / "second.png").hardlink_to("cat.png")
    for output in ("cat.png", "./cat.png", "link.png", "second.png"):
        assert "is read as an input" in refusal(FAILED, "render", "cat.png", "-o", output)
    assert "is read as an input" in refusal(
        FAILED, "figure", CAT, "cat.png", "-o", "cat.png", "--kind", "saliency"
    )


def test_weights_and_labels_are_not_replaced_either(refusal, folder, tiny_weights):
    (folder / "weights.png").write_bytes(tiny_weights.read_bytes())
    (folder / "labels.png").write_text("".join(f"{index}\n" for index in range(1000)))
    assert "input" in refusal(FAILED, "render", CAT, "--weights", "weights.png", "-o", "weights.png")
    assert "input" in refusal(FAILED, "render", CAT, "--labels", "labels.png", "-o", "labels.png")


# --- what nobody foresaw ----------------------------------------------------------------------------


@pytest.fixture
def ending_with(monkeypatch):
    """Let a command end with an error that none of its modules expects."""

    def ending_with(error):
        def fail(*_):
            raise error

        monkeypatch.setattr("logging.disable", fail)

    return ending_with


def test_an_interrupt_prints_nothing(capsys, ending_with):
    ending_with(KeyboardInterrupt())
    assert cli.main(["fetch", "bundled"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory; choose a smaller model or image"),
        (PermissionError(13, "Permission denied", "/secret"), "/secret: the system refuses"),
        (ZeroDivisionError("division\nby zero"), "(ZeroDivisionError: division by zero); please report it"),
    ],
)
def test_an_unforeseen_error_is_one_line_too(capsys, ending_with, error, words):
    ending_with(error)
    assert cli.main(["fetch", "bundled"]) == FAILED
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"cait-viz: .*\n", err)
    assert words in err


def test_the_traceback_of_an_unforeseen_error_can_be_asked_for(capsys, ending_with, monkeypatch):
    monkeypatch.setenv("CAIT_VIZ_TRACEBACK", "1")
    ending_with(ZeroDivisionError())
    assert cli.main(["fetch", "bundled"]) == FAILED
    assert "Traceback" in capsys.readouterr().err
