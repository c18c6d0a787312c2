"""Every command on real pictures with the bundled model."""

import io
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import cait_viz
from cait_viz.cli import main as cli
from cait_viz.drawing.overlay import STYLES
from cait_viz.weights.registry import VARIANTS

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "assets" / "samples"
CAT = SAMPLES / "cat.jpg"


@pytest.fixture
def run(capsys):
    """Run a command in this process and give its (status, standard output, standard error)."""

    def run(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def succeed(run, bundled, monkeypatch):
    """Run a command that ends well and give its standard output. The bundled model is loaded once for all."""
    from cait_viz import api as pipeline

    load = pipeline.from_checkpoint

    def once(checkpoint, labels):
        return bundled if checkpoint == bundled.source and labels is None else load(checkpoint, labels)

    monkeypatch.setattr(pipeline, "from_checkpoint", once)

    def succeed(*arguments):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        return out

    return succeed


@pytest.fixture(scope="module")
def analysis(bundled):
    return cait_viz.analyze(CAT, bundled)


@pytest.fixture
def shell(environment, tmp_path):
    """Run `python -m cait_viz` in a process and a folder of its own."""

    def shell(*arguments, **options):
        command = [sys.executable, "-m", "cait_viz", *map(str, arguments)]
        return subprocess.run(
            command, **{"capture_output": True, "cwd": tmp_path, "env": environment, "check": False} | options
        )

    return shell


# --- models, help -----------------------------------------------------------------------------------


def test_models_lists_each_model_with_its_size_accuracy_and_whether_it_is_here(run, monkeypatch):
    here = {"bundled", "cait_xs24_384"}
    monkeypatch.setattr(cli, "locate", lambda variant: CAT if variant.name in here else None)
    status, out, err = run("models")
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()[:1]}
    assert rows.keys() >= VARIANTS.keys()
    assert rows["cait_xxs24_224"].split() == ["cait_xxs24_224", "11.96", "M", "48", "MB", "78.4", "no"]
    assert rows["cait_m48_448"].split()[1:] == ["356.46", "M", "1426", "MB", "86.5", "no"]
    assert rows["cait_xs24_384"].endswith("yes")
    assert rows["bundled"].split() == ["bundled", "*", "6.61", "M", "none", "-", "yes"]
    assert VARIANTS["bundled"].accuracy in out


@pytest.mark.parametrize("command", ["models", "fetch", "predict", "attention", "render", "figure", "app"])
def test_each_command_has_help(run, command):
    status, out, err = run(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: cait-viz {command}")


def test_help_names_every_command_and_says_from_where_blocks_and_heads_count(run):
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    for command in ("models", "fetch", "predict", "attention", "render", "figure", "app"):
        assert re.search(rf"^    {command}\b", out, re.MULTILINE)
    for _, text, _ in ((0, out, 0), run("render", "--help"), run("figure", "--help")):
        assert "heads count from 0 here" in " ".join(text.split())
    assert "self-attention block, from 0" in " ".join(run("attention", "--help")[1].split())


def test_version_is_the_package_s(run):
    assert run("--version") == (0, f"cait-viz {cait_viz.__version__}\n", "")


def test_what_needs_no_network_starts_neither_tensorflow_nor_streamlit(run_python):
    out, err = run_python(
        "import sys\n"
        "from cait_viz.cli.main import main\n"
        "for command in ('models', '--help', '--version', 'app --help', 'fetch bundled'):\n"
        "    assert main(command.split()) == 0\n"
        "heavy = {'tensorflow', 'keras', 'streamlit', 'matplotlib.pyplot', 'matplotlib.figure'}\n"
        "print(heavy & set(sys.modules))\n"
    )
    assert out.endswith("set()\n")
    assert err == ""


# --- predict ----------------------------------------------------------------------------------------


def test_predict_shows_the_five_most_probable_classes_and_who_says_so(succeed, analysis):
    first, *rows = succeed("predict", CAT).splitlines()
    assert first == f"cat.jpg, seen by bundled ({VARIANTS['bundled'].accuracy})"
    assert len(rows) == 5
    for rank, (row, (label, probability)) in enumerate(zip(rows, analysis.predictions, strict=False), 1):
        assert row.split(maxsplit=3) == [str(rank), f"{100 * probability:.1f}", "%", label]


def test_predict_json_is_the_promised_object(succeed, analysis):
    told = json.loads(succeed("predict", CAT, "--json"))
    assert list(told) == ["model", "image", "predictions"]
    assert (told["model"], told["image"]) == ("bundled", str(CAT))
    assert len(told["predictions"]) == 5
    for given, (label, probability) in zip(told["predictions"], analysis.predictions, strict=False):
        assert list(given) == ["index", "label", "probability"]
        assert analysis.labels[given["index"]] == given["label"] == label
        assert given["probability"] == pytest.approx(probability, abs=1e-6)


def test_top_says_how_many_and_more_than_there_are_means_all(succeed):
    assert len(succeed("predict", CAT, "--top", 1).splitlines()) == 1 + 1
    told = json.loads(succeed("predict", CAT, "--json", "--top", 100_000))
    assert len(told["predictions"]) == 1000
    assert sum(given["probability"] for given in told["predictions"]) == pytest.approx(1, abs=1e-4)


def test_the_whole_view_sees_another_picture_than_the_crop(succeed, bundled):
    whole = cait_viz.analyze(CAT, bundled, view="whole")
    told = json.loads(succeed("predict", CAT, "--json", "--view", "whole"))
    assert [given["label"] for given in told["predictions"]] == [label for label, _ in whole.top(5)]
    crop = json.loads(succeed("predict", CAT, "--json", "--view", "crop"))
    assert crop["predictions"] != told["predictions"]


def test_weights_of_one_s_own_speak_with_their_own_labels(succeed, tiny_weights, tiny_config, tmp_path):
    labels = tmp_path / "names.txt"
    names = [f"Käse №{index}" for index in range(tiny_config.num_classes)]
    labels.write_text("\n".join(names), encoding="utf-8")
    out = succeed("predict", CAT, "--weights", tiny_weights, "--labels", labels)
    assert out.splitlines()[0] == (
        "cat.jpg, seen by tiny with the weights of tiny.safetensors, whose accuracy is not known here"
    )
    assert "Käse №" in out
    told = json.loads(succeed("predict", CAT, "--weights", tiny_weights, "--json", "--top", 99))
    assert {given["label"] for given in told["predictions"]} == {f"class {index}" for index in range(10)}


def test_a_model_can_be_named_beside_its_weights(succeed):
    weights = ROOT / "assets" / "bundled.safetensors"
    out = succeed("predict", CAT, "--model", "bundled", "--weights", weights)
    assert "with the weights of bundled.safetensors" in out
    assert "seen by bundled (" in succeed("predict", CAT, "--weights", weights)


# --- attention --------------------------------------------------------------------------------------


def test_attention_writes_what_the_model_gives(succeed, bundled, tmp_path):
    output = tmp_path / "cat.npz"
    out = succeed("attention", CAT, "--npz", output, "--sa-block", 11, "--sa-block", 0)
    assert out.startswith(f"{output}: pixels, logits, ")
    with np.load(output) as archive:
        written = dict(archive)
    assert written.keys() == {
        "pixels",
        "logits",
        "ca_ffn_block_0_att",
        "ca_ffn_block_1_att",
        "sa_ffn_block_0_att",
        "sa_ffn_block_11_att",
    }
    assert {array.dtype for array in written.values()} == {np.dtype(np.float32)}
    pixels = cait_viz.preprocess(CAT, bundled)
    np.testing.assert_array_equal(written["pixels"], pixels)
    logits, sa_attention, ca_attention = bundled(pixels)
    np.testing.assert_allclose(written["logits"], logits, atol=1e-4)
    for key, attention in {**sa_attention, **ca_attention}.items():
        if key in written:
            np.testing.assert_allclose(written[key], attention, atol=1e-5)


def test_attention_writes_no_self_attention_unless_asked(succeed, tmp_path):
    succeed("attention", CAT, "--npz", tmp_path / "cat.npz", "--view", "whole")
    with np.load(tmp_path / "cat.npz") as archive:
        assert set(archive) == {"pixels", "logits", "ca_ffn_block_0_att", "ca_ffn_block_1_att"}
        assert archive["pixels"].shape == (1, 224, 224, 3)
        assert archive["logits"].shape == (1, 1000)


# --- render -----------------------------------------------------------------------------------------


def pixels_of(source):
    return np.asarray(Image.open(io.BytesIO(source) if isinstance(source, bytes) else source))


def test_render_draws_the_saliency_unless_told_otherwise(succeed, analysis, tmp_path):
    output = tmp_path / "cat.PNG"
    out = succeed("render", CAT, "-o", output)
    assert out == f"{output}: {analysis.title()}\n"
    assert "class-attention block 2, mean of the heads" in out
    np.testing.assert_array_equal(pixels_of(output), pixels_of(analysis.png()))
    assert pixels_of(output).shape == analysis.image.shape


@pytest.mark.parametrize("style", STYLES)
def test_render_is_the_library_s_drawing_pixel_by_pixel(succeed, analysis, tmp_path, style):
    look = {"style": style, "colormap": "magma", "alpha": 0.3, "interpolation": "nearest", "scale": "shared"}
    options = [part for name, value in look.items() for part in (f"--{name}", value)]
    succeed("render", CAT, "-o", tmp_path / "out.png", "--block", 0, "--head", 3, *options)
    expected = analysis.png(0, 3, **look)
    np.testing.assert_array_equal(pixels_of(tmp_path / "out.png"), pixels_of(expected))
    text = Image.open(tmp_path / "out.png").text
    assert (text["block"], text["head"], text["style"], text["model"]) == ("0", "3", style, "bundled")


def test_render_takes_mean_for_a_head_and_any_order_of_arguments(succeed, analysis, tmp_path):
    succeed("render", "--head", "mean", "--output", tmp_path / "out.png", CAT, "--block=0")
    np.testing.assert_array_equal(pixels_of(tmp_path / "out.png"), pixels_of(analysis.png(0, None)))


def test_render_replaces_an_earlier_output_and_keeps_a_link_to_it(succeed, tmp_path):
    earlier, link = tmp_path / "earlier.png", tmp_path / "link.png"
    earlier.write_bytes(b"old")
    link.symlink_to(earlier)
    succeed("render", CAT, "-o", link)
    assert link.is_symlink()
    assert pixels_of(earlier).ndim == 3
    assert sorted(tmp_path.iterdir()) == [earlier, link]


# --- figure -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "ending", "start"),
    [("heads", "png", b"\x89PNG"), ("saliency", "svg", b"<?xml"), ("saliency", "PDF", b"%PDF")],
)
def test_figure_is_written_in_the_format_of_its_ending(succeed, analysis, tmp_path, kind, ending, start):
    output = tmp_path / f"figure.{ending}"
    out = succeed("figure", CAT, "-o", output, "--kind", kind)
    assert out == f"{output}: {kind} of cat.jpg\n"
    content = output.read_bytes()
    assert content.startswith(start)
    if ending == "png":
        np.testing.assert_array_equal(pixels_of(content), pixels_of(analysis.figure(kind)))


def test_figure_takes_several_pictures_and_the_options_of_drawing(succeed, bundled, analysis, tmp_path):
    from cait_viz.analysis import draw_figure

    look = {"colormap": "grey", "interpolation": "nearest", "scale": "shared"}
    options = [part for name, value in look.items() for part in (f"--{name}", value)]
    output = tmp_path / "two.png"
    coffee = SAMPLES / "coffee.jpg"
    succeed("figure", CAT, coffee, "-o", output, "--kind", "saliency", "--block", 0, *options)
    expected = draw_figure([analysis, cait_viz.analyze(coffee, bundled)], "saliency", "png", block=0, **look)
    np.testing.assert_array_equal(pixels_of(output), pixels_of(expected))


def test_damaged_weights_are_one_line_and_no_output(run, tiny_weights, tmp_path):
    tensors = load_file(tiny_weights)
    tensors["norm.weight"][0] = np.nan
    damaged, output = tmp_path / "damaged.safetensors", tmp_path / "out.png"
    save_file(tensors, damaged)
    status, out, err = run("render", CAT, "-o", output, "--weights", damaged)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("cait-viz: damaged.safetensors: holds values that are not finite in norm.weight")
    assert not output.exists()


# --- app --------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch):
    """What the server was started with, in place of starting it."""
    started = []
    server = types.ModuleType("cait_viz.serving.state")
    server.launch = lambda options, own: started.append((options, own))
    monkeypatch.setitem(sys.modules, "cait_viz.serving.state", server)
    monkeypatch.setattr(cait_viz, "server", server, raising=False)
    return started


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], []),
        (["--port", "8502"], ["--server.port=8502"]),
        (["--host", "127.0.0.1", "--port", "80"], ["--server.port=80", "--server.address=127.0.0.1"]),
        (["--", "--server.headless", "true"], ["--server.headless", "true"]),
        (["--port=9", "--", "--theme.base=dark"], ["--server.port=9", "--theme.base=dark"]),
    ],
)
def test_app_starts_the_server_with_what_was_asked_for(run, launched, arguments, options):
    assert run("app", *arguments) == (0, "", "")
    assert launched == [(options, None)]


def test_app_offers_the_weights_that_were_given_with_their_labels(run, launched, tiny_weights, tmp_path):
    labels = tmp_path / "names.txt"
    labels.write_text("".join(f"name {index}\n" for index in range(10)))
    given = ["--weights", tiny_weights, "--labels", labels]
    assert run("app", *given, "--port", "8502", "--", "--theme.base=dark") == (0, "", "")
    [(options, own)] = launched
    assert options == ["--server.port=8502", "--theme.base=dark"]
    assert own.name == "tiny"
    assert (own.choice.weights, own.choice.labels) == (tiny_weights, labels)


def test_app_offers_weights_without_labels(run, launched, tiny_weights):
    assert run("app", "--weights", tiny_weights) == (0, "", "")
    assert [own.choice.labels for _, own in launched] == [None]


def test_app_keeps_the_server_s_own_logs(run, launched, monkeypatch):
    heard = []
    sys.modules["cait_viz.serving.state"].launch = lambda *_: heard.append(logging.root.manager.disable)
    run("app")
    assert heard == [logging.NOTSET]


# --- as a program -----------------------------------------------------------------------------------


def test_a_successful_command_says_nothing_on_standard_error(shell, tmp_path, analysis):
    picture = "-Ünïcode  name 猫.jpg"
    shutil.copy(CAT, tmp_path / picture)
    done = shell("predict", "--json", "--", picture)
    assert (done.returncode, done.stderr) == (0, b"")
    told = json.loads(done.stdout)
    assert told["image"] == picture
    assert told["predictions"][0]["label"] == analysis.predictions[0][0]


def test_render_works_from_any_folder_and_on_a_terminal_that_knows_only_ascii(
    shell, environment, tmp_path, analysis
):
    shutil.copy(CAT, tmp_path / "猫 1.jpg")
    ascii_only = environment | {"PYTHONIOENCODING": "ascii", "KERAS_BACKEND": "jax"}
    done = shell("render", "猫 1.jpg", "-o", "猫 2.png", env=ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"\\u732b 2.png: Where bundled looked in \\u732b 1.jpg")
    difference = pixels_of(tmp_path / "猫 2.png").astype(int) - pixels_of(analysis.png())
    assert abs(difference).max() <= 1  # another process may add up in another order


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_an_interrupt_while_tensorflow_starts_is_quiet(environment):
    command = [sys.executable, "-m", "cait_viz", "predict", str(CAT)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and "tensorflow" not in Path(f"/proc/{process.pid}/maps").read_text():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.communicate() == (b"", b"")
    assert process.returncode == 130


def test_a_reader_that_has_seen_enough_is_no_error(environment):
    command = [sys.executable, "-m", "cait_viz", "models"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_that_cannot_be_written_is_one_line(shell):
    with Path("/dev/full").open("wb") as full:
        done = shell("models", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert re.fullmatch(rb"cait-viz: .*No space left on device.*\n", done.stderr)


def test_closed_standard_streams_are_no_error(environment, tmp_path):
    script = 'exec "$0" -m cait_viz models <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, sys.executable], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert not list(tmp_path.iterdir())
